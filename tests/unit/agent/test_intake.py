# SPDX-License-Identifier: LGPL-2.1-or-later
"""What one agent of a process leaves to the next: outcomes that are logged meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from sanlock_helper.agent.intake import Intake
from sanlock_helper.spool import DONE, LOGGING

pytestmark = pytest.mark.pure

NAME = "6695eb01-f6a4-8304-79aa-97f2502e193f.pause.0000001000000000-7"
OTHER = "6695eb01-f6a4-8304-79aa-97f2502e193e.pause.0000001000000000-8"


class Requests:
    """A spool with these files."""

    ignored: frozenset[str] = frozenset()

    def __init__(self, *names: str) -> None:
        self.found = list(names)

    def names(self, known: Any = ()) -> list[str]:
        return [name for name in self.found if name not in known]


STEPS = {NAME, NAME + DONE, NAME + LOGGING}


@pytest.mark.parametrize("there", [[], [NAME], [NAME + DONE], [NAME + LOGGING]])
def test_what_was_served_is_known_by_the_names_of_its_next_steps(there: list[str]) -> None:
    requests: Any = Requests(*there)
    intake = Intake(requests, None, lambda: 0.0)  # type: ignore[arg-type]
    intake.expect(NAME)
    # The journal's thread may rename it at any moment, also while the spool is read.
    assert intake.left() >= {NAME + DONE, NAME + LOGGING}


@pytest.mark.parametrize("step", ["", DONE, LOGGING])
def test_what_was_known_before_is_known_while_it_is_there(step: str) -> None:
    requests: Any = Requests(NAME + step)
    before = {*STEPS, OTHER, OTHER + LOGGING}
    intake = Intake(requests, None, lambda: 0.0, before)  # type: ignore[arg-type]
    assert intake.left() == STEPS


class Vanishing(Requests):
    """A request that its process removes between the listing and the read, and writes anew."""

    def read(self, name: str) -> None:
        return None

    def is_done_by_another(self, name: str) -> bool:
        return False


@pytest.mark.parametrize("is_ignored", [False, True])
def test_a_request_that_went_is_read_when_it_comes_again(is_ignored: bool) -> None:
    """But not one that was served and cannot be renamed."""
    requests: Any = Vanishing(NAME)
    intake = Intake(requests, None, lambda: 0.0)  # type: ignore[arg-type]
    read: list[str] = []
    requests.read = read.append
    requests.ignored = {NAME} if is_ignored else set()
    for _ in range(2):
        intake.read_anew()
        intake.take(lambda found: None)
    assert read == [NAME] * (1 if is_ignored else 2)


def test_a_spool_that_has_changed_is_read_however_lately_it_was_read() -> None:
    requests: Any = Requests()
    reads: list[int] = []
    intake = Intake(requests, None, lambda: 0.0)  # type: ignore[arg-type]
    for is_new in (False, False, True):
        if is_new:
            intake.read_anew()
        intake.take(lambda found: reads.append(len(found)))
    assert len(reads) == 2

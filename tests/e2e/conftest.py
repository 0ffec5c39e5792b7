# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixtures of the end-to-end tests: `stack`, `stacks` to make several, `calm` to share one."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import Callable

import pytest

from .preconditions import require_machine
from .stack import Stack
from .testdriver import TestDomains

StackFactory = Callable[..., Stack]
Maker = Callable[[int], TestDomains]

_STACKS = pytest.StashKey[Iterable[Stack]]()


@pytest.fixture
def machine() -> None:
    """For tests that start their stacks themselves: a machine that can run them."""
    require_machine()


@pytest.fixture(scope="module")
def calm() -> Iterator[Stack]:
    """A Stack that a module's tests share: they must leave it as they found it."""
    require_machine()
    with Stack() as stack:
        yield stack


@pytest.fixture
def stacks(request: pytest.FixtureRequest) -> Iterator[StackFactory]:
    """A function that starts a Stack with the given options; all end with the test."""
    require_machine()
    made: list[Stack] = []
    request.node.stash[_STACKS] = made

    def make(io_timeout: int = 1, grace: int = 40, on_disk: bool = False, daemon: str | None = None) -> Stack:
        stack = Stack(io_timeout, grace, on_disk, daemon)
        made.append(stack)
        stack.start()
        return stack

    try:
        yield make
    finally:
        for stack in made:
            stack.close()


@pytest.fixture
def stack(stacks: StackFactory) -> Stack:
    """One Stack with libvirt's own helper installed."""
    return stacks()


@pytest.fixture
def monolithic(stacks: StackFactory) -> Stack:
    """A Stack with libvirtd, whichever daemon the run is for: libvirt's test driver is in it alone."""
    return stacks(daemon="libvirtd")


def _stacks_of(item: pytest.Item) -> list[Stack]:
    made = list(item.stash.get(_STACKS, ()))
    shared = getattr(item, "funcargs", {}).get("calm")
    return [*made, shared] if shared else made


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.CallInfo[None], None]:
    """Show the daemons' logs with a failure of the test itself, while they are there."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed and report.when == "call":
        for number, stack in enumerate(_stacks_of(item)):
            if stack.is_open():
                report.sections.append((f"stack {number}", stack.report()))


@pytest.fixture
def domains(monolithic: Stack) -> Iterator[Maker]:
    """A function that makes so many running domains of libvirtd's test driver."""
    made: list[TestDomains] = []

    def make(number: int) -> TestDomains:
        made.append(TestDomains(monolithic, number))
        return made[-1]

    yield make
    for one in made:
        one.close()

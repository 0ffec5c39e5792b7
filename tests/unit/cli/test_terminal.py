# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tables, colour, timeouts, and checks that cannot read."""

from __future__ import annotations

import io
import threading
import time

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.checks.facts import Facts, HostPaths
from sanlock_helper.checks.finding import Finding
from sanlock_helper.checks.registry import Check
from sanlock_helper.cli.tables import table
from sanlock_helper.cli.terminal import is_colourful, plain
from sanlock_helper.cli.wrapping import plain_text
from sanlock_helper.errors import PermanentError, TransientError
from sanlock_helper.threads import within
from sanlock_helper.timestamps import iso


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environ", "colourful"),
    [
        (Terminal(), {"TERM": "xterm"}, True),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": ""}, True),
        (Terminal(), {"TERM": "dumb"}, False),
        (Terminal(), {}, False),
        (io.StringIO(), {"TERM": "xterm"}, False),
    ],
)
def test_colour(stream: io.StringIO, environ: dict[str, str], colourful: bool) -> None:
    assert is_colourful(stream, environ) is colourful


def test_names_cannot_break_a_table() -> None:
    assert plain("a\nb\x1b[2J\udcff é") == "a\\nb\\x1b[2J\\udcff é"
    lines = [plain_text(each) for each in table(("NAME", "X"), [("a\nb", "1"), ("longer", "2")])]
    assert lines == [["NAME    X"], ["a\\nb    1"], ["longer  2"]]


def test_times_for_programs_are_utc() -> None:
    assert iso(1795379418.0045) == "2026-11-22T20:30:18.004Z"


def test_patience() -> None:
    assert within(5, "add", lambda: 1 + 1) == 2
    with pytest.raises(PermanentError, match="look: no"):
        within(5, "x", lambda: _raise(PermanentError("look", "no")))
    start = time.monotonic()
    release = threading.Event()
    with pytest.raises(TransientError, match=r"hang: no answer within 0\.1 s"):
        within(0.1, "hang", release.wait)
    assert time.monotonic() - start < 3
    release.set()


def _raise(error: BaseException) -> tuple[str]:
    raise error


def _found(text: str) -> Finding:
    return Finding("", "pass", text)


def test_a_check_that_cannot_be_made_is_a_warning() -> None:
    release = threading.Event()

    def hang() -> tuple[str]:
        release.wait()
        return ("never",)

    refused = PermanentError("ask sanlock", "it does not answer", "start it")
    checks = [
        Check("helper", "an answer", lambda _facts: _raise(refused), _found),
        Check("must", "an answer", lambda _facts: _raise(refused), _found, unread="fail"),
        Check("os", "", lambda _facts: _raise(PermissionError(13, "Permission denied", "/x")), _found),
        Check("defect", "", lambda _facts: _raise(KeyError("Uid")), _found),
        Check("hang", "", lambda _facts: hang(), _found),
        Check("good", "", lambda _facts: ("yes",), _found),
    ]
    findings = [check.run(Facts(HostPaths(), uid=0), seconds=0.2) for check in checks]
    release.set()
    assert [finding.verdict for finding in findings] == ["warn", "fail", "warn", "warn", "warn", "pass"]
    assert [finding.name for finding in findings] == [check.name for check in checks]
    assert findings[0].found == "not checked: ask sanlock: it does not answer"
    assert (findings[0].wanted, findings[0].remedy) == ("an answer", "start it")
    assert (findings[1].found, findings[1].wanted) == ("ask sanlock: it does not answer", "an answer")
    assert "/x" in findings[2].found
    assert "KeyError" in findings[3].found
    assert "no answer within 0.2 s" in findings[4].found

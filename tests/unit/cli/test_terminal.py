# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tables, colour, patience, and checks that cannot look."""

from __future__ import annotations

import io
import threading
import time

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.checks.finding import Finding
from sanlock_helper.checks.plan import Check, run_checks
from sanlock_helper.cli.terminal import is_colourful, iso, plain, table
from sanlock_helper.errors import PermanentError, TransientError
from sanlock_helper.threads import within


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
    assert table(("NAME", "X"), [("a\nb", "1"), ("longer", "2")]) == ["NAME    X", "a\\nb    1", "longer  2"]


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


def _raise(error: BaseException) -> Finding:
    raise error


def test_a_check_that_cannot_look_is_a_warning() -> None:
    release = threading.Event()

    def hang() -> Finding:
        release.wait()
        return Finding("never", "pass", "")

    checks = [
        Check("helper", lambda: _raise(PermanentError("ask sanlock", "it does not answer", "start it"))),
        Check("os", lambda: _raise(PermissionError(13, "Permission denied", "/x"))),
        Check("defect", lambda: _raise(KeyError("Uid"))),
        Check("hang", hang),
        Check("good", lambda: Finding("good", "pass", "yes")),
    ]
    findings = list(run_checks(checks, seconds=0.2))
    release.set()
    assert [finding.verdict for finding in findings] == ["warn", "warn", "warn", "warn", "pass"]
    assert findings[0].found == "not looked at: ask sanlock: it does not answer"
    assert findings[0].remedy == "start it"
    assert "/x" in findings[1].found
    assert "KeyError" in findings[2].found
    assert "no answer within 0.2 s" in findings[3].found

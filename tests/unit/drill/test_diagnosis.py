# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which link of a drill broke, by what was observed: each kind of sign, with and without a journal."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.drill.diagnosis import Diagnosis, Observed, RunningSanlock
from sanlock_helper.drill.helper_run import LoggedLine, Signs
from sanlock_helper.drill.links import NAMES, Link, completed, first_broken
from sanlock_helper.errors import AuthenticationError, HelperError, TransientError
from sanlock_helper.install.executable import C_HELPER

PATH = "/usr/lib/libvirt/libvirt_sanlock_helper"
DONE = LoggedLine("done", "done after 0.04 s: found running, suspended, verified paused, no lease held")
TRY = LoggedLine("attempt-failed", "try 1 failed: connect to qemu:///system: no; trying again, 30.0 s left")
FELL_BACK = LoggedLine(
    "", "this program failed: ModuleNotFoundError: No module named 'x'; the stock one takes over"
)

SAFE: dict[str, Any] = {"goal": True, "state": "paused (user)", "seconds": 0.2, "leases": 0}
RUNS: dict[str, Any] = {"state": "running (booted)", "leases": 1}


def diagnose(
    signs: Signs,
    why: str = "",
    error: HelperError | None = None,
    grace: int | None = 40,
    is_guest: bool = True,
    **observed: Any,
) -> list[Link]:
    action = "pause" if is_guest else "ignore"
    seen = Observed(is_guest, action, signs, **observed)
    sanlock = RunningSanlock(PATH, "/proc/5/root" + PATH, grace=grace)
    return Diagnosis(seen, sanlock, lambda: error, lambda _: why).links()


def broken(links: list[Link]) -> tuple[str, str, str]:
    found = first_broken(links)
    return ("", "", "") if found is None else (found.name, found.found, found.remedy)


def verdicts(links: list[Link]) -> list[str]:
    return [link.verdict for link in links]


def test_a_request_or_a_line_proves_that_it_was_ours() -> None:
    for signs in (Signs(request=79), Signs(lines=(DONE,)), Signs(True, 79, 5.0, (DONE,))):
        # Whatever the file is by now.
        links = diagnose(signs, why="is not there", **SAFE)
        assert verdicts(links) == ["pass"] * 5
        assert links[3].found == "paused (user), 0.20 s after the loss"


@pytest.mark.parametrize(
    ("why", "remedy"),
    [
        ("is not executable", f"chmod 755 {PATH}"),
        ("is not there", "virt-sanlock-helper install-check has the next step"),
        ("does not run: its interpreter /x is not there", "install python3"),
        ("cannot be read: Permission denied", "virt-sanlock-helper install-check"),
    ],
)
def test_a_helper_that_cannot_run_breaks_the_link_of_its_run(why: str, remedy: str) -> None:
    # exec() opens a script before it fails for want of the interpreter.
    for opened in (False, True):
        links = diagnose(Signs(opened), why=why, **RUNS)
        name, found, mend = broken(links)
        assert (name, found) == ("helper run", f"{PATH} {why}")
        assert mend.startswith(remedy)
        assert verdicts(links) == ["fail", "skipped", "skipped", "fail", "fail"]


@pytest.mark.parametrize("why", [C_HELPER, "is another program: x"])
@pytest.mark.parametrize("state", [SAFE, RUNS])
def test_another_helper_breaks_the_next_link_whether_it_made_the_vm_safe_or_not(
    why: str, state: dict[str, Any]
) -> None:
    links = diagnose(Signs(True), why=why, **state)
    assert broken(links)[:2] == ("helper is ours", f"{PATH} {why}")
    assert links[0].verdict == "pass"
    assert links[2].verdict == "skipped"


def test_the_executable_that_became_libvirts_own_is_not_ours() -> None:
    by_journal = diagnose(Signs(True, lines=(FELL_BACK,)), **SAFE)
    name, found, remedy = broken(by_journal)
    assert (name, remedy) == ("helper is ours", "reinstall virt-sanlock-helper")
    assert found == f"{PATH}: {FELL_BACK.text}"
    # Without a journal, by what the file does.
    assert (
        broken(diagnose(Signs(True), why="does not run: ModuleNotFoundError", **SAFE))[0] == "helper is ours"
    )


def test_a_helper_of_ours_without_any_sign() -> None:
    name, found, _ = broken(diagnose(Signs(), **RUNS))
    assert (name, found) == ("helper run", f"sanlock did not run {PATH} in time")
    name, found, remedy = broken(diagnose(Signs(), grace=0, **RUNS))
    assert (name, "kill_grace_seconds is 0" in found) == ("helper run", True)
    assert remedy == "virt-sanlock-helper check has the setting"
    name, found, _ = broken(diagnose(Signs(True), **RUNS))
    assert (name, "neither a request" in found) == ("helper is ours", True)


def test_libvirtd_that_is_not_reached() -> None:
    error = TransientError(
        "connect to qemu:///system", "Connection refused", "systemctl start libvirtd.socket"
    )
    name, found, remedy = broken(diagnose(Signs(request=79), error=error, **RUNS))
    assert (name, remedy) == ("libvirtd reached", "systemctl start libvirtd.socket")
    assert found == "connect to qemu:///system: Connection refused"
    refused = AuthenticationError("connect to qemu:///system", "authentication failed")
    links = diagnose(Signs(request=79, lines=(TRY,)), error=refused, **RUNS)
    name, found, remedy = broken(links)
    assert (name, remedy) == ("libvirtd reached", "virt-sanlock-helper check")
    assert found.endswith(f"authentication failed; it logged: {TRY.text}")
    # What the helper could do and did not reach is the state's link.
    links = diagnose(Signs(request=79, lines=(TRY,)), **RUNS)
    assert broken(links)[:2] == ("state reached", "it is running (booted), not paused")
    assert links[2].found == TRY.text


def test_what_is_not_known_is_never_safe() -> None:
    links = diagnose(Signs(request=79), why_not="no answer within 2 s")
    assert verdicts(links)[3:] == ["fail", "fail"]
    assert links[3].found == "its state is not known: no answer within 2 s"
    assert links[4].found == "sanlock could not be asked"
    assert broken(diagnose(Signs(request=79), **{**SAFE, "leases": 1}))[0] == "lease given up"
    assert broken(diagnose(Signs(request=79), **{**SAFE, "leases": None}))[0] == "lease given up"


def test_a_process_in_the_place_of_a_machine() -> None:
    links = diagnose(Signs(True), is_guest=False, goal=True, leases=0)
    assert verdicts(links) == ["pass", "pass", "not tried", "not tried", "pass"]
    links = diagnose(Signs(True), why=C_HELPER, is_guest=False, goal=True, leases=0)
    assert broken(links)[0] == "helper is ours"
    links = diagnose(Signs(True), why="does not run: x", is_guest=False, goal=True, leases=0)
    assert broken(links)[0] == "helper run"
    assert broken(diagnose(Signs(), is_guest=False, leases=0))[0] == "helper run"


def test_links_that_nothing_is_known_of_are_skipped() -> None:
    links = completed([Link("lease held", "fail", "x")])
    assert [link.name for link in links] == list(NAMES)
    assert [link.number for link in links] == list(range(1, 9))
    assert [link.verdict for link in links] == ["skipped", "fail", *["skipped"] * 6]

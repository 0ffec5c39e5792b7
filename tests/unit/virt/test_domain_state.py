# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which states of a domain last: over all that libvirt has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

libvirt = pytest.importorskip("libvirt")

from sanlock_helper.virt.domain_state import describe, ends_by_itself, is_administrators_pause, state_name  # noqa: E402

HELPER = Path(__file__).parents[3] / "helper"

# Every virDomainPausedReason of libvirt 11: its number, its name in libvirt-python, virsh's words, and
# whether the pause ends by itself.
PAUSED = [
    (0, "UNKNOWN", "paused", False),
    (1, "USER", "paused (user)", False),
    (2, "MIGRATION", "paused (migrating)", True),
    (3, "SAVE", "paused (saving)", True),
    (4, "DUMP", "paused (dumping)", True),
    (5, "IOERROR", "paused (I/O error)", False),
    (6, "WATCHDOG", "paused (watchdog)", False),
    (7, "FROM_SNAPSHOT", "paused (from snapshot)", False),
    (8, "SHUTTING_DOWN", "paused (shutting down)", True),
    (9, "SNAPSHOT", "paused (creating snapshot)", True),
    (10, "CRASHED", "paused (crashed)", False),
    (11, "STARTING_UP", "paused (starting up)", True),
    (12, "POSTCOPY", "paused (post-copy)", True),
    (13, "POSTCOPY_FAILED", "paused (post-copy failed)", False),
    (14, "API_ERROR", "paused (api error)", False),
]

# The other states, with the reasons that they have.
OTHERS = [
    ("NOSTATE", ["UNKNOWN"], "no state", False),
    ("BLOCKED", ["UNKNOWN"], "idle", False),
    ("SHUTDOWN", ["UNKNOWN", "USER"], "in shutdown", True),
    (
        "SHUTOFF",
        ["UNKNOWN", "DESTROYED", "CRASHED", "FAILED", "SAVED", "MIGRATED", "DAEMON"],
        "shut off",
        False,
    ),
    ("CRASHED", ["UNKNOWN", "PANICKED"], "crashed", False),
    ("PMSUSPENDED", ["UNKNOWN"], "pmsuspended", False),
    ("RUNNING", ["UNKNOWN", "BOOTED", "UNPAUSED", "POSTCOPY_FAILED"], "running", False),
]


@pytest.mark.parametrize(("reason", "name", "words", "passes"), PAUSED)
def test_each_reason_of_a_pause(reason: int, name: str, words: str, passes: bool) -> None:
    assert getattr(libvirt, f"VIR_DOMAIN_PAUSED_{name}", reason) == reason
    assert describe(libvirt.VIR_DOMAIN_PAUSED, reason) == words
    assert ends_by_itself(libvirt.VIR_DOMAIN_PAUSED, reason) is passes
    administrators = name in ("USER", "FROM_SNAPSHOT")
    assert is_administrators_pause(libvirt.VIR_DOMAIN_PAUSED, reason) is administrators


@pytest.mark.parametrize(("state", "reasons", "words", "passes"), OTHERS)
def test_each_other_state(state: str, reasons: list[str], words: str, passes: bool) -> None:
    number = getattr(libvirt, f"VIR_DOMAIN_{state}")
    assert state_name(number) == words
    for reason in reasons:
        value = getattr(libvirt, f"VIR_DOMAIN_{state}_{reason}")
        assert ends_by_itself(number, value) is passes
        assert not is_administrators_pause(number, value)
        assert describe(number, value).startswith(words)


def test_every_reason_that_this_libvirt_names_has_virshs_word_for_it() -> None:
    for state in ("RUNNING", "PAUSED", "SHUTOFF", "CRASHED", "SHUTDOWN"):
        prefix = f"VIR_DOMAIN_{state}_"
        reasons = {name: value for name, value in vars(libvirt).items() if name.startswith(prefix)}
        assert reasons
        for name, value in reasons.items():
            # The flags of virDomainShutdownFlags() have names that begin alike.
            if not name.endswith("LAST") and (state != "SHUTDOWN" or value < 2):
                assert "reason" not in describe(getattr(libvirt, f"VIR_DOMAIN_{state}"), value), name


def test_a_reason_of_a_newer_libvirt_is_no_pause_that_lasts() -> None:
    assert ends_by_itself(libvirt.VIR_DOMAIN_PAUSED, 15)
    assert ends_by_itself(libvirt.VIR_DOMAIN_PAUSED, -1)
    assert not is_administrators_pause(libvirt.VIR_DOMAIN_PAUSED, 15)
    assert describe(libvirt.VIR_DOMAIN_PAUSED, 15) == "paused (reason 15)"
    assert describe(99, 3) == "state 99 (reason 3)"
    assert not ends_by_itself(99, 3)


def test_it_imports_libvirt_and_nothing_else() -> None:
    probe = (
        "import sys, libvirt; sys.path.insert(0, sys.argv[1])\n"
        "import sanlock_helper; before = set(sys.modules)\n"
        "import sanlock_helper.virt.domain_state; print(*set(sys.modules) - before)"
    )
    command = [sys.executable, "-IB", "-c", probe, str(HELPER)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert set(found) <= {"sanlock_helper.virt", "sanlock_helper.virt.domain_state", "__future__"}

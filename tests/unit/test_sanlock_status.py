# SPDX-License-Identifier: LGPL-2.1-or-later
"""sanlock's answer is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from sanlock_helper.sanlock_status import SanlockUnknownError, ask_sanlock, parse_status

pytestmark = pytest.mark.pure

ANSWER = r"""daemon host1
    our_host_name=host1
    use_watchdog=0
    kill_grace_seconds=40
    version_str=3.8.5
p -1 helper
    ci=0
p 60 vm1
    kill_count=0
s __LIBVIRT__DISKS__:1:/var/lib/libvirt/sanlock/__LIBVIRT__DISKS__:0
    io_timeout=1
    space_dead=0
    killing_pids=0
s other:3:/path\:with/colon:1048576 ADD
    io_timeout=20
    killing_pids=1
r __LIBVIRT__DISKS__:b9e9:/var/lib/libvirt/sanlock/b9e9:0:1 p 60
    flags=0
r other:x:/path\:with/colon:2097152:SH p 61 ADD
"""


def test_settings_lockspaces_and_leases() -> None:
    status = parse_status(ANSWER)
    assert (status.number("kill_grace_seconds"), status.number("watchdog_fire_timeout")) == (40, None)
    assert status.number("our_host_name") is None
    disks = status.lockspace("__LIBVIRT__DISKS__")
    other = status.lockspace("other")
    assert disks is not None
    assert other is not None
    assert (disks.host_id, disks.io_timeout, disks.lost) == (1, 1, False)
    assert (other.host_id, other.path, other.offset, other.lost) == (3, "/path:with/colon", 1048576, True)
    assert [lease.resource for lease in status.held_by(60)] == ["b9e9"]
    assert [lease.path for lease in status.held_by(61)] == ["/path:with/colon"]
    assert status.held_by(None) == []
    assert status.lockspace("none") is None


def program(path: Path, text: str) -> tuple[str]:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return (str(path),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("echo 'no daemon' >&2; exit 1", "no daemon"),
        ("exit 3", "status 3"),
        ("sleep 5", "no answer within 0.2 s"),
    ],
)
def test_a_daemon_that_does_not_answer(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SanlockUnknownError, match=words):
        ask_sanlock(program(tmp_path / "sanlock", text), seconds=0.2)


def test_sanlock_is_not_installed(tmp_path: Path) -> None:
    with pytest.raises(SanlockUnknownError, match="install sanlock"):
        ask_sanlock((str(tmp_path / "missing"),))

# SPDX-License-Identifier: LGPL-2.1-or-later
"""sanlock's answer is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanlock_helper.leases.sanlock_status import SanlockUnknownError, ask_sanlock, parse_status

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


SPACES = """\
s LS:1:/LS:0
    list=spaces
s LS:a:1:/LSa:0
    list=spaces
"""


@pytest.mark.parametrize(
    ("line", "names", "path", "offset"),
    [
        (r"r LS:plain:/p:0:1 p 60", ("LS", "plain"), "/p", 0),
        (r"r LS:pool:vm:/p:1048576:12 p 60", ("LS", "pool:vm"), "/p", 1048576),
        (r"r LS::lead:/p:0:1 p 60", ("LS", ":lead"), "/p", 0),
        (r"r LS:trail::/p:0:1 p 60", ("LS", "trail:"), "/p", 0),
        (r"r LS:a:b:/p:0:1 p 60", ("LS:a", "b"), "/p", 0),
        (r"r LS:ab:b:/p:0:1 p 60", ("LS", "ab:b"), "/p", 0),
        (r"r other:a:b:/p:0:1 p 60", ("other", "a:b"), "/p", 0),
        (r"r LS:a blank p 7:/p:0:1 p 60", ("LS", "a blank p 7"), "/p", 0),
        (r"r LS:1:2:/p:0:SH p 60", ("LS", "1:2"), "/p", 0),
        (r"r LS:back\:/p:0:1 p 60", ("LS", "back\\"), "/p", 0),
        (r"r LS:x:/a\ b\:c:5:1 p 60", ("LS", "x"), "/a b:c", 5),
        (r"r LS:x:/a\b:5:1 p 60", ("LS", "x"), r"/a\b", 5),
        (r"r LS:x:/p:5:/p:0:1 p 60", ("LS", "x:/p:5"), "/p", 0),
        (rf"r LS:po:ol:/a{'a' * 50}:7:/b\ c:1:3 p 60 ADD", ("LS", "po:ol"), "/a" + "a" * 50, 7),
        ("r LS:line\nbreak:/p:0:1 p 60", ("LS", "line\nbreak"), "/p", 0),
        ("r LS:two\n\nbreaks:/p:0:1 p 60", ("LS", "two\n\nbreaks"), "/p", 0),
        ("r LS:\x85\u2028:/p:0:1 p 60", ("LS", "\x85\u2028"), "/p", 0),
        # Not read, and held all the same.
        (r"r LS:x:nothing p 60", ("?", "?"), "", 0),
        (r"r  p 60", ("?", "?"), "", 0),
        (r"r LS:x:/end\:0:1 p 60", ("?", "?"), "", 0),
    ],
)
def test_a_lease_is_read_from_its_end(line: str, names: tuple[str, str], path: str, offset: int) -> None:
    after = "r LS:next:/next:0:1 p 61\n    flags=0\n"
    status = parse_status(f"{SPACES}{line}\n    list=held\n{after}")
    (lease,) = status.held_by(60)
    assert ((lease.lockspace, lease.resource), lease.path, lease.offset) == (names, path, offset)
    # Whatever it is, it spoils nothing.
    assert [lease.resource for lease in status.held_by(61)] == ["next"]
    assert [space.name for space in status.lockspaces] == ["LS", "LS:a"]


@pytest.mark.parametrize(
    "line", ["r nothing", "s nothing", "s :::", "r", "s", "x LS:1:/p:0", "", "r LS:a:/p:0:1 p", "r LS:\nx"]
)
def test_a_line_that_is_none_spoils_nothing(line: str) -> None:
    status = parse_status(f"daemon host1\n    kill_grace_seconds=40\n{line}\n{SPACES}r LS:b:/p:0:1 p 60\n")
    assert [space.name for space in status.lockspaces] == ["LS", "LS:a"]
    assert [lease.resource for lease in status.leases] == ["b"]
    assert status.number("kill_grace_seconds") == 40


def test_lockspaces_with_odd_names() -> None:
    text = "s a:b:2:/p:0\ns 1:2:3:/p\\ q:4 REM\ns line\nbreak:1:/p:0 ADD\ns x:1:/y:2:/z:0\n"
    found = [(space.name, space.host_id, space.path, space.state) for space in parse_status(text).lockspaces]
    assert found == [
        ("a:b", 2, "/p", ""),
        ("1:2", 3, "/p q", "REM"),
        ("line\nbreak", 1, "/p", "ADD"),
        ("x:1:/y", 2, "/z", ""),
    ]


@pytest.mark.parametrize(
    ("text", "joined"),
    [
        ("s LS:1:/LS:0\n    list=spaces\n", True),
        ("s LS:1:/LS:0\n", True),
        ("s LS:1:/LS:0 ADD\n    list=add\n", False),
        ("s LS:1:/LS:0\n    list=add\n", False),
        ("s LS:1:/LS:0 REM\n    list=rem\n", False),
    ],
)
def test_a_lockspace_on_its_way_is_not_joined(text: str, joined: bool) -> None:
    (space,) = parse_status(text).lockspaces
    assert space.joined == joined


def test_what_a_process_has_given_up_is_not_held() -> None:
    lines = [f"r LS:{state}:/p:0:1 p 60 {state}".rstrip() for state in ("", "ADD", "REM", "ORPHAN")]
    held = parse_status("\n".join(lines)).held_by(60)
    assert [lease.state for lease in held] == ["", "ADD"]


@given(st.binary(max_size=300))
def test_no_answer_makes_it_fail(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    for before in ("", "r ", "s ", "r LS:", "daemon "):
        parse_status(f"{before}{text}")
        parse_status(f"{SPACES}{before}{text}\n{SPACES}")

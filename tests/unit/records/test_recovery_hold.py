# SPDX-License-Identifier: LGPL-2.1-or-later
"""Recovery held: a file beside the records."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sanlock_helper.records import recovery_hold
from sanlock_helper.records.directory import RecordDirectory
from sanlock_helper.records.recovery_hold import Hold
from sanlock_helper.timestamps import moment

pytestmark = pytest.mark.pure

HELPER = Path(recovery_hold.__file__).parents[2]


def test_begin_and_end(tmp_path: Path) -> None:
    hold = Hold(f"{tmp_path}/state")
    assert (hold.since(), hold.end()) == (None, False)
    assert hold.begin()
    since = hold.since()
    assert since is not None
    os.utime(hold.path, (5.0, 5.0))
    # Held already: since then.
    assert not hold.begin()
    assert hold.since() == 5.0
    status = os.stat(hold.path)
    assert (stat.S_IMODE(status.st_mode), status.st_size) == (0o600, 0)
    # It is no record.
    assert RecordDirectory(f"{tmp_path}/state").uuids() == []
    assert (hold.end(), hold.end(), hold.since()) == (True, False, None)


@pytest.mark.parametrize("kind", ["link", "directory", "fifo"])
def test_whatever_is_there_holds(tmp_path: Path, kind: str) -> None:
    (tmp_path / "state").mkdir(0o700)
    path = tmp_path / "state" / "hold"
    if kind == "link":
        path.symlink_to("/nowhere")
    elif kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    hold = Hold(f"{tmp_path}/state")
    assert hold.since() is not None
    assert not hold.begin()
    assert (hold.end(), hold.since(), hold.end()) == (True, None, False)


def test_a_directory_with_something_in_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(0o700)
    (tmp_path / "state/hold").mkdir()
    (tmp_path / "state/hold/something").touch()
    hold = Hold(f"{tmp_path}/state")
    with pytest.raises(OSError, match="Directory not empty") as raised:
        hold.end()
    assert raised.value.filename == hold.path
    assert hold.since() is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
@pytest.mark.parametrize("is_held", [True, False])
def test_on_a_read_only_disk(tmp_path: Path, is_held: bool) -> None:
    state = tmp_path / "state"
    hold = Hold(str(state))
    assert hold.begin()
    if not is_held:
        hold.end()
    program = (
        "import sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from sanlock_helper.records.recovery_hold import Hold\n"
        "hold = Hold(sys.argv[2])\n"
        "for call in (hold.begin, hold.end):\n"
        "    try:\n"
        "        print(call())\n"
        "    except OSError as error:\n"
        "        print(error.strerror, error.filename)\n"
    )
    mount = 'mount --bind "$4" "$4" && mount -o remount,ro,bind "$4" && exec "$0" "$1" "$2" "$3" "$4"'
    words = ["unshare", "-m", "sh", "-c", mount, sys.executable, "-c", program, str(HELPER), str(state)]
    found = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    error = f"Read-only file system {hold.path}"
    # What is not there needs no removal.
    assert found == (["False", error] if is_held else [error, "False"])


def test_a_directory_that_others_may_write_to_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o777)
    hold = Hold(f"{tmp_path}/state")
    for call in (hold.since, hold.begin, hold.end):
        with pytest.raises(PermissionError, match="others may write to it"):
            call()


@pytest.mark.parametrize("since", [-1e18, 1e18, 0.0])
def test_any_time_of_a_file_has_words(since: float) -> None:
    assert moment(since)

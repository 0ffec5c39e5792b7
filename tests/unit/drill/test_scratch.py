# SPDX-License-Identifier: LGPL-2.1-or-later
"""The names of a drill and the note of it: what a killed drill left is removed by these, and nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("libvirt")

from sanlock_helper import DRILL_UUIDS
from sanlock_helper.drill import lease_files
from sanlock_helper.drill.scratch import NAME, Note, Scratch
from sanlock_helper.errors import PermanentError
from sanlock_helper.events import is_uuid


def test_the_names_are_what_sanlock_and_libvirt_take() -> None:
    one, other = Scratch.new("/x"), Scratch.new("/x")
    assert one.run != other.run
    assert is_uuid(one.uuid)
    assert one.uuid.startswith(DRILL_UUIDS)
    assert bytes.fromhex(DRILL_UUIDS.replace("-", "")[:10]) == b"drill"
    assert len(one.name) < 48
    assert (one.folder, one.pid) == (f"/x/{NAME}", os.getpid())


def test_a_note_is_read_as_it_was_written(tmp_path: Path) -> None:
    note = Note(str(tmp_path / "state"))
    assert note.read() is None
    scratch = Scratch.new("/var/x y")
    note.write(scratch)
    assert note.read() == scratch
    assert os.stat(note.path).st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path / "state") == ["drill.json"]
    note.remove()
    assert note.read() is None


@pytest.mark.parametrize(
    "changed",
    [
        {"run": "../../etc"},
        {"run": "0123456789AB"},
        {"folder": "/etc"},
        {"folder": NAME},
        {"folder": f"/x/{NAME}/.."},
        {"pid": "1"},
        {"holder": 1.5},
        {"more": 1},
    ],
)
def test_a_note_that_names_anything_else_is_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    good = {"run": "0123456789ab", "folder": f"/x/{NAME}", "pid": 7}
    note = Note(str(tmp_path))
    Path(note.path).write_text(json.dumps(good))
    assert note.read() == Scratch(**good)  # type: ignore[arg-type]
    for text in (json.dumps({**good, **changed}), json.dumps([good]), "{", "", "[" * 100000):
        Path(note.path).write_text(text)
        with pytest.raises(PermanentError) as error:
            note.read()
        assert error.value.hint == f"rm {note.path}"


def test_a_note_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("{}")
    note = Note(str(tmp_path))
    os.symlink(tmp_path / "elsewhere", note.path)
    with pytest.raises(PermanentError):
        note.read()


def test_only_a_drills_own_files_are_removed(tmp_path: Path) -> None:
    scratch = Scratch.new(str(tmp_path))
    lease_files.remove(scratch)
    folder = Path(scratch.folder)
    folder.mkdir()
    for name in ("lockspace", "lease"):
        (folder / name).write_text("x")
    lease_files.remove(scratch)
    assert os.listdir(tmp_path) == []
    folder.mkdir()
    (folder / "anything").write_text("x")
    with pytest.raises(OSError, match="not empty"):
        lease_files.remove(scratch)
    assert os.listdir(folder) == ["anything"]
    # A link in its place leads nowhere.
    (folder / "anything").rename(tmp_path / "lease")
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(NotADirectoryError):
        lease_files.remove(scratch)
    assert (tmp_path / "lease").exists()


@pytest.mark.parametrize("what", ["file", "link", "link above", "open", "open above"])
def test_nothing_was_made_in_what_is_refused(tmp_path: Path, what: str) -> None:
    """A drill that ended there leaves nothing that the next one would have to remove first."""
    above = tmp_path / "above"
    scratch = Scratch.new(str(above))
    folder = Path(scratch.folder)
    if what == "link above":
        (tmp_path / "else").mkdir()
        above.symlink_to("else")
    else:
        above.mkdir()
    if what == "file":
        folder.touch()
    elif what == "link":
        folder.symlink_to(tmp_path)
    elif what == "open":
        folder.mkdir()
        folder.chmod(0o777)
    elif what == "open above":
        above.chmod(0o777)
    before = sorted(tmp_path.rglob("*"))
    lease_files.remove(scratch)
    assert sorted(tmp_path.rglob("*")) == before
    if what.startswith("open"):
        # What is there was made before it was opened to others, and is not forgotten.
        folder.mkdir(exist_ok=True)
        Path(scratch.lease_path).touch()
        with pytest.raises(PermissionError):
            lease_files.remove(scratch)

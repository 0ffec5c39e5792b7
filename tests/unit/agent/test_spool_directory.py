# SPDX-License-Identifier: LGPL-2.1-or-later
"""The spool's directories: what is asked for in there is done to virtual machines."""

from __future__ import annotations

import os
import posix
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import pytest

from sanlock_helper import handover as handover_module
from sanlock_helper.invocation import Invocation
from sanlock_helper.spool import Spool, SpoolError

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
NOBODY = 65534

pytestmark = [
    pytest.mark.pure,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away"),
]


def to_all(path: Path) -> None:
    path.chmod(0o777)


def to_readers(path: Path) -> None:
    path.chmod(0o755)


def to_another_user(path: Path) -> None:
    os.chown(path, NOBODY, -1)


def to_a_link(path: Path) -> None:
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


def to_a_file(path: Path) -> None:
    path.rename(path.with_suffix(".real"))
    path.write_text("")


SPOILT: dict[str, tuple[Callable[[Path], None], str]] = {
    "open to all": (to_all, "is open to others (mode 777): chmod it to 700"),
    "open to readers": (to_readers, "is open to others (mode 755): chmod it to 700"),
    "another user's": (to_another_user, "belongs to user 65534: remove it, or chown it to 0"),
    "a symbolic link": (to_a_link, "is not a directory: remove it"),
    "a file": (to_a_file, "is not a directory: remove it"),
}


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    os.close(Spool.open(str(tmp_path / "run")).directory)
    return tmp_path / "run"


@pytest.mark.parametrize("place", ["", "requests"])
@pytest.mark.parametrize("kind", SPOILT)
def test_one_that_is_not_roots_alone_is_refused(runtime: Path, kind: str, place: str) -> None:
    spoil, why = SPOILT[kind]
    spoil(runtime / place)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(SpoolError) as refused:
        Spool.open(str(runtime))
    assert str(refused.value) == f"{runtime / place} {why}"
    assert os.listdir("/proc/self/fd") == before


class Replacing(SimpleNamespace):
    """posix, and the first call of one function has something replaced right before it."""

    def __init__(self, name: str, replace: Callable[[], None]) -> None:
        super().__init__(**vars(posix))
        real = getattr(posix, name)

        def call(*arguments: Any, **options: Any) -> Any:
            setattr(self, name, real)
            replace()
            return real(*arguments, **options)

        setattr(self, name, call)


@pytest.mark.parametrize("place", ["", "requests"])
def test_one_that_is_replaced_after_it_was_checked_is_refused(
    runtime: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right before the spool is opened, another user puts a directory of its own there."""

    def replace() -> None:
        (runtime / place).rename(tmp_path / "moved")
        folder = runtime / place
        (folder if place else folder / "requests").mkdir(parents=True)
        os.chmod(folder, 0o777)
        os.chown(folder, NOBODY, -1)

    monkeypatch.setattr(handover_module, "posix", Replacing("open", replace))
    with pytest.raises(SpoolError):
        Spool.open(str(runtime))


def plant(runtime: Path) -> tuple[Spool, str, Path]:
    spool = Spool.open(str(runtime))
    name = spool.write(Invocation("qemu:///system", UUID, "poweroff"), 1000.0)
    return spool, name, runtime / "requests" / name


def test_a_request_of_another_user_is_refused(runtime: Path) -> None:
    spool, name, path = plant(runtime)
    os.chown(path, NOBODY, -1)
    with pytest.raises(SpoolError, match="belongs to user 65534"):
        spool.text(name)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_request_that_others_could_write_is_refused(runtime: Path, mode: int) -> None:
    spool, name, path = plant(runtime)
    path.chmod(mode)
    with pytest.raises(SpoolError, match=f"mode {mode:o}"):
        spool.text(name)


@pytest.mark.parametrize("lock", ["agent.lock", "agent.pid", "stand-by-0.lock"])
def test_a_lock_that_is_a_symbolic_link_is_not_followed(runtime: Path, tmp_path: Path, lock: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    before = victim.stat()
    (runtime / lock).symlink_to(victim)
    spool = Spool.open(str(runtime))
    try:
        spool.enlist()
        spool.take_place()
    except (OSError, SpoolError):
        pass
    after = victim.stat()
    assert (victim.read_text(), after.st_mtime_ns) == ("kept", before.st_mtime_ns)

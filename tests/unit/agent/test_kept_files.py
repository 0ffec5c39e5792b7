# SPDX-License-Identifier: LGPL-2.1-or-later
"""The files that are kept in memory, where what lists them fails: in an update, on a hung disk."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sanlock_helper.agent import kept_files
from sanlock_helper.agent.kept_files import KeptFiles, MemoryLockError, Renewal


class Unlocked:
    """Memory that maps nothing."""

    def __init__(self) -> None:
        self.kept = 0

    def keep(self, descriptor: int, size: int) -> int:
        self.kept += 1
        return self.kept

    def drop(self, _mapping: Any) -> None:
        self.kept -= 1


EXECUTABLE = """\
#!{python} -ISB
import sys
sys.path.insert(0, {folder!r})
from sanlock_helper import killpath
print("open", killpath.__file__)
"""


class Package:
    """An executable and the package that it runs, as KeptFiles lists them."""

    def __init__(self, folder: Path) -> None:
        self.module = folder / "sanlock_helper/killpath.py"
        self.module.parent.mkdir()
        (folder / "sanlock_helper/__init__.py").write_text("")
        self.module.write_text("import fcntl\n")
        executable = folder / "helper"
        executable.write_text(EXECUTABLE.format(python=sys.executable, folder=str(folder)))
        executable.chmod(0o755)
        self.memory = Unlocked()
        self.files = KeptFiles(self.memory, str(executable))  # type: ignore[arg-type]

    def close(self) -> None:
        for descriptor in (*self.files.held.values(), self.files.descriptor):
            os.close(descriptor)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    # What the tests before have left in memory is no agent's.
    monkeypatch.setattr(kept_files, "_resident", lambda: 0)
    package = Package(tmp_path)
    yield package
    package.close()


@pytest.mark.parametrize("text", ["raise SystemExit(3)\n", "import\n", "import none_such\n"])
def test_a_listing_that_fails_drops_nothing(package: Package, text: str) -> None:
    package.files.renew()
    before, held = package.files.paths(), dict(package.files.held)
    assert str(package.module) in before
    package.module.write_text(text)
    with pytest.raises(MemoryLockError, match="list the files"):
        package.files.renew()
    assert package.files.paths() == before
    assert package.memory.kept == len(before)
    assert package.files.held == held
    assert all(os.fstat(descriptor) for descriptor in held.values())
    package.module.write_text("import fcntl, time\n")
    package.files.renew()
    assert str(package.module) in package.files.paths()


def test_a_listing_that_hangs_drops_nothing(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    package.files.renew()
    before = package.files.paths()
    monkeypatch.setattr(kept_files, "LISTING_SECONDS", 0.2)
    package.module.write_text("import time\ntime.sleep(60)\n")
    with pytest.raises(MemoryLockError, match="no end within"):
        package.files.renew()
    assert package.files.paths() == before


@pytest.mark.parametrize("error", [MemoryLockError("no"), OSError(24, "no"), ValueError("a defect")])
def test_a_renewal_that_fails_is_not_the_last_one(error: Exception) -> None:
    class Done(BaseException):
        """The thread has nothing to do."""

    class Files:
        descriptor = -1
        renewals = 0

        def renew(self) -> None:
            self.renewals += 1
            raise error

    def wake() -> None:
        raise Done

    runs: list[Any] = []
    files, now = Files(), [0.0]
    renewal = Renewal(files, lambda: now[0], lambda run, _arguments: runs.append(run), wake)  # type: ignore[arg-type]
    renewal.changed()
    for number in (1, 2, 3):
        wait = renewal.update()
        # After the last change first, and then by itself.
        assert wait == (kept_files.SETTLE_SECONDS if number == 1 else kept_files.RETRY_SECONDS)
        now[0] += wait
        assert renewal.update() is None
        with pytest.raises(Done):
            runs[0]()
        assert (files.renewals, renewal.waits) == (number, True)

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run the suite, or a command, in the root of another Debian: `make matrix`."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.daemons import DAEMON

from . import debian
from .cache import Cache, default_folder, digest
from .root import Root

# On disk: a root is larger than some machines' memory, and sanlock's storage may be below it.
WORK = "/var/tmp"
PREFIX = "virt-sanlock-helper-matrix-"


@contextmanager
def work_folder() -> Iterator[Path]:
    """A folder of this run; those that killed runs have left are removed."""
    for stale in Path(WORK).glob(f"{PREFIX}*"):
        if not Path("/proc", stale.name[len(PREFIX) :].split("-")[0]).exists():
            shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-", dir=WORK) as folder:
        yield Path(folder)


def log(line: str) -> None:
    """Print what takes long, in front of the output of what is run."""
    print(f"matrix: {line}", flush=True)


class Roots:
    """The roots of one suite, from the cache where they are there."""

    def __init__(self, suite: str, work: Path, cache: Cache) -> None:
        self._suite = suite
        self._work = work
        self._cache = cache
        self._names = (suite.encode(), platform.machine().encode())
        self._key = digest([*self._names, *debian.inputs()])

    def plain(self) -> Root:
        """The distribution's own."""
        target = self._work / "root"
        self._cache.unpack(self._suite, self._key, lambda made: debian.make_root(self._suite, made), target)
        return Root(target)

    def add_modular(self, root: Root) -> None:
        """Put virtqemud and virtproxyd into ROOT."""
        target = self._work / "modular"
        key = digest([*self._names, *debian.modular_inputs(root.folder)])
        self._cache.unpack(f"{self._suite}-modular", key, self._make_modular, target)
        for program in target.iterdir():
            shutil.copy(program, root.folder / "usr/sbin")

    def _make_modular(self, made: Path) -> None:
        target = self._work / "build"
        self._cache.unpack(self._suite, self._key, lambda made: debian.make_root(self._suite, made), target)
        debian.make_modular(Root(target), made)
        shutil.rmtree(target)


def bring_checkout(root: Root, work: Path) -> None:
    """Put the files of this checkout, as they are now, at SOURCE, where the virtual environment is."""
    subprocess.run([str(debian.CHECKOUT / "packaging/make-source"), str(work / "source")], check=True)
    (archive,) = (work / "source").glob("*.tar.gz")
    source = root.folder / debian.SOURCE[1:]
    subprocess.run(["tar", "-xf", str(archive), "-C", str(source), "--strip-components=1"], check=True)
    # Its inputs are those of the root's key.
    (source / ".venv/.done").touch()


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python3 -m tests.matrix", description=__doc__)
    made.add_argument("--root", default="trixie", metavar="SUITE", help="Debian's suite (default: trixie)")
    made.add_argument("--daemon", default="libvirtd", choices=["libvirtd", "virtqemud"])
    made.add_argument("--without", default=[], action="append", metavar="PACKAGE", help="removed before")
    made.add_argument("command", nargs="*", help="run in the checkout (default: make unit integration e2e)")
    return made


def main() -> int:
    """Have the root, change it as asked, run the command; returns its status."""
    options = parser().parse_args()
    if os.geteuid() != 0:
        print("tests.matrix: not root: it mounts, and sanlock needs root: run it with sudo", file=sys.stderr)
        return 2
    # As Ctrl-C does: the work folder is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with work_folder() as work:
        roots = Roots(options.root, work, Cache(default_folder(os.environ), log))
        root = roots.plain()
        if options.daemon == "virtqemud":
            roots.add_modular(root)
        for package in options.without:
            root.must("dpkg", "--purge", "--force-depends", package)
        bring_checkout(root, work)
        command = options.command or ["make", "unit", "integration", "e2e"]
        log(f"{options.root}, {options.daemon}: {' '.join(command)}")
        enter = ("sh", "-c", f'cd {debian.SOURCE} && exec "$@"', "sh")
        return root.run(*enter, *command, env={DAEMON: options.daemon})


if __name__ == "__main__":
    sys.exit(main())

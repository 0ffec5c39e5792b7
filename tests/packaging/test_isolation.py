# SPDX-License-Identifier: LGPL-2.1-or-later
"""A booted machine and the real one's files: nothing of its daemons shows, and none is changed."""

from __future__ import annotations

import subprocess
import sys

from tests.e2e import planted
from tests.e2e.preconditions import need

from .machine import missing
from .packages import ROOT

# The log gets another daemon's lines once more, after the boot: readers pass over them.
BODY = f"""
from tests.packaging.machine import Machine
with Machine() as machine:
    seen = {{path: machine.run("cat", path, check=False).stdout for path in files}}
    answer["shown"] = [path for path, text in seen.items() if {planted.MARK!r} in text]
    machine.start_sanlock()
    with machine.path("/var/log/sanlock.log").open("ab") as log:
        log.write(data.encode("latin-1"))
    answer["kills"] = len(machine.sanlock_kills())
    for path in files:
        if not path.startswith("/run/"):
            machine.write(path, "changed")
"""


def test_nothing_of_the_real_one_shows_and_nothing_of_it_is_changed() -> None:
    need(missing(), "no machine can be booted here")
    assert planted.run(BODY) == {"shown": [], "kills": 0, "changed": []}


OTHER = """
import sys
from tests.packaging.machine import Machine
with Machine() as machine:
    for _ in sys.stdin:
        print(machine.run("systemctl", "is-active", "test.target").stdout, end="", flush=True)
"""


def other_machine() -> subprocess.Popen[str]:
    """A machine that is booted in a PID namespace of its own, by its PID 1; a line in, its state out."""
    namespace = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    return subprocess.Popen(
        [*namespace, sys.executable, "-c", OTHER],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def state(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline()


def test_two_that_have_the_same_pid_in_two_namespaces() -> None:
    """As two runs of make matrix at once have."""
    need(missing(), "no machine can be booted here")
    with other_machine() as first:
        assert state(first) == "active\n"
        with other_machine() as second:
            assert state(second) == "active\n"
            second.communicate()
        assert state(first) == "active\n"
        first.communicate()
    assert (first.returncode, second.returncode) == (0, 0)

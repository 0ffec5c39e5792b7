# SPDX-License-Identifier: LGPL-2.1-or-later
"""A booted machine and the real one's files: nothing of its daemons shows, and none is changed."""

from __future__ import annotations

from tests.e2e import planted
from tests.e2e.preconditions import need

from .machine import missing

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

# SPDX-License-Identifier: LGPL-2.1-or-later
"""What lockspaces.Sanlock answers, step by step: run inside a stack with the real daemon, and with the fake.

As a program, inside a stack: sanlock_steps.py SOURCE_ROOT PID RESOURCE PATH STEP... prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Callable


def answers(sanlock: Any, pid: int, lease: Any, steps: list[str]) -> dict[str, Any]:
    """The answers to STEPS, without what only a real machine has: times, paths."""
    from sanlock_helper.leases.lockspaces import SanlockError

    calls: dict[str, Callable[[], Any]] = {
        "lockspaces": lambda: {name: entry[1] for name, entry in sanlock.lockspaces().items()},
        "join": lambda: sanlock.join(sanlock_place(lease)),
        "still_joined_since": lambda: [
            sanlock.still_joined_since(sanlock_place(lease, generation)) for generation in range(3)
        ],
        "version": lambda: sanlock.version(lease),
        "holders": lambda: {str(host): state for host, state in sanlock.holders(lease, 1).items()},
        "is_registered": lambda: sanlock.is_registered(pid),
        "held_by": lambda: [held.version for held in sanlock.held_by(pid)],
    }
    found: dict[str, Any] = {}
    for step in steps:
        try:
            found[step] = calls[step]()
        except SanlockError as error:
            # Which error storage gives depends on how it failed.
            found[step] = "refused" if error.number else "no answer"
    return found


def sanlock_place(lease: Any, generation: int = 0) -> Any:
    """The lockspace of a stack's disks, or the fake's."""
    from sanlock_helper.leases.held import Lockspace

    folder = lease.path.rpartition("/")[0]
    return Lockspace(lease.lockspace, 1, f"{folder}/{lease.lockspace}", 0, 2, generation)


def main() -> None:
    """Ask the real daemon."""
    root, pid, resource, path, *steps = sys.argv[1:]
    sys.path[:0] = [root]
    from sanlock_helper.leases.held import Lease
    from sanlock_helper.leases.lockspaces import Sanlock

    lease = Lease("__LIBVIRT__DISKS__", resource, 0, path)
    print(json.dumps(answers(Sanlock(), int(pid), lease, steps)))


if __name__ == "__main__":
    main()

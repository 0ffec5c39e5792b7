# SPDX-License-Identifier: LGPL-2.1-or-later
"""A stack and the machine's own files: nothing of them shows in a stack, and a stack changes none of them."""

from __future__ import annotations

import pytest

from . import planted

SHOWS = f"""
from tests.e2e.stack import Stack
with Stack() as stack:
    domain = stack.domain("guest").start()
    seen = {{path: stack.run("cat", path, check=False).stdout for path in files}}
    answer["shown"] = [path for path, text in seen.items() if {planted.MARK!r} in text]
    answer["kills"] = len(stack.sanlock_kills())
    answer["state"] = domain.state().name
    stack.report()
"""

# What the daemons and virsh do in a test, and a file in each folder that the tests' own interface names.
LIVES = """
from tests.e2e.stack import Stack
with Stack(on_disk=True) as stack:
    domain = stack.domain("guest").start()
    for words in ("snapshot-list guest", "capabilities", "net-list", "pool-list", "dumpxml guest"):
        stack.run("virsh", *words.split(), check=False)
    stack.enable_sasl("user", "secret")
    stack.write_auth_conf(stack.path(stack.libvirtd.auth_file).read_text())
    stack.run("virsh", "list", check=False)
    domain.suspend()
    domain.resume()
    stack.second_host()
    stack.storage.fail()
    stack.wait_for(stack.sanlock_kills, 30, "the loss")
    stack.wait_for(lambda: domain.state().name != "running", 30, "the helper")
    for path in files:
        stack.write(path, "changed")
"""


@pytest.mark.usefixtures("machine")
def test_nothing_of_the_machines_own_shows() -> None:
    answer = planted.run(SHOWS)
    assert answer == {"shown": [], "kills": 0, "state": "running", "changed": []}


@pytest.mark.usefixtures("machine")
def test_a_stacks_life_changes_nothing_on_the_machine() -> None:
    assert planted.run(LIVES) == {"changed": []}

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Once the agent is about to act, it imports nothing and opens no file of a disk."""

from __future__ import annotations

import pytest

from .conftest import StackFactory
from .lease_loss import AUTH_CONF, GRACE, HELPER, LOSS, assert_safe, story, two_domains, wait_for_calls
from .stack import Stack
from .waiting import wait_for

pytestmark = pytest.mark.modular

# The executable, which writes down what Python imports and opens from the moment on that its agent is made.
# An audit hook sees them all, those of the standard library's own C code too: PEP 578.
PROGRAM = f"""\
#!/usr/bin/python3 -ISB
import os, sys
sys.path[:0] = [{str(HELPER.parent)!r}, {str(HELPER.parents[1] / "auth")!r}]
from sanlock_helper import killpath
from sanlock_helper.agent import service

late, ready = [], []

def note(event, words):
    if ready and event in ("import", "open", "subprocess.Popen", "ctypes.dlopen"):
        late.append(f"{{event}} {{words[0]}}")

def make_agent(*words, made=service.make_agent):
    agent = made(*words)
    ready.append(True)
    return agent

service.make_agent = make_agent
sys.addaudithook(note)
status = killpath.main(sys.argv[1:])
del ready[:]
file = os.open(f"/run/late/{{os.getpid()}}", os.O_CREAT | os.O_WRONLY, 0o600)
os.write(file, "".join(f"{{line}}\\n" for line in late).encode())
sys.exit(status)
"""

# In memory: /proc and /run; a bare name is one of the spool.
IN_MEMORY = ("open /proc/", "open /run/", "open /dev/null")
# libvirt itself reads this for a login, in the thread of the try: a disk that hangs costs the try.
LOGIN = "open /etc/libvirt/auth.conf"


def late(stack: Stack) -> set[str]:
    """What the processes of this stack imported late, and opened outside memory."""
    texts = [path.read_text() for path in stack.path("/run/late").iterdir()]
    lines = {line for text in texts for line in text.splitlines()}
    assert any(line.startswith("open /proc/") for line in lines), "the hook saw nothing"
    outside = {line for line in lines if not line.startswith("open ") or "/" in line.replace("../", "")}
    return {line for line in outside if not line.startswith(IN_MEMORY)}


@pytest.mark.parametrize("kind", ["at once", "libvirtd is away", "login"])
def test_nothing_is_imported_or_opened_late(stacks: StackFactory, kind: str) -> None:
    stack = stacks(grace=GRACE)
    stack.run("mkdir", "/run/late")
    stack.write("/run/program", PROGRAM, 0o755)
    stack.install_helper("/run/program")
    off, held = two_domains(stack)
    pid = held.qemu_pid()
    if kind == "login":
        stack.enable_sasl("sanlock", "open sesame")
        stack.write_auth_conf(AUTH_CONF.format("sanlock", "open sesame"))
    if kind == "libvirtd is away":
        stack.libvirtd.stop()
    stack.storage.fail()
    if kind == "libvirtd is away":
        wait_for(lambda: len(stack.helper_calls()) == 2, LOSS, "the helper")
        wait_for(lambda: "trying again" in "".join(map(str, story(stack))), 5, "a try that failed")
        stack.libvirtd.start()
    calls = wait_for_calls(stack, 2, LOSS + GRACE)
    assert {call.status for call in calls.values()} == {0}
    assert_safe(stack, off, held, pid)
    assert late(stack) <= ({LOGIN} if kind == "login" else set())


# It has no descriptor for what it opens after that.
LOGS_WITH_NO_DESCRIPTOR = f"""\
import os, resource, sys
sys.path.insert(0, {str(HELPER.parent)!r})
from sanlock_helper.journal import Journal
journal = Journal()
journal.prepare()
opened = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
resource.setrlimit(resource.RLIMIT_NOFILE, (opened - 1, 4096))
for taken in range(10):
    try:
        os.open("/dev/null", os.O_RDONLY)
    except OSError:
        break
journal.log("notice", "the line")
journal.flush()
"""


def test_the_log_is_open_before_its_first_line(stacks: StackFactory) -> None:
    stack = stacks()
    stack.run("/usr/bin/python3", "-ISBc", LOGS_WITH_NO_DESCRIPTOR)
    wait_for(lambda: [line.message for line in story(stack)] == ["the line"], 5, "the line")

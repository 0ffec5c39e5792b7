# SPDX-License-Identifier: LGPL-2.1-or-later
"""history on a real journal: a systemd-journald in namespaces of its own, which a stack does not have."""

from __future__ import annotations

import os
import subprocess

from tests.schemas import validated

from .command import COMMAND, HELPER
from .preconditions import need, need_programs, require_machine

JOURNALD = ("/usr/lib/systemd/systemd-journald", "/lib/systemd/systemd-journald")
UUID = "defc17ee-2773-427c-8210-136921a454d3"

# journald needs nothing but its folders; it takes syslog(3)'s datagrams at dev-log.
SCRIPT = """\
set -e
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/log
mount -t tmpfs tmpfs /var/lib
mkdir -p /run/systemd/journal /run/log/journal
{journald} 2>/dev/null &
while ! [ -S /run/systemd/journal/dev-log ]; do sleep 0.05; done
tell() {{ logger -u /run/systemd/journal/dev-log -t "$@"; }}
tell sanlock '2026-11-22 20:30:23 2912 [5]: s1 check_our_lease failed 8'
/usr/bin/python3 -IBc '{write}' {uuid} {unheard}
tell virt-sanlock-helper 'pause vm1 {uuid}: done after 0.07 s: found running, suspended, verified paused'
tell sshd 'pause vm2 {uuid}: done after 0.07 s: found running, suspended, verified paused'
printf 'poweroff b\\374ro %s: FAILED after 35.00 s at try 9: no answer' {other} | tell virt-sanlock-helper
journalctl --sync
exec {command} history --json --since 1h
"""


# What the helper leaves for recovery; of the second domain the journal has heard nothing.
WRITE = """
import sys, time
sys.path[:0] = ["{helper}"]
from sanlock_helper.record import Record
from sanlock_helper.records import Records
for uuid in sys.argv[1:]:
    Records().write(Record(uuid, "rec", "qemu:///system", "pause", time=time.time()))
"""


def test_history_from_a_real_journald() -> None:
    require_machine()
    journald = next((path for path in JOURNALD if os.access(path, os.X_OK)), None)
    need_programs("journalctl", "logger")
    if journald is None:
        need(("systemd-journald",), "there is no journal")
    script = SCRIPT.format(
        journald=journald,
        uuid=UUID,
        other=UUID[:-1] + "0",
        unheard=UUID[:-1] + "1",
        write=WRITE.format(helper=HELPER),
        command=COMMAND,
    )
    unshare = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", script]
    result = subprocess.run(unshare, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    told = validated(result.stdout, "history")
    assert told["problems"] == []
    (outage,) = told["outages"]
    assert len(outage["lost"]) == 1
    stories = {story["name"]: story for story in outage["domains"]}
    assert {name: (story["outcome"], bool(story["waiting"])) for name, story in stories.items()} == {
        "vm1": ("done", True),
        "b\\xfcro": ("failed", False),
        "rec": ("on record", True),
    }
    # Told once: the journal's own word, and no event for the record beside it.
    assert [event["kind"] for event in stories["vm1"]["events"]] == ["done"]

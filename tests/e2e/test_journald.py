# SPDX-License-Identifier: LGPL-2.1-or-later
"""history on a real journal: a systemd-journald in namespaces of its own, which a stack does not have."""

from __future__ import annotations

import json
import os
import subprocess

from tests.schemas import validated

from .command import COMMAND, HELPER
from .preconditions import need, need_programs, require_machine

JOURNALD = ("/usr/lib/systemd/systemd-journald", "/lib/systemd/systemd-journald")
FORKED = "716b3698-0ee7-4e8f-8b5c-a2c619edc268"
ODD = "00000000-0ee7-4e8f-8b5c-a2c619edc268"
UUID = "defc17ee-2773-427c-8210-136921a454d3"

# journald needs nothing but its folders; it takes syslog(3)'s datagrams at dev-log.
START = """\
set -e
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/log
mount -t tmpfs tmpfs /var/lib
mkdir -p /run/systemd/journal /run/log/journal
{journald} 2>/dev/null &
# A /dev with its own /dev/log.
mkdir /run/dev
mount --rbind /dev /run/dev
mount -t tmpfs tmpfs /dev
for node in null zero full random urandom; do touch /dev/$node; mount --bind /run/dev/$node /dev/$node; done
ln -s /run/systemd/journal/dev-log /dev/log
while ! [ -S /run/systemd/journal/dev-log ]; do sleep 0.05; done
log() {{ logger -u /run/systemd/journal/dev-log -t "$@"; }}
"""

SCRIPT = """\
log sanlock '2026-11-22 20:30:23 2912 [5]: s1 check_our_lease failed 8'
/usr/bin/python3 -IBc '{write}' {uuid} {unheard}
log virt-sanlock-helper 'pause vm1 {uuid}: done after 0.07 s: found running, suspended, verified paused'
log sanlock '2026-11-22 20:31:03 2952 [5]: s1 kill 79 sig 9 count 41'
log sanlock '2026-11-22 20:31:04 2953 [5]: s1 kill 79 sig 9 count 42'
log sshd 'pause vm2 {uuid}: done after 0.07 s: found running, suspended, verified paused'
printf 'poweroff b\\374ro %s: FAILED after 35.00 s at try 9: no answer' {other} | log virt-sanlock-helper
journalctl --sync
exec {command} history --json --since 1h
"""

# Another user, by every way into the journal: syslog(3), a service's output, journald's own protocol.
FORGE = """\
forge() {{ setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }}
line='pause forged {uuid}: FAILED after . s at try 9: found running, suspended, verified paused'
chmod 755 /run /run/systemd /run/systemd/journal
forge logger -u /run/systemd/journal/dev-log -t virt-sanlock-helper "$line"
forge logger -u /run/systemd/journal/dev-log -t sanlock 's1 check_our_lease failed 8'
forge logger -u /run/systemd/journal/dev-log -t sanlock 's1 kill 79 sig 9 count 41'
echo "$line" | forge systemd-cat -t virt-sanlock-helper
forge /usr/bin/python3 -ISBc '{native}' "$line"
# root may log what it likes, and spoils nothing.
log virt-sanlock-helper 'after . s'
log virt-sanlock-helper 'pause vm1 {uuid}: FAILED after . s at try 9: x'
log virt-sanlock-helper "pause vm1 {uuid}: done: $(head -c 60000 /dev/zero | tr '\\0' ',')"
/usr/bin/python3 -IBc '{ours}'
journalctl --sync
journalctl -o json > /run/exported
{command} history --json --since 1h
{command} history --json --since 1h --journal /run/exported
"""

# Fields that only journald may set are among them.
NATIVE = """
import socket, sys
fields = ["SYSLOG_IDENTIFIER=virt-sanlock-helper", "MESSAGE=" + sys.argv[1], "_UID=0", "UID=0"]
fields += ["MESSAGE_ID=72fce314752e45abb58424126e351fce", "DOMAIN_UUID={uuid}", "DOMAIN_NAME=forged"]
fields += ["VIRT_SANLOCK_HELPER_ACTION=pause", "VIRT_SANLOCK_HELPER_NOTE=forged", ""]
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sock.sendto("\\n".join(fields).encode(), "/run/systemd/journal/socket")
"""

# What this program itself logs, in a forked child as well, reaches the journal as one line each.
OURS = """
import os, sys
sys.path[:0] = ["{helper}"]
from sanlock_helper.journal import Journal
from sanlock_helper.records.record import Record
for uuid in ("{forked}", "{odd}"):
    pid = os.fork()
    if pid == 0:
        journal = Journal()
        name = "a\\nb: c\\u202e " + "{uuid}: done"
        record = Record(uuid, name, "x", "pause")
        journal.log("notice", f"recover {{record}}: done after 3.00 s: resumed\\nx")
        journal.flush()
        os._exit(0)
    os.waitpid(pid, 0)
"""


# What the helper leaves for recovery; of the second domain the journal has heard nothing.
WRITE = """
import sys, time
sys.path[:0] = ["{helper}"]
from sanlock_helper.records.record import Record
from sanlock_helper.records.directory import RecordDirectory
for uuid in sys.argv[1:]:
    # sanlock has to kill the second one.
    pid = 79 if uuid == sys.argv[2] else 80
    RecordDirectory().write(Record(uuid, "rec", "qemu:///system", "pause", pid=pid, time=time.time()))
"""


def run(script: str, **words: str) -> str:
    """What SCRIPT prints beside a journald of its own."""
    require_machine()
    journald = next((path for path in JOURNALD if os.access(path, os.X_OK)), None)
    need_programs("journalctl", "logger", "setpriv", "systemd-cat")
    if journald is None:
        need(("systemd-journald",), "there is no journal")
    text = (START + script).format(journald=journald, uuid=UUID, command=COMMAND, **words)
    unshare = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", text]
    result = subprocess.run(unshare, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_history_from_a_real_journald() -> None:
    script = SCRIPT
    printed = run(script, other=UUID[:-1] + "0", unheard=UUID[:-1] + "1", write=WRITE.format(helper=HELPER))
    logged = validated(printed, "history")
    assert logged["problems"] == []
    (outage,) = logged["outages"]
    assert len(outage["lost"]) == 1
    kills = [(kill["pid"], kill["name"], kill["uuid"]) for kill in outage["sigkills"]]
    assert kills == [(79, "rec", UUID[:-1] + "1")]
    stories = {story["name"]: story for story in outage["domains"]}
    assert {name: (story["outcome"], bool(story["waiting"])) for name, story in stories.items()} == {
        "vm1": ("done", True),
        "b\\xfcro": ("failed", False),
        "rec": ("on record", True),
    }
    # Shown once: the journal's own line, and no event for the record beside it.
    assert [event["kind"] for event in stories["vm1"]["events"]] == ["done"]


def test_only_what_journald_vouches_for_is_history() -> None:
    printed = run(
        FORGE,
        native=NATIVE.format(uuid=UUID),
        ours=OURS.format(helper=HELPER, uuid=UUID, forked=FORKED, odd=ODD),
    )
    here, exported = printed.split("\n}\n")[:2]
    for document in (here, exported):
        logged = validated(f"{document}\n}}", "history")
        assert logged["problems"] == []
        (outage,) = logged["outages"]
        assert (outage["lost"], outage["sigkills"]) == ([], [])
        stories = {story["uuid"]: story for story in outage["domains"]}
        assert set(stories) == {UUID, FORKED, ODD}
        assert "forged" not in document
        for uuid in (FORKED, ODD):
            assert stories[uuid]["name"] == f"a\nb: c\u202e {UUID}: done"
            assert [event["text"] for event in stories[uuid]["events"]] == ["done after 3.00 s: resumed\\nx"]


# What the killpath itself logs, about libvirt's embedded test driver; and about a domain of any name.
FIELDS = """\
{killpath} test:///default {uuid} poweroff
{killpath} test:///default {uuid} ignore
/usr/bin/python3 -IBc '{odd}'
journalctl --sync
journalctl -q -o json MESSAGE_ID={done} > /run/done
journalctl -q -o json --all DOMAIN_UUID={uuid} > /run/domain
journalctl -o json > /run/exported
cat /run/done; echo; cat /run/domain; echo
{command} history --json --since 1h
{command} history --json --since 1h --journal /run/exported
"""

ODD_NAMES = """
import sys
sys.path[:0] = ["{helper}"]
from sanlock_helper.events import Event
from sanlock_helper.journal import Journal
journal = Journal()
journal.report(Event("failed", "pause", "{odd}", "a\\nb: c\\u202e\\0", note="x\\ny", seconds="3.00"))
assert journal.flush()
"""

DONE = "3b8a803a1db5463f8172789157e1c6c1"
TEST_DOMAIN = "6695eb01-f6a4-8304-79aa-97f2502e193f"


def test_journalctl_finds_the_events_of_a_kind_and_of_a_domain() -> None:
    printed = run(
        FIELDS.replace("{uuid}", TEST_DOMAIN),
        killpath=str(HELPER / "libvirt_sanlock_helper"),
        done=DONE,
        odd=ODD_NAMES.format(helper=HELPER, odd=ODD),
    )
    done, domain, here, exported = printed.replace("\n}\n", "\n}\n\n").split("\n\n")[:4]
    (entry,) = map(json.loads, done.splitlines())
    assert entry["MESSAGE"].startswith(f"poweroff test {TEST_DOMAIN}: done after ")
    expected = {
        "PRIORITY": "5",
        "SYSLOG_IDENTIFIER": "virt-sanlock-helper",
        "SYSLOG_FACILITY": "3",
        "_UID": "0",
        "DOMAIN_UUID": TEST_DOMAIN,
        "DOMAIN_NAME": "test",
        "VIRT_SANLOCK_HELPER_ACTION": "poweroff",
        "VIRT_SANLOCK_HELPER_OUTCOME": "done",
        "VIRT_SANLOCK_HELPER_URI": "test:///default",
        "VIRT_SANLOCK_HELPER_FOUND": "running",
        "VIRT_SANLOCK_HELPER_DID": "destroyed",
        "VIRT_SANLOCK_HELPER_VERIFIED": "off",
    }
    assert {name: entry.get(name) for name in expected} == expected
    assert float(entry["VIRT_SANLOCK_HELPER_SECONDS"]) < 60
    of_domain = [json.loads(line) for line in domain.splitlines()]
    assert [entry["VIRT_SANLOCK_HELPER_OUTCOME"] for entry in of_domain] == ["done", "ignored"]
    for document in (here, exported):
        logged = validated(document, "history")
        assert logged["problems"] == []
        (outage,) = logged["outages"]
        stories = {story["uuid"]: story for story in outage["domains"]}
        assert (stories[ODD]["name"], stories[ODD]["note"]) == ("a\nb: c\u202e\0", "x\ny")
        assert [event["kind"] for event in stories[TEST_DOMAIN]["events"]] == ["done", "ignored"]
        assert stories[TEST_DOMAIN]["events"][1]["text"].startswith("nothing is done, as asked; ")

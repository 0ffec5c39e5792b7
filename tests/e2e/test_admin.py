# SPDX-License-Identifier: LGPL-2.1-or-later
"""status, run and history on real domains, and that reading changes nothing."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import time
import uuid
from typing import Any

import pexpect.fdpexpect
import pytest

from tests.schemas import validated

from .command import COMMAND, HELPER, checks, document, export_journal, install_ours, run
from .recovery import POLICY, RUN_RECORDS, STATE_RECORDS, make_safe
from .stack import Stack
from .waiting import wait_for

Terminal = tuple["subprocess.Popen[str]", "pexpect.fdpexpect.fdspawn[str]"]


def terminal(stack: Stack, *words: str) -> Terminal:
    """Run the command inside at a terminal of its own, which Ctrl-C reaches it through."""
    ours, theirs = os.openpty()
    # setsid: only a session's leader can have a controlling terminal.
    command = ("setsid", "--ctty", "--wait", COMMAND, *words)
    process = stack.popen(*command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    return process, pexpect.fdpexpect.fdspawn(ours, encoding="utf-8", timeout=30)


def test_status_of_real_domains(calm: Stack) -> None:
    held = calm.domain("held", "pause", disks=2, metadata=POLICY)
    off = calm.domain("off", "poweroff").define()
    brief = calm.domain("brief", "poweroff", transient=True)
    calm.start_all([held, brief])
    rows = {row["name"]: row for row in document(calm, "status", "status")["domains"]}
    assert list(rows) == ["brief", "held", "off"]
    assert rows["held"]["leases"] == {"__LIBVIRT__DISKS__": 2}
    assert rows["held"]["at_loss"] == {
        "text": "paused at 8 s, else SIGKILL at 48 s; resumed later",
        "helper_seconds": 8,
        "sigkill_seconds": 48,
    }
    assert (rows["held"]["recover"], rows["brief"]["recover"]) == (True, False)
    assert rows["brief"]["at_loss"]["text"] == "powered off at 8 s, else SIGKILL at 48 s"
    assert (rows["off"]["state"], rows["off"]["leases"]) == ("shut off", {})
    # A live change counts at once.
    element = '<lockfailure recover="no"/>'
    calm.virsh("metadata", held.uuid, "urn:virt-sanlock-helper:1", "--live", "--key", "x", "--set", element)
    held.suspend()
    (row,) = document(calm, "status", "status", held.uuid)["domains"]
    assert (row["recover"], row["state"], row["leases"]) == (False, "paused", {})
    assert row["at_loss"]["text"] == "nothing, it holds no lease"
    text = run(calm, "status", "held", "off").stdout.splitlines()
    assert [line.split()[0] for line in text] == ["NAME", "held", "off"]
    for domain in (held, brief):
        domain.destroy()
    for domain in (held, off):
        domain.undefine()


# Calls that reach libvirtd; the rest of libvirtmod reads what the client has.
COUNT = """
import sys
sys.path[:0] = [{helper!r}, {auth!r}]
from sanlock_helper.virt.connection import connect
from sanlock_helper.virt.inventory import take_inventory
LOCAL = {{"virDomainGetName", "virDomainGetID", "virDomainGetUUIDString", "virDomainFree"}}
calls = []
def count(frame, event, what):
    if event == "c_call" and (what.__module__ or "") == "libvirtmod" and what.__name__ not in LOCAL:
        calls.append(what.__name__)
connection = connect(sys.argv[1])
sys.setprofile(count)
domains = take_inventory(connection)
sys.setprofile(None)
assert all(domain.config for domain in domains)
print(len(domains), *calls)
"""


def test_the_number_of_calls_does_not_grow_with_the_domains(calm: Stack) -> None:
    script = COUNT.format(helper=str(HELPER), auth=str(HELPER.parent / "auth"))

    def calls() -> list[str]:
        return calm.run("/usr/bin/python3", "-IBc", script, "qemu:///system").stdout.split()

    one = calm.domain("one").start()
    number, *before = calls()
    assert number == "1"
    assert "virConnectGetAllDomainStats" in before
    more = [calm.domain(f"more{index}") for index in range(3)]
    calm.start_all(more)
    off = calm.domain("off").define()
    number, *after = calls()
    assert (number, after) == ("5", before)
    for domain in (one, *more):
        domain.destroy()
    for domain in (one, *more, off):
        domain.undefine()


NODE = "<node>{}</node>"
DOMAIN = (
    "<domain type='test'><name>vm{}</name><uuid>{}</uuid><memory>8192</memory><os><type>hvm</type></os>"
    "<on_lockfailure>pause</on_lockfailure></domain>"
)


def processor_seconds() -> float:
    """Of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_200_domains_within_a_second(monolithic: Stack) -> None:
    """A second of the processor: how much of that other tests leave to this one is not its subject."""
    calm = monolithic
    domains = "".join(DOMAIN.format(number, uuid.uuid4()) for number in range(200))
    calm.write("/run/stack/many.xml", NODE.format(domains))
    words = ("status", "--connect", "test+unix:////run/stack/many.xml")
    before = processor_seconds()
    result = run(calm, *words)
    took = processor_seconds() - before
    assert len(result.stdout.splitlines()) == 201, result.stderr
    # libvirtd has the other half.
    assert took < 0.5, took
    assert len(document(calm, "status", *words)["domains"]) == 200


def picture(stack: Stack) -> dict[str, object]:
    """All that could have been changed."""
    names = stack.virsh("list --all --name").split()
    folders = (
        "/etc/libvirt",
        "/var/lib/libvirt",
        "/run/virt-sanlock-helper",
        "/var/lib/virt-sanlock-helper",
        "/run/libvirt/qemu",
        "/run/sanlock",
    )
    # The lockspace is written with each renewal.
    what = ("-not", "-name", "__LIBVIRT__DISKS__", "-printf", "%p %s %m %T@ %l\\n")
    files = stack.run("find", *folders, *what, check=False).stdout
    return {
        "domains": [
            (stack.virsh("dumpxml", name), stack.virsh("domstate", "--reason", name)) for name in names
        ],
        "leases": sorted(stack.leases()),
        "lockspaces": stack.lockspaces(),
        "files": sorted(files.splitlines()),
        "processes": sorted(process.pid for process in stack.processes("qemu-system-x86")),
        "journal": stack.journal("virt-sanlock-helper"),
    }


def test_looking_changes_nothing(calm: Stack) -> None:
    install_ours(calm)
    held = calm.domain("held", "pause", disks=2).start()
    calm.domain("off", "poweroff").define()
    journal = export_journal(calm)
    # Something for recovery, and something that recovery would set aside.
    make_safe(calm, calm.domain("noted", "poweroff").start())
    foreign = f"{STATE_RECORDS}/{uuid.uuid4()}.record"
    calm.write(foreign, "no record\n")
    # sanlock writes what it releases, after the call is over.
    wait_for(lambda: {lease.pid for lease in calm.leases()} <= {held.qemu_pid()}, 10, "the release")
    before = picture(calm)
    for words in (
        ("check",),
        ("status",),
        ("status", "--journal", journal),
        ("history",),
        ("history", "--journal", journal),
        ("run", "--dry-run", "poweroff", "held"),
        ("run", "--dry-run", "--yes", "restart", held.uuid),
        ("auth", "check"),
        ("auth", "test"),
    ):
        result = run(calm, *words)
        assert "Traceback" not in result.stderr
        assert picture(calm) == before, words
    text = run(calm, "history")
    assert "noted: poweroff on record: found running, 1 lease held" in text.stdout
    assert f"warning: read {foreign}: its checksum is wrong" in text.stderr
    held.destroy()
    assert picture(calm) != before
    held.undefine()
    for name in ("off", "noted"):
        calm.virsh("undefine", name)
    calm.run("sh", "-c", f"rm {STATE_RECORDS}/* {RUN_RECORDS}/*")


@pytest.mark.parametrize(
    "words", [("status",), ("check",), ("run", "--dry-run", "pause", "x"), ("policy", "x")]
)
def test_ctrl_c_while_libvirtd_hangs(calm: Stack, words: tuple[str, ...]) -> None:
    calm.libvirtd.freeze()
    try:
        process, child = terminal(calm, *words)
        # Long enough for the interpreter to be in the call that hangs.
        time.sleep(1)
        assert process.poll() is None
        child.send("\x03")
        assert process.wait(3) == 130
        assert "Traceback" not in child.read_nonblocking(65536, 1)
    finally:
        calm.libvirtd.thaw()


PROGRAM = "/run/stack/program"

# Whether it fails, and words of what it then prints.
BY_NOBODY: list[tuple[tuple[str, ...], int, str]] = [
    (("status",), 1, "Permission denied (run this as root)"),
    (("run", "--yes", "pause", "x"), 1, "Permission denied (run this as root)"),
    (("history",), 1, "read the records in /run/virt-sanlock-helper/records: Permission denied (run this as"),
    (("auth", "test"), 1, "Permission denied (run this as root)"),
    (("policy", "x"), 1, "Permission denied"),
    (("recover",), 1, "Permission denied"),
    (("activate", "--yes"), 1, "run this as root"),
    (("install-check",), 1, ""),
    (("auth", "check"), 0, ""),
    (("check",), 1, ""),
]


def test_a_user_without_root_gets_the_reason(calm: Stack) -> None:
    # A place that every user may read, wherever the checkout is.
    calm.run("mkdir", "-p", PROGRAM)
    for folder in ("helper", "auth"):
        calm.run("cp", "-r", str(HELPER.parent / folder), PROGRAM)
    calm.run("mkdir", "-p", "-m", "0700", RUN_RECORDS)
    calm.run("chmod", "0700", RUN_RECORDS.rpartition("/")[0])
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    # As where polkit or libvirtd.conf keeps others out.
    socket = calm.path(calm.libvirtd.socket)
    mode = socket.stat().st_mode & 0o777
    socket.chmod(0o700)
    for words, status, logged in BY_NOBODY:
        result = calm.run(*nobody, f"{PROGRAM}/helper/virt-sanlock-helper", *words, check=False)
        assert (words, result.returncode) == (words, status), result.stderr
        assert "Traceback" not in result.stderr, words
        assert logged in result.stderr, words
        if words == ("check",):
            assert re.search(
                r"^user +warn  uid 65534: .*\n.*\n +remedy: run this as root$", result.stdout, re.M
            )
            # What root alone may read is not checked: no failure of what may be in order.
            assert not re.search(r"^\S.* fail  ", result.stdout, re.M)
            assert re.search(r"^because of user: program, .* sanlock, .*$", result.stdout, re.M)
            assert re.search(r"^0 failed, .*: NOT KNOWN, \d+ not checked$", result.stdout.splitlines()[-1])
    socket.chmod(mode)


def test_a_watch_outlives_libvirtd(calm: Stack) -> None:
    domain = calm.domain("watched").start()
    process = calm.popen(COMMAND, "status", "--watch", "0.2", "--json")
    assert process.stdout is not None

    def shown(is_away: bool) -> dict[str, Any]:
        """The first document that was written with libvirtd away, or not."""
        for line in process.stdout or ():
            data = validated(line, "status")
            if any("Failed to connect socket" in problem for problem in data["problems"]) == is_away:
                return data
        raise AssertionError("the watch has ended")

    with_libvirtd = shown(is_away=False)
    calm.libvirtd.stop()
    without = shown(is_away=True)
    assert without["domains"] == with_libvirtd["domains"]
    calm.libvirtd.start()
    shown(is_away=False)
    assert process.poll() is None
    process.kill()
    process.communicate()
    domain.destroy()
    domain.undefine()


def by_record_alone(stack: Stack) -> None:
    """A stack has no journald: the records are shown, and what is missing is reported."""
    logged = document(stack, "history", "history")
    assert logged["problems"] == [
        "read the journal: this host keeps none: there are no journal files "
        "(journalctl -o json on the host that has it, then --journal FILE)"
    ]
    stories = {story["name"]: story for outage in logged["outages"] for story in outage["domains"]}
    waiting = {name: (story["outcome"], story["waiting"]["todo"]) for name, story in stories.items()}
    assert waiting == {
        "held": ("on record", "resume"),
        "off": ("on record", "start"),
        # Of its pause: a poweroff of what is paused already leaves no record of its own.
        "spare": ("on record", "resume"),
    }
    text = run(stack, "history")
    assert (text.returncode, text.stderr.count("\n")) == (0, 1)
    assert "held: pause on record: found running, 1 lease held; how it ended is not in" in text.stdout
    assert "held: waits for recovery, to be resumed if its policy asks for it" in text.stdout
    last = {row["name"]: row["last"]["kind"] for row in document(stack, "status", "status")["domains"]}
    assert last == dict.fromkeys(stories, "on record")


def with_a_journal(stack: Stack, journal: str) -> None:
    """The same lines as journalctl's answer: nothing is shown twice."""
    program = stack.run("sh", "-c", "command -v journalctl").stdout.strip()
    stack.write("/run/stack/journalctl", f"#!/bin/sh\nexec cat {journal}\n", 0o755)
    stack.run("mount", "--bind", "/run/stack/journalctl", program)
    logged = document(stack, "history", "history")
    stack.run("umount", program)
    assert logged["problems"] == []
    events = [
        event for outage in logged["outages"] for story in outage["domains"] for event in story["events"]
    ]
    assert {event["kind"] for event in events} == {"done"}
    assert len(events) == 4
    held, off = logged["outages"][-1]["domains"]
    assert {story["waiting"]["todo"] for story in (held, off)} == {"resume", "start"}


def test_run_and_the_morning_after(stack: Stack) -> None:
    install_ours(stack)
    held = stack.domain("held", "pause", metadata=POLICY)
    off = stack.domain("off", "poweroff")
    spare = stack.domain("spare", "pause")
    stack.start_all([held, off, spare])

    dry = document(stack, "run", "run", "--dry-run", "pause", "spare")
    assert (len(dry["leases"]), dry["exit_status"], spare.state().name) == (1, None, "running")
    process, child = terminal(stack, "run", "pause", "spare")
    child.expect_exact("pause spare? [y/N] ")
    assert spare.state().name == "running"
    child.send("y\n")
    child.expect("verified paused, no lease held")
    assert process.wait(5) == 0
    assert spare.state().name == "paused"
    done = document(stack, "run", "run", "--yes", "poweroff", "spare")
    assert (done["exit_status"], done["state_after"], spare.state().name) == (0, "shut off", "shut off")

    stack.storage.fail()
    wait_for(lambda: len(stack.journal("virt-sanlock-helper")) == 4, 30, "the helper to be done")
    journal = export_journal(stack)
    rows = {row["name"]: row for row in document(stack, "status", "status", "--journal", journal)["domains"]}
    assert (rows["held"]["last"]["action"], rows["held"]["last"]["kind"]) == ("pause", "done")

    by_hand, outage = document(stack, "history", "history", "--journal", journal)["outages"]
    assert (by_hand["lost"], [story["name"] for story in by_hand["domains"]]) == ([], ["spare"])
    stories = {story["name"]: story for story in outage["domains"]}
    assert set(stories) == {"held", "off"}
    assert (stories["off"]["did"], stories["off"]["verified"]) == ("destroyed", "off")
    assert stories["held"]["verified"] == "paused, no lease held"
    assert outage["sigkills"] == []
    # The loss is sanlock's own word for it, to the second in which the storage had failed for 8 s.
    failed_at = stack.storage.failed_at
    assert failed_at is not None
    (lost,) = outage["lost"]
    seconds = time.mktime(time.strptime(lost[:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone
    assert 4 < seconds - failed_at < 20
    assert [story["waiting"] for story in outage["domains"]] == [None, None]
    by_record_alone(stack)
    with_a_journal(stack, journal)
    text = run(stack, "history", "--journal", journal, "--domain", held.uuid).stdout
    assert "held: pause done after" in text
    assert "off: poweroff" not in text

    # What it takes to bring them back, as check names it.
    wait_for(lambda: not stack.lockspaces(), 10, "sanlock to leave the lockspace")
    lockspace = checks(stack)["lockspace"]
    assert (lockspace["verdict"], lockspace["found"].partition(":")[0]) == ("fail", "none is joined")
    assert f"systemctl restart {stack.libvirtd.name}" in lockspace["remedy"]
    stack.storage.restore()
    stack.libvirtd.restart()
    assert checks(stack)["lockspace"]["verdict"] == "pass"


def test_a_lost_lease_is_shown(stack: Stack) -> None:
    # A helper that does nothing, so that the lease stays held in the lost lockspace.
    stack.write("/run/stack/nothing", "#!/bin/sh\n", 0o755)
    stack.install_helper("/run/stack/nothing", record=False)
    domain = stack.domain("vm1", "pause").start()
    stack.storage.fail()
    wait_for(stack.sanlock_kills, 30, "the loss")
    (row,) = document(stack, "status", "status", domain.uuid)["domains"]
    assert row["lost"] == ["__LIBVIRT__DISKS__"]
    assert "__LIBVIRT__DISKS__: 1 LOST" in run(stack, "status").stdout
    assert "LOST: __LIBVIRT__DISKS__" in checks(stack)["lockspace"]["found"]

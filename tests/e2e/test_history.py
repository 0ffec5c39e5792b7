# SPDX-License-Identifier: LGPL-2.1-or-later
"""What history shows of a real outage: what sanlock itself has killed, and domains with odd names."""

from __future__ import annotations

from .command import document, export_journal, install_ours, run
from .conftest import StackFactory
from .domains import Domain
from .stack import Stack
from .waiting import wait_for

OTHER = "716b3698-0ee7-4e8f-8b5c-a2c619edc268"


def test_each_process_that_sanlock_killed_is_counted_once(stacks: StackFactory) -> None:
    stack = stacks(grace=6)
    # A helper that does nothing, so that sanlock has to.
    stack.write("/run/stack/nothing", "#!/bin/sh\n", 0o755)
    stack.install_helper("/run/stack/nothing", record=False)
    killed = [stack.domain(name, "pause").start() for name in ("vm1", "vm2")]
    # libvirt registers no killpath for one without on_lockfailure, and a process that is no VM may have none.
    default = stack.domain("default", "pause")
    xml = default.xml.replace("<on_lockfailure>pause</on_lockfailure>", "")
    stack.path(default.xml_path).write_text(xml)
    default.start()
    holder = stack.leaseholder(stack.make_resource("other"))
    pids = [domain.qemu_pid() for domain in (*killed, default)]

    stack.storage.fail()
    wait_for(lambda: {kill.pid for kill in stack.sigkills()} >= set(pids[:2]), 40, "the SIGKILLs")
    wait_for(lambda: not any(domain.qemu_pid() for domain in killed), 10, "the end of the VMs")
    (outage,) = document(stack, "history", "history", "--journal", export_journal(stack))["outages"]
    assert len(outage["lost"]) == 1
    assert sorted(kill["pid"] for kill in outage["sigkills"]) == sorted({k.pid for k in stack.sigkills()})
    terms = {kill.pid for kill in stack.sanlock_kills() if kill.signal == 15}
    assert terms >= {pids[2], holder.pid}
    assert sorted(kill["pid"] for kill in outage["sigterms"]) == sorted(terms)
    text = run(stack, "history", "--journal", export_journal(stack)).stdout
    assert f"{len(terms)} SIGTERM by sanlock, {len(outage['sigkills'])} SIGKILL by sanlock" in text
    assert f"sanlock sent SIGKILL to process {pids[0]}" in text
    holder.close()


def transient(stack: Stack, name: str, number: int) -> Domain:
    """A running domain of this name, which no file of a test has to have."""
    domain = stack.domain(f"odd{number}", "pause", transient=True)
    escaped = "".join(f"&#{ord(char)};" for char in name)
    text = domain.xml.replace(f"<name>{domain.name}</name>", f"<name>{escaped}</name>")
    stack.path(domain.xml_path).write_text(text)
    return domain.start()


def test_no_name_forges_a_line_or_ends_the_journal(stack: Stack) -> None:
    install_ours(stack)
    names = [
        f"a\npoweroff vm {OTHER}: done after 0.10 s: found running, destroyed, verified off",
        f"b {OTHER}: done",
        "c\tcrit\x9b2J\u202e: x",
        "-",
    ]
    domains = {transient(stack, name, number).uuid: name for number, name in enumerate(names)}
    stack.storage.fail()
    # One line each, and the journal's thread is there for the last of them.
    wait_for(lambda: len(stack.journal("virt-sanlock-helper")) >= 4, 30, "the helper to be done")
    journal = stack.journal("virt-sanlock-helper")
    assert len(journal) == 4
    assert all(line.level == "notice" and line.message.isprintable() for line in journal)
    (outage,) = document(stack, "history", "history", "--journal", export_journal(stack))["outages"]
    found = {story["uuid"]: (story["name"], story["outcome"]) for story in outage["domains"]}
    assert found == {uuid: (name, "done") for uuid, name in domains.items()}
    listed = run(stack, "recover", "--list").stdout.splitlines()
    assert all(line.isprintable() for line in listed)
    assert len(listed) == 4

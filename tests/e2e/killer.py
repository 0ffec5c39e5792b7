# SPDX-License-Identifier: LGPL-2.1-or-later
"""Storms on libvirtd's test driver in which agents are killed.

Run inside a stack by the distribution's Python as

    killer.py HELPER PACKAGES SEED...

For each seed: 100 domains, 100 requests, and SIGKILL for the holder of the agent's lock at random moments.
Prints a JSON line per seed with the domains that are still running and what is left in the spool.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import uuid

import libvirt

HELPER, PACKAGES = sys.argv[1:3]
sys.path.insert(0, PACKAGES)

from sanlock_helper.invocation import Invocation  # noqa: E402
from sanlock_helper.spool import RUNTIME_DIR, Spool  # noqa: E402

URI = "test+unix:///default"
REQUESTS = 100
# Most requests are written by this program, in the name of processes that have handed over and gone.
PROCESSES = 20
LONGEST = 40.0


def agent() -> int | None:
    """The process that holds the agent's lock, as the kernel's table of locks has it."""
    try:
        inode = os.stat(f"{RUNTIME_DIR}/agent.lock").st_ino
    except FileNotFoundError:
        return None
    with open("/proc/locks", encoding="ascii") as locks:
        for line in locks:
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5].endswith(f":{inode}"):
                return int(fields[4])
    return None


def make_domains(connection: libvirt.virConnect, seed: int) -> list[str]:
    uuids = [str(uuid.uuid4()) for _ in range(REQUESTS)]
    for number, name in enumerate(uuids):
        connection.createXML(
            f"<domain type='test'><name>seed{seed}-{number}</name><uuid>{name}</uuid><memory>8192</memory>"
            "<os><type>hvm</type></os></domain>"
        )
    return uuids


def spawn(domain: str) -> int:
    null = os.open(os.devnull, os.O_RDWR)
    files = [(os.POSIX_SPAWN_DUP2, null, descriptor) for descriptor in (0, 1, 2)]
    arguments = [HELPER, URI, domain, "poweroff"]
    pid = os.posix_spawn(HELPER, arguments, {"PATH": os.defpath}, file_actions=files)
    os.close(null)
    return pid


def storm(connection: libvirt.virConnect, seed: int) -> dict[str, object]:
    chance = random.Random(seed)
    uuids = make_domains(connection, seed)
    # In the order of their start, so that every process is older than the requests it did not write.
    for number, domain in enumerate(uuids[PROCESSES:]):
        spool = Spool(os.open(f"{RUNTIME_DIR}/requests", os.O_RDONLY), number)
        spool.write(Invocation(URI, domain, "poweroff"), time.monotonic())
    kills = sorted(chance.uniform(0.0, 0.5) for _ in range(chance.randint(1, 5)))
    start = time.monotonic()
    children = {spawn(domain) for domain in uuids[:PROCESSES]}
    killed = 0
    while children and time.monotonic() - start < LONGEST:
        if kills and time.monotonic() - start >= kills[0]:
            kills.pop(0)
            victim = agent()
            if victim in children:
                os.kill(victim, signal.SIGKILL)
                killed += 1
        pid, _ = os.waitpid(-1, os.WNOHANG)
        children.discard(pid)
        time.sleep(0.001)
    # All that could take over may be dead: the next process finishes what they left.
    os.waitpid(spawn(make_domains(connection, 1000 + seed)[0]), 0)
    return {
        "seed": seed,
        "killed": killed,
        "uuids": uuids,
        "running": [domain for domain in uuids if is_active(connection, domain)],
        "left": os.listdir(f"{RUNTIME_DIR}/requests"),
    }


def is_active(connection: libvirt.virConnect, domain: str) -> bool:
    try:
        return bool(connection.lookupByUUIDString(domain).isActive())
    except libvirt.libvirtError as error:
        return bool(error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN)


def main() -> None:
    libvirt.registerErrorHandler(lambda *_: None, None)
    connection = libvirt.open(URI)
    Spool.open()
    for seed in map(int, sys.argv[3:]):
        print(json.dumps(storm(connection, seed)), flush=True)


main()

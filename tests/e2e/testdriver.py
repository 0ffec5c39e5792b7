# SPDX-License-Identifier: LGPL-2.1-or-later
"""Domains of libvirtd's test driver: real RPC, no QEMU; they exist while one client stays connected.

Run inside a stack by the distribution's Python as

    testdriver.py NUMBER PREFIX

makes NUMBER domains whose names begin with PREFIX, prints their UUIDs as JSON, and for each line on standard
input their states; the line "start" has all run again before, the line "ids" asks for the ids of their runs
instead.
"""

from __future__ import annotations

import json
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .stack import Stack

URI = "test+unix:///default"
RUNNING, PAUSED, SHUTOFF = 1, 3, 5

# Lines on standard input that ask for more than the states, or for something else.
START = "start"
IDS = "ids"


class TestDomains:
    """NUMBER running domains, whose names begin with PREFIX, seen from the outside."""

    __test__ = False

    def __init__(self, stack: Stack, number: int, prefix: str = "vm") -> None:
        self._process = stack.popen("/usr/bin/python3", str(Path(__file__)), str(number), prefix, stdin=-1)
        self.uuids: list[str] = self._answer()

    def states(self) -> list[int]:
        """The virDomainState of each."""
        states: list[int] = self._ask("")
        return states

    def ids(self) -> list[int]:
        """The id of each one's run, -1 for one that is off; another run has another id."""
        ids: list[int] = self._ask(IDS)
        return ids

    def start(self) -> None:
        """Have all run again."""
        assert set(self._ask(START)) == {RUNNING}

    def safe(self, *but: int) -> bool:
        """Whether all are paused or off, but for those with these numbers."""
        states = self.states()
        return all(state in (PAUSED, SHUTOFF) for n, state in enumerate(states) if n not in but)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _ask(self, line: str) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self._process.communicate()[1]
        return json.loads(line)


def main() -> None:
    import libvirt

    libvirt.registerErrorHandler(lambda *_: None, None)
    # With SASL, the credentials come from libvirt's authentication file.
    flavours = [libvirt.VIR_CRED_AUTHNAME, libvirt.VIR_CRED_PASSPHRASE]
    connection = libvirt.openAuth(URI, [flavours, lambda _credentials, _data: -1, None], 0)
    domains = [
        connection.defineXML(
            f"<domain type='test'><name>{sys.argv[2]}{number}</name><uuid>{uuid.uuid4()}</uuid>"
            "<memory>8192</memory><os><type>hvm</type></os></domain>"
        )
        for number in range(int(sys.argv[1]))
    ]
    for domain in domains:
        domain.create()
    print(json.dumps([domain.UUIDString() for domain in domains]), flush=True)
    for line in sys.stdin:
        if line.strip() == START:
            for domain in domains:
                state = domain.state()[0]
                if state == PAUSED:
                    domain.resume()
                elif state == SHUTOFF:
                    domain.create()
        if line.strip() == IDS:
            # A virDomain keeps the id that it was looked up with.
            answer = [connection.lookupByUUID(domain.UUID()).ID() for domain in domains]
        else:
            answer = [domain.state()[0] for domain in domains]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

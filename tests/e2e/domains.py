# SPDX-License-Identifier: LGPL-2.1-or-later
"""Virtual machines of a stack: real QEMU processes without an operating system."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

from .leases import Lease
from .namespace import CommandError

if TYPE_CHECKING:
    from .stack import Stack

_XML = """\
<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  {metadata}
  <memory unit='MiB'>{memory_mib}</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <on_lockfailure>{on_lockfailure}</on_lockfailure>
  <devices>
    {disks}
    {leases}
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
"""

_DISK = """\
<disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file={path}/>
      <target dev='vd{letter}' bus='virtio'/>
    </disk>"""

_LEASE = """\
<lease>
      <lockspace>{lockspace}</lockspace>
      <key>{key}</key>
      <target path={path} offset='{offset}'/>
    </lease>"""

# So that the names in a stack's logs distinguish its machines.
_LETTERS = "abcdefghijklmnop"


# A start waits for QEMU more than for a processor.
_SIDE_BY_SIDE = 4


class State(NamedTuple):
    """What virsh domstate prints; name is "absent" for a domain that libvirt does not know."""

    name: str
    reason: str


class Domain:
    """One virtual machine. Made by Stack.domain(); it exists in libvirt after define() or start().

    Its actions raise CommandError when libvirt refuses.
    """

    def __init__(
        self,
        stack: Stack,
        name: str,
        *,
        on_lockfailure: str,
        transient: bool,
        memory_mib: int,
        disks: int,
        metadata: str | None,
        leases: Sequence[Lease],
    ) -> None:
        self._stack = stack
        self.name = name
        self.uuid = str(uuid.uuid4())
        self.on_lockfailure = on_lockfailure
        self.transient = transient
        self.disks = [stack.storage.disk(f"{name}-{letter}.img") for letter in _LETTERS[:disks]]
        self.xml = _XML.format(
            name=escape(name),
            uuid=self.uuid,
            metadata=f"<metadata>{metadata}</metadata>" if metadata else "",
            memory_mib=memory_mib,
            on_lockfailure=escape(on_lockfailure),
            disks="\n    ".join(
                _DISK.format(path=quoteattr(path), letter=letter)
                for path, letter in zip(self.disks, _LETTERS)
            ),
            leases="\n    ".join(
                _LEASE.format(
                    lockspace=escape(lease.lockspace),
                    key=escape(lease.resource),
                    path=quoteattr(lease.path),
                    offset=lease.offset,
                )
                for lease in leases
            ),
        )
        self.xml_path = f"/run/stack/{name}.xml"
        stack.path(self.xml_path).write_text(self.xml)

    @property
    def host(self) -> Stack:
        """Where it was made."""
        return self._stack

    def __repr__(self) -> str:
        return f"<Domain {self.name} {self.uuid} {self.on_lockfailure}>"

    def define(self) -> Domain:
        """Make it known to libvirt. Returns itself."""
        if self.transient:
            raise ValueError(f"{self.name} is transient: start() makes it known")
        self._stack.virsh("define", self.xml_path)
        return self

    def undefine(self) -> None:
        """Make libvirt forget it."""
        self._stack.virsh("undefine", self.uuid)

    def start(self) -> Domain:
        """Start it, defined before or not. Returns itself."""
        if self.transient:
            self._stack.virsh("create", self.xml_path)
        else:
            if self.state().name == "absent":
                self.define()
            self._stack.virsh("start", self.uuid)
        return self

    def destroy(self) -> None:
        """Power it off, without grace."""
        self._stack.virsh("destroy", self.uuid)

    def suspend(self) -> None:
        """Pause it; it gives its leases up."""
        self._stack.virsh("suspend", self.uuid)

    def resume(self) -> None:
        """Let it go on; it takes its leases again."""
        self._stack.virsh("resume", self.uuid)

    def state(self, host: Stack | None = None) -> State:
        """Its state and the reason, as in ("paused", "user"); on HOST, which is its own by default."""
        try:
            text = (host or self._stack).virsh("domstate", "--reason", self.uuid)
        except CommandError as error:
            if "failed to get domain" in error.stderr:
                return State("absent", "")
            raise
        name, _, reason = text.strip().partition(" (")
        return State(name, reason.rstrip(")"))

    def qemu_pid(self) -> int | None:
        """The pid of its QEMU inside the stack; None when none runs."""
        try:
            root = ElementTree.parse(self._stack.path(f"/run/libvirt/qemu/{self.name}.xml")).getroot()
        except FileNotFoundError:
            return None
        pid = int(root.get("pid", "0"))
        return pid if self._stack.is_alive(pid) else None

    def leases(self) -> list[Lease]:
        """The leases its QEMU holds now."""
        pid = self.qemu_pid()
        return [lease for lease in self._stack.leases() if lease.pid == pid]


def start_all(stack: Stack, domains: list[Domain]) -> None:
    """Define and start many: a few virsh side by side, each with its share of them."""
    shares = [domains[first::_SIDE_BY_SIDE] for first in range(_SIDE_BY_SIDE)]
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        for _ in pool.map(lambda share: _start_share(stack, share), shares):
            pass  # a failure of a share comes up here


def _start_share(stack: Stack, domains: list[Domain]) -> None:
    lines = []
    for domain in domains:
        if domain.transient:
            lines.append(f"create {domain.xml_path}")
        else:
            lines += [f"define {domain.xml_path}", f"start {domain.uuid}"]
    if lines:
        stack.virsh("\n".join(lines), timeout=60 + 2 * len(domains))

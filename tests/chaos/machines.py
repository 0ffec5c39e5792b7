# SPDX-License-Identifier: LGPL-2.1-or-later
"""The virtual machines of a run, as libvirt's XML."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

from tests.e2e.failing_disk import BOOT_SECTOR, DISK_XML, SIZE
from tests.e2e.leases import LOCKSPACE
from tests.e2e.stack import Stack
from tests.e2e.storage import IMAGES, LEASES

from .sampler import MONITOR
from .schedule import Machine

_XML = """\
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <metadata>{policy}</metadata>
  <memory unit='MiB'>8</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <on_lockfailure>{action}</on_lockfailure>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='{disk}'/>
      <target dev='vda' bus='virtio'/>
      {boot}
    </disk>
    {second}
    {leases}
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-qmp'/>
    <qemu:arg value='unix:{monitor},server=on,wait=off'/>
  </qemu:commandline>
</domain>
"""
_POLICY = "<lockfailure xmlns='urn:virt-sanlock-helper:1'{}/>"
_LEASE = "<lease><lockspace>{}</lockspace><key>{}</key><target path={}/></lease>"

# As references: a parser turns the characters themselves into others.
_REFERENCES = {"\r": "&#13;", "\t": "&#9;"}


def lease_path(file: str) -> str:
    """Where the lease of that file is."""
    return f"{LEASES}/{file}"


def disk_file(machine: Machine) -> str:
    """The name of the machine's disk."""
    return f"vm{machine.number}.img"


def disk_socket(machine: Machine) -> str:
    """Where the server of the machine's second disk is, on each host its own."""
    return f"/run/stack/{machine.number}.nbd"


def make_disk(stack: Stack, machine: Machine) -> None:
    """Make the machine's first disk: a guest that has a second one uses that all the time."""
    path = stack.path(stack.storage.disk(disk_file(machine)))
    if machine.stops:
        path.write_bytes(BOOT_SECTOR.ljust(SIZE, b"\0"))


def make_leases(stack: Stack, machine: Machine) -> None:
    """Make the leases of the machine's keys."""
    for key, file in machine.keys:
        stack.make_resource(key, file)


def write_xml(stack: Stack, machine: Machine, uuid: str) -> str:
    """Write the XML of the machine, under that UUID, on the host of STACK; returns its path inside."""
    leases = (
        _LEASE.format(LOCKSPACE, escape(key), quoteattr(lease_path(file))) for key, file in machine.keys
    )
    path = f"/run/stack/{uuid}.xml"
    text = _XML.format(
        name=escape(machine.name, _REFERENCES),
        uuid=uuid,
        policy=_policy(machine),
        action=machine.action,
        disk=f"{IMAGES}/{disk_file(machine)}",
        boot="<boot order='1'/>" if machine.stops else "",
        second=DISK_XML.format(socket=disk_socket(machine)) if machine.stops else "",
        leases="".join(leases),
        monitor=MONITOR.format(uuid),
    )
    stack.path(path).write_text(text, encoding="utf-8")
    return path


def _policy(machine: Machine) -> str:
    """Its element of metadata; the delay is that of one without."""
    order = {"priority": machine.priority, "delay": 0} if machine.priority else {}
    values = {**({"recover": machine.recover} if machine.recover else {}), **order}
    words = "".join(f" {name}='{value}'" for name, value in values.items())
    return _POLICY.format(words) if words else ""

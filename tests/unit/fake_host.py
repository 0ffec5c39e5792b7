# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host's status files and processes for unit tests: libvirt's XML, and commands that end with the test."""

from __future__ import annotations

import subprocess
from typing import Callable
from xml.sax.saxutils import escape

Start = Callable[..., "subprocess.Popen[bytes]"]

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
OTHER = "11111111-2222-3333-4444-555555555555"


def status_xml(
    name: str = "vm1", uuid: str = UUID, pid: int = 4711, metadata: str = "", state: str = "running"
) -> bytes:
    """A status file as libvirt writes it, but for what no code reads."""
    return f"""\
<!--
WARNING: THIS IS AN AUTO-GENERATED FILE.
-->

<domstatus state='{state}' reason='booted' pid='{pid}'>
  <monitor path='/var/lib/libvirt/qemu/domain-3-vm/monitor.sock' type='unix'/>
  <qemuCaps>
    <flag name='kvm'/>
  </qemuCaps>
  <domain type='kvm' id='3'>
    <name>{escape(name)}</name>
    <uuid>{uuid}</uuid>
    <metadata>{metadata}</metadata>
    <memory unit='KiB'>16384</memory>
  </domain>
</domstatus>
""".encode()

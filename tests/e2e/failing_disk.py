# SPDX-License-Identifier: LGPL-2.1-or-later
"""A disk that can be made to fail: a guest uses it all the time, over an NBD export that can be ended."""

from __future__ import annotations

import json
import subprocess

from .domains import Domain
from .stack import Stack
from .waiting import wait_for

SIZE = 1024 * 1024
SECTOR = 512

# Reads a sector of the second disk and writes it back, again and again, by the firmware's extended read and
# write (int 13h, ah=42h and 43h), and halts until the next tick of the timer, 18 times a second: so it takes
# no processor.
_BEGIN = bytes.fromhex("31c08ed8fb")
_READ = bytes.fromhex("b442b281be1b7ccd13")
_WRITE = bytes.fromhex("b80043b281be1b7ccd13")
_AGAIN = bytes.fromhex("f4ebea")
# What both are given: one sector, the first, to and from address 8000h.
_PACKET = bytes.fromhex("10000100008000000000000000000000")
BOOT_SECTOR = (_BEGIN + _READ + _WRITE + _AGAIN + _PACKET).ljust(SECTOR - 2, b"\0") + b"\x55\xaa"

DISK_XML = """<disk type='network' device='disk'>
      <driver name='qemu' type='raw' error_policy='stop' rerror_policy='stop'/>
      <source protocol='nbd' name='data'><host transport='unix' socket='{socket}'/></source>
      <target dev='vdb' bus='virtio'/>
      <boot order='2'/>
    </disk>
    """

_FIRST = "<target dev='vda' bus='virtio'/>"

# errno(3), as an NBD server gives them to its client.
EIO, ENOSPC = 5, 28


class Export:
    """An NBD server of a stack with one disk in it, over a socket at a path inside."""

    def __init__(self, stack: Stack, socket: str) -> None:
        """The disk, which is empty, is beside the SOCKET; it is not served yet."""
        self._stack = stack
        self.socket = socket
        self._image = f"{socket.rpartition('.')[0]}.img"
        self._server: subprocess.Popen[str] | None = None
        stack.path(self._image).write_bytes(bytes(SIZE))

    def serve(self, error: int = 0) -> None:
        """Serve the disk, again or for the first time.

        With EIO each read fails, with ENOSPC each write: QEMU's client has no other error for a read.
        """
        assert self._server is None
        self._stack.path(self.socket).unlink(missing_ok=True)
        image: dict[str, object] = {"driver": "file", "filename": self._image}
        if error:
            kind = "write" if error == ENOSPC else "read"
            rule = {"event": "none", "iotype": kind, "errno": error}
            image = {"driver": "blkdebug", "image": image, "inject-error": [rule]}
        source = f"json:{json.dumps({'driver': 'raw', 'file': image})}"
        words = ("qemu-nbd", "-k", self.socket, "-x", "data", "-t", "-e", "8", source)
        self._server = self._stack.popen(*words)
        wait_for(lambda: self._stack.path(self.socket).is_socket(), 10, "the NBD server")

    def fail(self) -> None:
        """End the export: each read fails at once from now on."""
        assert self._server is not None
        self._server.kill()
        self._server.communicate()
        self._server = None


class FailingDisk(Export):
    """The second disk of a domain, which is not started yet; its first one has the lease."""

    def __init__(self, stack: Stack, domain: Domain, error: int = 0) -> None:
        """ERROR is what it gives from the beginning on, see serve(); 0 for none."""
        super().__init__(stack, f"/run/stack/{domain.name}.nbd")
        stack.path(domain.disks[0]).write_bytes(BOOT_SECTOR.ljust(SIZE, b"\0"))
        xml = domain.xml.replace(_FIRST, f"{_FIRST}<boot order='1'/>", 1)
        domain.xml = xml.replace("<controller", f"{DISK_XML.format(socket=self.socket)}<controller", 1)
        stack.path(domain.xml_path).write_text(domain.xml)
        self.serve(error)

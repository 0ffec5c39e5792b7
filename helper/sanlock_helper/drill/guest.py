# SPDX-License-Identifier: LGPL-2.1-or-later
"""The drill's virtual machine: 16 MiB, no disk, no network, one lease."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Callable, NamedTuple
from xml.sax.saxutils import escape, quoteattr

import libvirt

from ..errors import HelperError, PermanentError, TransientError
from ..threads import one_at_a_time, within
from ..virt import SYSTEM_URI, processes
from ..virt.connection import failure, is_no_domain
from ..virt.domain_state import describe
from ..virt.domain_xml import XMLError, parse_xml
from ..virt.processes import Process
from .libvirtd_trial import with_remedy
from .scratch import Scratch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..virt.api import VirConnect


# The kernel's KVM first: QEMU's own emulation is for a host without.
VIRT_TYPES = ("kvm", "qemu")

# What libvirtd may take to connect, to start QEMU, to answer from memory.
CONNECT_SECONDS, START_SECONDS, STATE_SECONDS = 10.0, 30.0, 2.0

_XML = """\
<domain type='{virt_type}'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <description>Made by virt-sanlock-helper drill, for seconds</description>
  <metadata><lockfailure xmlns='urn:virt-sanlock-helper:1' recover='no'/></metadata>
  <memory unit='MiB'>16</memory>
  <vcpu>1</vcpu>
  <os><type arch={arch} machine={machine}>hvm</type></os>
  <on_lockfailure>{action}</on_lockfailure>
  <devices>
    <emulator>{emulator}</emulator>
    <lease>
      <lockspace>{name}</lockspace>
      <key>{name}</key>
      <target path={path}/>
    </lease>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
"""

_START = "start the drill's virtual machine"
_READ = "read the state of the drill's virtual machine"
_STEP = 0.02


class Choice(NamedTuple):
    """What libvirt takes for this host where nothing is asked for: an emulator, its default machine type."""

    virt_type: str
    emulator: str
    arch: str
    machine: str


class NoEmulatorError(PermanentError):
    """libvirt knows no QEMU that runs machines of this host's architecture."""


class Guest:
    """The virtual machine of a drill; libvirt ends it with this process's connection, however that ends."""

    mode = "virtual machine"

    def __init__(self, scratch: Scratch, action: str, connect: Callable[[str], VirConnect]) -> None:
        """ACTION is its on_lockfailure, poweroff or pause; CONNECT opens a URI and blocks for as long."""
        self._scratch = scratch
        self.action = action
        self._connect = connect
        self._connection: VirConnect | None = None
        self._process: Process | None = None
        self._choices: list[Choice] = []
        self.virt_type = ""
        # Never a second question while libvirtd has not answered the first.
        self._ask = one_at_a_time(STATE_SECONDS, _READ, self._state)

    @property
    def pid(self) -> int:
        """QEMU's process id, 0 while there is none that is proven."""
        return self._process.pid if self._process else 0

    def open(self) -> None:
        """Connect.  Raises HelperError."""
        try:
            self._connection = _opened(self._connect)
        except HelperError as error:
            raise with_remedy(error) from error

    def choose(self) -> None:
        """Ask libvirt which emulators serve here.  Raises HelperError, NoEmulatorError where none does."""
        self._choices = within(CONNECT_SECONDS, "read libvirt's capabilities", self._capabilities)
        if not self._choices:
            raise NoEmulatorError(_START, "libvirt has no emulator for this host", "install QEMU")

    def start(self) -> str:
        """Start it, with its lease; returns what was started.  Raises HelperError."""
        if not self._choices:
            self.choose()
        connection = self._connected()
        first: HelperError | None = None
        for choice in self._choices:
            try:
                self._create(connection, self.xml(choice))
            except HelperError as error:
                # /dev/kvm may be there and of no use, as in a virtual machine without nesting.
                first = first or error
                continue
            self.virt_type = choice.virt_type
            self._process = processes.find(self._scratch.uuid)
            if self._process is None:
                raise TransientError(_START, "its process was not found")
            return f"{self._scratch.name}, {choice.virt_type}, {choice.emulator}, process {self.pid}"
        assert first is not None
        raise first

    def _create(self, connection: VirConnect, xml: str) -> None:
        """Start a machine that libvirt ends with CONNECTION."""

        def create() -> None:
            try:
                connection.createXML(xml, libvirt.VIR_DOMAIN_START_AUTODESTROY)
            except libvirt.libvirtError as error:
                raise failure(_START, error) from error

        within(START_SECONDS, _START, create)

    def _connected(self) -> VirConnect:
        if self._connection is None:
            self.open()
        assert self._connection is not None
        return self._connection

    def _capabilities(self) -> list[Choice]:
        found = []
        for virt_type in VIRT_TYPES:
            try:
                text = self._connected().getDomainCapabilities(None, None, None, virt_type)
                root = parse_xml(text)
            except (libvirt.libvirtError, XMLError):
                continue  # libvirt has no emulator of that type
            choice = Choice(virt_type, *(root.findtext(name, "") for name in ("path", "arch", "machine")))
            if all(choice):
                found.append(choice)
        return found

    def xml(self, choice: Choice) -> str:
        """The definition of the machine."""
        scratch = self._scratch
        return _XML.format(
            virt_type=choice.virt_type,
            name=scratch.name,
            uuid=scratch.uuid,
            arch=quoteattr(choice.arch),
            machine=quoteattr(choice.machine),
            emulator=escape(choice.emulator),
            action=self.action,
            path=quoteattr(scratch.lease_path),
        )

    def state(self) -> tuple[bool, str]:
        """Whether the action's goal is reached, and the state in words.  Raises TransientError."""
        return self._ask()

    def _state(self) -> tuple[bool, str]:
        try:
            domain = self._connected().lookupByUUIDString(self._scratch.uuid)
            state, reason = domain.state()
        except libvirt.libvirtError as error:
            if not is_no_domain(error):
                raise failure(_READ, error) from error
            # libvirt has no transient domain that is off; what counts is the process.
            is_over = self._process is None or self._process.is_over()
            return is_over and self.action == "poweroff", "off" if is_over else "forgotten, its process runs"
        is_paused = state == libvirt.VIR_DOMAIN_PAUSED
        return is_paused and self.action == "pause", describe(state, reason)

    def close(self) -> None:
        """Close the connection; the machine ends with it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(HelperError, libvirt.libvirtError):
                within(STATE_SECONDS, "close the connection", connection.close)


def end(scratch: Scratch, connect: Callable[[str], VirConnect]) -> None:
    """End the machine of SCRATCH, if there is one: by libvirtd, or by a signal where that does not answer.

    The signal goes to a process with the UUID of SCRATCH on its command line alone.  Raises HelperError,
    OSError.
    """
    why: HelperError | None = None
    try:
        connection = _opened(connect)
        within(START_SECONDS, "end the drill's virtual machine", lambda: _destroy(connection, scratch.uuid))
    except HelperError as error:
        why = error
    process = processes.find(scratch.uuid)
    found = [process] if process else processes.Processes().scan(scratch.uuid)
    for each in found:
        _kill(each)
    if why is not None and found and not all(each.is_over() for each in found):
        raise why


def _opened(connect: Callable[[str], VirConnect]) -> VirConnect:
    """What CONNECT opens, in time.  Raises HelperError."""
    return within(CONNECT_SECONDS, f"connect to {SYSTEM_URI}", lambda: connect(SYSTEM_URI))


def _destroy(connection: VirConnect, uuid: str) -> None:
    try:
        connection.lookupByUUIDString(uuid).destroy()
    except libvirt.libvirtError as error:
        if not is_no_domain(error):
            raise failure("end the drill's virtual machine", error) from error
    finally:
        with contextlib.suppress(libvirt.libvirtError):
            connection.close()


def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    until = time.monotonic() + STATE_SECONDS
    while not process.is_over() and time.monotonic() < until:
        time.sleep(_STEP)

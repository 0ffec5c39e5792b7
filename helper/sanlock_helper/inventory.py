# SPDX-License-Identifier: LGPL-2.1-or-later
"""All domains of a connection, with what matters when a lease is lost; nothing is changed.

The number of calls does not grow with the number of domains: names, UUIDs, ids and states come in one
(virConnectGetAllDomainStats), and the XML of the host's own QEMU domains is read from libvirt's files, as
libvirt has no bulk call for it.  Elsewhere each domain's XML is asked for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import libvirt

from . import policy
from .connection import failure
from .domain_state import state_name
from .leases import QEMU_STATE_DIR

# Status files of running domains (live XML, on tmpfs), and the XML of persistent ones: stateDir and configDir
# of libvirt src/qemu/qemu_conf.c.
QEMU_CONFIG_DIR = "/etc/libvirt/qemu"

# Calls where libvirt has no domain statistics: one for each kind of state.
_LISTS = (
    (libvirt.VIR_CONNECT_LIST_DOMAINS_RUNNING, libvirt.VIR_DOMAIN_RUNNING),
    (libvirt.VIR_CONNECT_LIST_DOMAINS_PAUSED, libvirt.VIR_DOMAIN_PAUSED),
    (libvirt.VIR_CONNECT_LIST_DOMAINS_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF),
    (libvirt.VIR_CONNECT_LIST_DOMAINS_OTHER, libvirt.VIR_DOMAIN_NOSTATE),
)


@dataclass(frozen=True)
class Disk:
    """A disk's source: its path as libvirt has it, and its type: file, block or dir."""

    path: str
    kind: str
    readonly: bool
    shared: bool


@dataclass(frozen=True)
class DomainConfig:
    """What a domain's XML says.

    `on_lockfailure` is "default" where the XML has none; `recover` is None where the policy in the metadata
    is malformed, which `recover_error` says; `leases` are explicit ones, (lockspace, key); `pid` is that of
    its QEMU where the XML is a status file.
    """

    on_lockfailure: str
    recover: bool | None
    disks: tuple[Disk, ...]
    leases: tuple[tuple[str, str], ...]
    pid: int | None
    recover_error: str = ""


@dataclass(frozen=True)
class KnownDomain:
    """One domain; `id` is None when it is not active, `config` when its XML could not be had."""

    name: str
    uuid: str
    id: int | None
    state: str
    config: DomainConfig | None
    config_error: str = ""

    @property
    def is_active(self) -> bool:
        """Whether it has a process."""
        return self.id is not None

    @property
    def problems(self) -> list[str]:
        """What could not be read of it."""
        return [text for text in (self.config_error, self.config and self.config.recover_error) if text]


def take_inventory(
    connection: Any, state_dir: str = QEMU_STATE_DIR, config_dir: str = QEMU_CONFIG_DIR
) -> list[KnownDomain]:
    """All domains of CONNECTION by name.  Raises PassingError or FinalError when libvirtd does not say."""
    try:
        local = connection.getURI() == "qemu:///system"
        found = _states(connection)
    except libvirt.libvirtError as error:
        raise failure("list the domains", error) from error
    folders = (state_dir, config_dir) if local else ()
    domains = [_known(domain, state, folders) for domain, state in found]
    return sorted(domains, key=lambda domain: domain.name)


def _states(connection: Any) -> list[tuple[Any, int]]:
    try:
        records = connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE, 0)
        return [(domain, values.get("state.state", 0)) for domain, values in records]
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
            raise
    return [(domain, state) for flag, state in _LISTS for domain in connection.listAllDomains(flag)]


def _known(domain: Any, state: int, folders: tuple[str, ...]) -> KnownDomain:
    number = domain.ID()
    active = number != -1
    config, problem = None, ""
    try:
        config = _from_files(domain.name(), domain.UUIDString(), folders if active else folders[1:])
        if config is None:
            config = parse_domain(domain.XMLDesc(0))
    except libvirt.libvirtError as error:
        problem = str(failure("read the domain's XML", error))
    except (ElementTree.ParseError, ValueError) as error:
        problem = f"its XML cannot be read: {error}"
    return KnownDomain(
        domain.name(), domain.UUIDString(), number if active else None, state_name(state), config, problem
    )


def _from_files(name: str, uuid: str, folders: tuple[str, ...]) -> DomainConfig | None:
    """The first file of libvirt's that is about this very domain; None when there is none to be read."""
    for folder in folders:
        try:
            with open(os.path.join(folder, f"{name}.xml"), "rb") as file:
                text = file.read()
        except OSError:
            continue
        if f"<uuid>{uuid}</uuid>".encode() in text:
            return parse_domain(text)
    return None


def parse_domain(xml: str | bytes) -> DomainConfig:
    """Read a domain's XML or libvirt's status file of it.  Raises ParseError or ValueError."""
    root = ElementTree.fromstring(xml)
    domain = root if root.tag == "domain" else root.find("domain")
    if domain is None:
        raise ValueError("no <domain> in it")
    recover, recover_error = _recover(domain)
    pid = root.get("pid", "")
    return DomainConfig(
        on_lockfailure=domain.findtext("on_lockfailure", "default"),
        recover=recover,
        disks=tuple(disk for disk in map(_disk, domain.iterfind("devices/disk")) if disk is not None),
        leases=tuple(
            (lease.findtext("lockspace", ""), lease.findtext("key", ""))
            for lease in domain.iterfind("devices/lease")
        ),
        pid=int(pid) if pid.isdigit() else None,
        recover_error=recover_error,
    )


def _recover(domain: ElementTree.Element) -> tuple[bool | None, str]:
    """The policy in the XML of DOMAIN as recovery reads it, and what is wrong with it."""
    try:
        return policy.in_element(domain), ""
    except policy.PolicyError as error:
        return None, str(error)


def _disk(element: ElementTree.Element) -> Disk | None:
    """A disk on this host's storage; None for others, which libvirt locks no lease for.

    Source: virDomainLockManagerAddImage() in libvirt ``src/locking/domain_lock.c``.
    """
    kind = element.get("type", "")
    source = element.find("source")
    path = (
        None if source is None else source.get({"file": "file", "block": "dev", "dir": "dir"}.get(kind, ""))
    )
    if not path:
        return None
    readonly = element.find("readonly") is not None or element.get("device") == "cdrom"
    return Disk(path, kind, readonly, element.find("shareable") is not None)

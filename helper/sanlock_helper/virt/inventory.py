# SPDX-License-Identifier: LGPL-2.1-or-later
"""All domains of a connection, with what matters when a lease is lost; nothing is changed.

The number of calls does not grow with the number of domains: names, UUIDs, ids and states come in one
(virConnectGetAllDomainStats), and the XML of the host's own QEMU domains is read from libvirt's files, as
libvirt has no bulk call for it.  Elsewhere each domain's XML is asked for.  Without libvirtd the host itself
knows the domains that run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Callable

import libvirt

from ..errors import PermanentError
from ..regular_file import read_regular
from . import SYSTEM_URI, policy
from .connection import failure
from .domain_names import CONFIG_DIR, names_by_uuid
from .domain_state import state_name
from .domain_xml import parse_xml
from .processes import Processes, command_line, uuid_in
from .status_files import MAX_BYTES, STATE_WORDS, Status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xml.etree import ElementTree

    from .api import VirConnect, VirDomain

# Calls where libvirt has no domain statistics: one for each kind of state.
_LISTS = (
    (libvirt.VIR_CONNECT_LIST_DOMAINS_RUNNING, libvirt.VIR_DOMAIN_RUNNING),
    (libvirt.VIR_CONNECT_LIST_DOMAINS_PAUSED, libvirt.VIR_DOMAIN_PAUSED),
    (libvirt.VIR_CONNECT_LIST_DOMAINS_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF),
    (libvirt.VIR_CONNECT_LIST_DOMAINS_OTHER, libvirt.VIR_DOMAIN_NOSTATE),
)


@dataclass(frozen=True)
class Disk:
    """A disk's source: its path as libvirt has it, and its type: file, block or dir.

    Of type volume is what a storage pool has, `volume` of `pool`, whose path is not known: "".
    """

    path: str
    kind: str
    readonly: bool
    shared: bool
    pool: str = ""
    volume: str = ""


@dataclass(frozen=True)
class DomainConfig:
    """What a domain's XML has.

    `on_lockfailure` is "default" where the XML has none; `recover` is None where the policy in the metadata
    is malformed, and `recover_error` has the reason; `is_default` where it has none: see with_default();
    `leases` are explicit ones, (lockspace, key), and `lease_paths` where they are on storage, in the same
    order.
    """

    on_lockfailure: str
    recover: bool | None
    disks: tuple[Disk, ...]
    leases: tuple[tuple[str, str], ...]
    recover_error: str = ""
    lease_paths: tuple[str, ...] = ()
    is_default: bool = False


@dataclass(frozen=True)
class KnownDomain:
    """One domain; `id` is None when it is not active, `config` when its XML could not be had.

    `pid` is its QEMU process, where it is one of this host's and proven; of a domain that is not active, one
    that libvirtd has forgotten.
    """

    name: str
    uuid: str
    id: int | None
    state: str
    config: DomainConfig | None
    config_error: str = ""
    pid: int | None = None

    @property
    def is_active(self) -> bool:
        """Whether it has a process."""
        return self.id is not None

    @property
    def problems(self) -> list[str]:
        """What could not be read of it."""
        return [text for text in (self.config_error, self.config and self.config.recover_error) if text]


def take_inventory(
    connection: VirConnect, processes: Processes | None = None, config_dir: str = CONFIG_DIR
) -> list[KnownDomain]:
    """All domains of CONNECTION by name.  Raises TransientError or PermanentError when there is no answer.

    PROCESSES and CONFIG_DIR are the host's, for a connection to its own qemu:///system.
    """
    try:
        local = connection.getURI() == SYSTEM_URI
        found = _states(connection)
    except libvirt.libvirtError as error:
        raise failure("list the domains", error) from error
    files = _Files(processes or Processes(), config_dir) if local else None
    domains = [_known(domain, state, files) for domain, state in found]
    return sorted(domains, key=lambda domain: domain.name)


def running_domains(processes: Processes | None = None) -> list[KnownDomain]:
    """The QEMU domains that run on this host, by name, from libvirt's status files: without libvirtd."""
    processes = processes or Processes()
    found = []
    for statuses in _by_uuid(processes).values():
        status, process = processes.first(statuses)
        if status is None or process is None:
            continue  # it has ended, and libvirtd was not there to notice
        config, problem = _parsed(status.xml)
        state = STATE_WORDS.get(status.state, status.state)
        found.append(KnownDomain(status.name, status.uuid, status.id, state, config, problem, process.pid))
    return sorted(found, key=lambda domain: domain.name)


def _by_uuid(processes: Processes) -> dict[str, list[Status]]:
    """The status files of each domain, newest first: there may be a copy of one."""
    found: dict[str, list[Status]] = {}
    for status in sorted(processes.files.all(), key=lambda status: status.written, reverse=True):
        found.setdefault(status.uuid, []).append(status)
    return found


def find_forgotten(
    domains: list[KnownDomain],
    holders: set[int],
    names: Callable[[], Mapping[str, str]] = names_by_uuid,
) -> tuple[list[KnownDomain], list[str]]:
    """DOMAINS, with the processes among HOLDERS, of leases, that libvirtd does not have for theirs.

    A libvirtd that has lost the status file of a running domain calls it shut off, or does not know it.  The
    second list names the processes of the latter kind, and their domains by UUID and by what NAMES has.
    """
    pids = {}
    for pid in sorted(holders - {domain.pid for domain in domains}):
        try:
            uuid = uuid_in(command_line(pid))
        except OSError:
            continue
        if uuid:
            pids[uuid] = pid
    found = [
        replace(domain, pid=pids.pop(domain.uuid)) if domain.pid is None and domain.uuid in pids else domain
        for domain in domains
    ]
    known = {domain.uuid for domain in domains}
    unknown = {uuid: pid for uuid, pid in pids.items() if uuid not in known}
    called = names() if unknown else {}
    return found, [
        f"process {pid} holds leases, and libvirtd does not know its domain "
        f"{f'{called[uuid]} ({uuid})' if uuid in called else uuid}: sanlock will kill it"
        for uuid, pid in unknown.items()
    ]


class _Files:
    """libvirt's own files on the domains of this host."""

    def __init__(self, processes: Processes, config_dir: str) -> None:
        self._processes = processes
        self._config_dir = config_dir
        self._running = _by_uuid(processes)

    def running(self, uuid: str) -> tuple[Status | None, int | None]:
        """The status file of a running domain and its process, None where that is not proven."""
        status, process = self._processes.first(self._running.get(uuid, []))
        return status, process.pid if process else None

    def defined(self, name: str, uuid: str) -> str | None:
        """The XML of a persistent domain, None where its file cannot be read or is another domain's."""
        try:
            text = read_regular(os.path.join(self._config_dir, f"{name}.xml"), MAX_BYTES).decode()
            return text if parse_xml(text).findtext("uuid") == uuid else None
        except (OSError, ValueError, PermanentError):
            return None


def _states(connection: VirConnect) -> list[tuple[VirDomain, int]]:
    try:
        records = connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE, 0)
        return [(domain, values.get("state.state", 0)) for domain, values in records]
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
            raise
    return [(domain, state) for flag, state in _LISTS for domain in connection.listAllDomains(flag)]


def _known(domain: VirDomain, state: int, files: _Files | None) -> KnownDomain:
    number, name, uuid = domain.ID(), domain.name(), domain.UUIDString()
    active = number != -1
    status, pid = files.running(uuid) if files and active else (None, None)
    xml = status.xml if status else None
    if xml is None and files is not None and not active:
        xml = files.defined(name, uuid)
    config, problem = None, ""
    try:
        config, problem = _parsed(domain.XMLDesc(0) if xml is None else xml)
    except libvirt.libvirtError as error:
        problem = str(failure("read the domain's XML", error))
    return KnownDomain(name, uuid, number if active else None, state_name(state), config, problem, pid)


def _parsed(xml: str) -> tuple[DomainConfig | None, str]:
    try:
        return parse_domain(xml), ""
    except ValueError as error:
        return None, f"its XML cannot be read: {error}"


def parse_domain(xml: str | bytes) -> DomainConfig:
    """Read a domain's XML.  Raises ValueError."""
    domain = parse_xml(xml)
    if domain.tag != "domain":
        raise ValueError("its root is no <domain>")
    found, recover_error = _policy(domain)
    leases = domain.findall("devices/lease")
    return DomainConfig(
        on_lockfailure=domain.findtext("on_lockfailure", "default"),
        recover=None if found is None else bool(found.recover),
        disks=tuple(disk for disk in map(_disk, domain.iterfind("devices/disk")) if disk is not None),
        leases=tuple((lease.findtext("lockspace", ""), lease.findtext("key", "")) for lease in leases),
        recover_error=recover_error,
        lease_paths=tuple(_lease_path(lease) for lease in leases),
        is_default=found is not None and found.recover is None,
    )


def _lease_path(lease: ElementTree.Element) -> str:
    target = lease.find("target")
    return "" if target is None else target.get("path", "")


def _policy(domain: ElementTree.Element) -> tuple[policy.Policy | None, str]:
    """The policy in the XML of DOMAIN as recovery reads it, and what is wrong with it."""
    try:
        found = policy.of_element(domain)
    except policy.PolicyError as error:
        return None, str(error)
    return found, found.problem


def with_default(domains: list[KnownDomain], default: bool | None) -> list[KnownDomain]:
    """DOMAINS, as the host's DEFAULT has those without a policy of their own be brought back or not."""
    return [
        replace(domain, config=replace(domain.config, recover=default))
        if domain.config is not None and domain.config.is_default
        else domain
        for domain in domains
    ]


def _disk(element: ElementTree.Element) -> Disk | None:
    """A disk on this host's storage; None for others, which libvirt locks no lease for.

    Source: virDomainLockManagerAddImage() in libvirt ``src/locking/domain_lock.c``.
    """
    kind = element.get("type", "")
    source = element.find("source")
    if source is None:
        return None
    path = source.get({"file": "file", "block": "dev", "dir": "dir"}.get(kind, ""), "")
    pool, volume = (source.get("pool", ""), source.get("volume", "")) if kind == "volume" else ("", "")
    # An iSCSI volume in mode direct is QEMU's own connection, and no path of this host.
    if not path and (not volume or source.get("mode") == "direct"):
        return None
    readonly = element.find("readonly") is not None or element.get("device") == "cdrom"
    return Disk(path, kind, readonly, element.find("shareable") is not None, pool, volume)

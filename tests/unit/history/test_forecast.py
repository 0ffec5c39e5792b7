# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is known of the domains, and what is foretold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("libvirt")

import libvirt

from sanlock_helper.errors import PermanentError
from sanlock_helper.history.forecast import make_rows
from sanlock_helper.history.outages import OutageEvent
from sanlock_helper.leases.sanlock_status import HeldLease, JoinedLockspace, SanlockStatus
from sanlock_helper.virt.inventory import (
    Disk,
    DomainConfig,
    KnownDomain,
    find_forgotten,
    parse_domain,
    running_domains,
    take_inventory,
)
from sanlock_helper.virt.processes import Processes
from sanlock_helper.virt.status_files import StatusFiles

from ..fake_host import OTHER, Start
from ..libvirt_errors import libvirt_error

XML = """<domain type='kvm' id='1'>
  <name>vm1</name><uuid>{uuid}</uuid>
  <metadata><lockfailure xmlns="urn:virt-sanlock-helper:1" recover="{recover}"/></metadata>
  {on_lockfailure}
  <devices>
    <disk type='file' device='disk'><source file='/a.img'/><shareable/></disk>
    <disk type='block' device='cdrom'><source dev='/dev/sr0'/></disk>
    <disk type='network' device='disk'><source protocol='rbd' name='x'/></disk>
    <disk type='file' device='cdrom'/>
    <lease><lockspace>space</lockspace><key>k</key><target path='/x'/></lease>
  </devices>
</domain>"""
UUID = "defc17ee-2773-427c-8210-136921a454d3"
ACTION = "<on_lockfailure>pause</on_lockfailure>"


def test_the_xml_of_a_domain() -> None:
    xml = XML.format(uuid=UUID, recover="yes", on_lockfailure=ACTION)
    disks = (Disk("/a.img", "file", False, True), Disk("/dev/sr0", "block", True, False))
    assert parse_domain(xml) == DomainConfig("pause", True, disks, (("space", "k"),), lease_paths=("/x",))
    other = parse_domain(XML.format(uuid=UUID, recover="no", on_lockfailure=""))
    assert (other.on_lockfailure, other.recover) == ("default", False)
    assert not parse_domain(XML.format(uuid=UUID, recover="maybe", on_lockfailure="")).recover
    with pytest.raises(ValueError, match="no <domain>"):
        parse_domain("<network/>")


class FakeDomain:
    """A virDomain that counts what it is asked for."""

    def __init__(self, name: str, number: int, xml: str) -> None:
        self._name, self._number, self._xml = name, number, xml
        self.asked = 0

    def name(self) -> str:
        return self._name

    def UUIDString(self) -> str:
        return UUID

    def ID(self) -> int:
        return self._number

    def XMLDesc(self, _flags: int) -> str:
        self.asked += 1
        if not self._xml:
            raise libvirt_error(libvirt.VIR_ERR_OPERATION_FAILED)
        return self._xml


class FakeConnection:
    """A virConnect with FakeDomains, with or without domain statistics."""

    def __init__(self, *domains: FakeDomain, has_stats: bool = True, uri: str = "qemu:///system") -> None:
        self.domains, self.has_stats, self.uri = domains, has_stats, uri

    def getURI(self) -> str:
        return self.uri

    def getAllDomainStats(self, _stats: int, _flags: int) -> list[tuple[FakeDomain, dict[str, int]]]:
        if not self.has_stats:
            raise libvirt_error(libvirt.VIR_ERR_NO_SUPPORT)
        return [(domain, {"state.state": libvirt.VIR_DOMAIN_RUNNING}) for domain in self.domains]

    def listAllDomains(self, flag: int) -> list[FakeDomain]:
        return list(self.domains) if flag == libvirt.VIR_CONNECT_LIST_DOMAINS_PAUSED else []


def test_xml_comes_from_libvirts_files_and_only_of_the_very_domain(tmp_path: Path, start: Start) -> None:
    running, defined = tmp_path / "run", tmp_path / "etc"
    running.mkdir()
    defined.mkdir()
    live = XML.format(uuid=UUID, recover="yes", on_lockfailure=ACTION)
    qemu = start("-uuid", UUID)
    processes = Processes(StatusFiles(str(running)))
    status = f"<domstatus state='running' reason='booted' pid='{qemu.pid}'>{live}</domstatus>"
    (running / "vm1.xml").write_text(status)
    (defined / "vm1.xml").write_text(XML.format(uuid=UUID, recover="no", on_lockfailure=""))
    domain = FakeDomain("vm1", 1, "")

    def take(**options: bool | str) -> KnownDomain:
        connection = FakeConnection(domain, **options)  # type: ignore[arg-type]
        (known,) = take_inventory(connection, processes, str(defined))  # type: ignore[arg-type]
        return known

    known = take()
    assert known.config is not None
    assert (known.pid, known.config.recover, known.state, domain.asked) == (qemu.pid, True, "running", 0)
    (same,) = running_domains(processes)
    assert (same.name, same.uuid, same.id, same.state, same.pid) == ("vm1", UUID, 1, "running", qemu.pid)
    assert same.config == known.config
    # A status file of a domain that is off is what a libvirtd that was killed left behind.
    off = FakeConnection(FakeDomain("vm1", -1, ""))
    assert [
        known.config and known.config.recover
        for known in take_inventory(off, processes, str(defined))  # type: ignore[arg-type]
    ] == [False]
    # Another domain of that name, whose file is gone: libvirt is asked, and its answer is shown.
    for folder, text in ((running, status), (defined, live)):
        (folder / "vm1.xml").write_text(text.replace(UUID, UUID.replace("d", "e")))
    assert running_domains(processes) == []
    assert (take().config, domain.asked) == (None, 1)
    assert "it did not work" in take().config_error
    assert take(has_stats=False).state == "paused"
    assert take(uri="qemu+ssh://other/system").config is None


def test_what_stands_in_the_metadata_is_about_no_other_domain(tmp_path: Path) -> None:
    other = UUID.replace("d", "e")
    text = XML.format(uuid=other, recover="yes", on_lockfailure=ACTION)
    text = text.replace("<metadata>", f"<metadata><a:b xmlns:a='urn:a'><uuid>{UUID}</uuid></a:b>")
    assert f"<uuid>{UUID}</uuid>" in text
    (tmp_path / "vm1.xml").write_text(text)
    processes = Processes(StatusFiles(f"{tmp_path}/none"))
    (known,) = take_inventory(FakeConnection(FakeDomain("vm1", -1, "")), processes, str(tmp_path))  # type: ignore[arg-type]
    assert known.config is None


def test_a_libvirtd_that_refuses() -> None:
    class Silent(FakeConnection):
        def getURI(self) -> str:
            raise libvirt_error(libvirt.VIR_ERR_ACCESS_DENIED)

    with pytest.raises(PermanentError, match="list the domains"):
        take_inventory(Silent())  # type: ignore[arg-type]


def known(action: str = "pause", recover: bool = False, number: int | None = 1) -> KnownDomain:
    return KnownDomain("vm1", UUID, number, "running", DomainConfig(action, recover, (), ()), "", 60)


def status(grace: int = 40, killing: int = 0) -> SanlockStatus:
    space = JoinedLockspace("disks", 1, "/x", 0, {"io_timeout": "10", "killing_pids": str(killing)})
    return SanlockStatus(
        {"kill_grace_seconds": str(grace)}, (space,), (HeldLease("disks", "r", "/x", 0, 60),)
    )


@pytest.mark.parametrize(
    ("domain", "sanlock", "text"),
    [
        (known(), status(), "paused at 80 s, else SIGKILL at 120 s"),
        # libvirt suspends none that sleeps.
        (
            replace(known(), state="pmsuspended"),
            status(),
            "woken up, then paused at 80 s, else SIGKILL at 120 s",
        ),
        (
            replace(known("poweroff"), state="pmsuspended"),
            status(),
            "powered off at 80 s, else SIGKILL at 120 s",
        ),
        (known(recover=True), status(), "paused at 80 s, else SIGKILL at 120 s; resumed later"),
        (
            known("poweroff", True),
            status(),
            "powered off at 80 s, else SIGKILL at 120 s; started again later",
        ),
        (known("restart"), status(), "powered off at 80 s, else SIGKILL at 120 s; started again later"),
        (known("ignore"), status(), "SIGKILL at 120 s"),
        (known("default"), status(), "SIGTERM at 80 s, SIGKILL at 120 s"),
        (known(), status(grace=0), "SIGKILL at 80 s, without the helper"),
        (replace(known(number=None), pid=None), status(), "nothing, it is off"),
        (
            known(number=None),
            status(),
            "SIGKILL at 120 s: libvirtd has it as off, and its process 60 runs",
        ),
        (known(), SanlockStatus({}, (), ()), "nothing, it holds no lease"),
        (known(), None, "not known, sanlock does not answer"),
        (KnownDomain("vm1", UUID, 1, "running", None), None, "not known, sanlock does not answer"),
        (
            KnownDomain("vm1", UUID, 1, "running", DomainConfig("pause", False, (), ())),
            status(),
            "not known, it is no process of this host that could be found",
        ),
    ],
)
def test_what_would_happen(domain: KnownDomain, sanlock: SanlockStatus | None, text: str) -> None:
    (row,) = make_rows([domain], sanlock, {})
    assert row.at_loss.text == text


def test_leases_a_loss_and_the_last_event() -> None:
    event = OutageEvent(1.0, "done", "pause", "vm1", UUID)
    (row,) = make_rows([known()], status(killing=1), {UUID: event})
    assert (row.leases, row.lost, row.last) == ({"disks": 1}, ("disks",), event)
    (row,) = make_rows([known()], None, {})
    assert (row.leases, row.lost) == (None, ())


def test_a_process_that_libvirtd_has_forgotten_is_not_off(start: Start) -> None:
    """libvirtd has it as off, or does not know it: "nothing, it is off"."""
    qemu, stray, other = start("-uuid", UUID), start("-uuid", OTHER), start("-m", "16")
    domains = [KnownDomain("vm1", UUID, None, "shut off", None)]
    found, problems = find_forgotten(domains, {qemu.pid, stray.pid, other.pid, 2**22})
    assert [domain.pid for domain in found] == [qemu.pid]
    assert [problem.split(",")[0] for problem in problems] == [f"process {stray.pid} holds leases"]
    for names, called in (({}, OTHER), ({OTHER: "vm2"}, f"vm2 ({OTHER})")):
        _, (problem,) = find_forgotten(domains, {stray.pid}, lambda names=names: names)  # type: ignore[misc]
        assert f"does not know its domain {called}: sanlock will kill it" in problem
    sanlock = SanlockStatus({}, (), (HeldLease("LS", "a", "/a", 0, qemu.pid),))
    (row,) = make_rows(found, sanlock, {})
    assert row.leases == {"LS": 1}
    assert row.at_loss.text.endswith(f"s: libvirtd has it as off, and its process {qemu.pid} runs")
    assert row.at_loss.helper_seconds is None
    assert row.at_loss.sigkill_seconds is not None

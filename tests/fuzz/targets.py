# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table of parsers: what each is given, from bytes, and which errors it may raise.

A function here does with the bytes what the program does with them, from the file or the answer to what is
made of it.  What it returns, if it is text, is what would be reported.  Modules are imported when a target is
used first: some are not there under each Python, and fuzzing instruments them.
"""

from __future__ import annotations

import atexit
import binascii
import functools
import json
import os
import shutil
import socket
import tempfile
import threading
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Callable

from libvirt_auth.errors import AuthError
from sanlock_helper.errors import SanlockHelperError
from sanlock_helper.spool import SpoolError

from . import seeds

if TYPE_CHECKING:
    from sanlock_helper.history.journal_entries import Entry

# An input of about so many bytes.
Shape = Callable[[int], bytes]

MIB = 1 << 20


@dataclass(frozen=True)
class Target:
    """One parser.

    allowed: the errors that it may raise.  most: the largest input that the program gives it, in bytes, or
    that is tried.  For inputs that grow see shapes.py.
    """

    name: str
    parse: Callable[[bytes], object]
    seeds: list[bytes]
    allowed: tuple[type[Exception], ...] = ()
    most: int = MIB

    def missing(self) -> str:
        """Why it cannot be tried here, "" when it can: a library that is not installed."""
        for seed in self.seeds:
            try:
                self.parse(seed)
            except ImportError as error:
                return str(error)
            except Exception:  # a fault, perhaps: that is for the tests to find
                pass
        return ""


def text_of(data: bytes) -> str:
    """As file names, arguments and other programs' answers are decoded."""
    return data.decode("utf-8", "surrogateescape")


@functools.cache
def folder() -> Path:
    """A directory of this process's own, which ends with it."""
    made = Path(tempfile.mkdtemp(prefix="fuzz-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def written(name: str, data: bytes) -> str:
    """The path of a file NAME with DATA in it."""
    path = folder() / name
    path.write_bytes(data)
    return str(path)


# libvirt's client authentication


def arguments(data: bytes) -> None:
    from sanlock_helper.invocation import Invocation

    Invocation.parse([os.fsdecode(word) for word in data.split(b"\0")])


def uri(data: bytes) -> None:
    from libvirt_auth.files import auth_file_candidates
    from libvirt_auth.uri import URI, service_of

    parts = URI(os.fsdecode(data))
    service_of(parts)
    list(auth_file_candidates(os.fsdecode(data), {}))


def auth_conf(data: bytes) -> None:
    from libvirt_auth.config import FIELDS, AuthConfig

    for glib in ((2, 40, 0), (2, 84, 0)):
        config = AuthConfig.from_bytes(data, glib=glib)
        for service, host in (("libvirt", "h"), ("esx", None)):
            config.odd_fields(service, host)
            for name in FIELDS:
                config.lookup(service, host, name)
                config.why_none(service, host, name)


# Configuration files


def libvirt_conf(data: bytes) -> None:
    from sanlock_helper.virt.libvirt_conf import given_again, in_force, parse_settings
    from sanlock_helper.virt.qemu_sanlock_conf import make_lock_conf

    settings = parse_settings(data)
    given_again(settings)
    make_lock_conf(in_force(settings))
    # As in virConfGetValue() of libvirt src/util/virconf.c.
    first: dict[str, object] = {}
    for setting in settings:
        first.setdefault(setting.name, setting.value)
    assert in_force(settings) == first


def libvirt_conf_file(data: bytes) -> None:
    from sanlock_helper.virt.qemu_sanlock_conf import auto_lockspace, read_lock_conf

    path = written("qemu-sanlock.conf", data)
    auto_lockspace(path)
    read_lock_conf(Path(path))


def sanlock_conf(data: bytes) -> str:
    from sanlock_helper.checks.configuration import check_files
    from sanlock_helper.checks.facts import sanlock_settings
    from sanlock_helper.leases.grace import MAX_GRACE, learn_grace

    path = written("sanlock.conf", data)
    assert 0 <= learn_grace(path, str(folder() / "no-sanlock"), 0.1) <= MAX_GRACE
    check_files({path: sanlock_settings(path)}, path)
    return ""


def multipath_conf(data: bytes) -> str:
    from sanlock_helper.checks.multipath import check_multipath, multipath_in_force
    from sanlock_helper.leases.timeline import Timeline

    written("multipath.conf", data)
    in_force = multipath_in_force(folder(), str(folder() / "no-multipathd"))
    found = check_multipath(in_force, Timeline(10, 40, 60))
    return f"{found.found} {found.remedy}"


# XML


def policy_in_xml(data: bytes) -> None:
    from sanlock_helper.virt import policy

    policy.of_xml(text_of(data))


def inventory(data: bytes) -> str:
    from sanlock_helper.virt.inventory import _parsed

    config, problem = _parsed(text_of(data))
    return f"{problem}{config.recover_error if config else ''}"


def definition_file(data: bytes) -> None:
    from sanlock_helper.recovery.domain_identity import is_persistent
    from sanlock_helper.virt.inventory import _Files
    from sanlock_helper.virt.processes import Processes
    from sanlock_helper.virt.status_files import StatusFiles

    written("vm1.xml", data)
    place = str(folder())
    is_persistent("vm1", seeds.UUID, place)
    _Files(Processes(StatusFiles(f"{place}/none")), place).defined("vm1", seeds.UUID)


def domain_identity(data: bytes) -> str:
    from sanlock_helper.recovery.domain_identity import why_another

    def path_of(pool: str, volume: str) -> str:
        return f"/{pool}/{volume}"

    xml = text_of(data)
    why_another(seeds.make_record("old"), "vm1", xml, path_of)
    stranger = seeds.make_stranger()
    if seeds.STRANGE not in xml:
        assert why_another(stranger, "vm1", xml, path_of), "another machine passes for this one"
    return why_another(seeds.make_record("vm1", xml=xml), "vm1", seeds.domain_xml(), path_of)


def status_file(data: bytes) -> None:
    """The short way and the long one find the same, or refuse the same."""
    from sanlock_helper.virt.status_files import Status, StatusFileError, _Reader, parse_status_file

    long = _Reader(data)
    if long._has_many:
        parse_status_file(data)  # by the long way
        return
    long._begin, long._end, long._is_found = -1, -1, False
    expected: Status | None = None
    try:
        expected = long.status()
    except Exception:  # what parse_status_file() makes one error of
        pass
    try:
        found = parse_status_file(data)
    except StatusFileError:
        assert expected is None, f"the long way has {expected and expected.name!r}, the short one nothing"
        raise
    assert expected is not None, f"the short way has {found.name!r}, the long one nothing"
    for name in Status.__slots__:
        assert getattr(found, name) == getattr(expected, name), name


# This program's own files


# Up to so many bytes a record is also written again.
_REPEATED = 16 * 1024


def record(data: bytes) -> None:
    """As it is, and with the checksum made right: behind that is all the rest."""
    from sanlock_helper.records.record import RecordError, check, decode

    body = data.rpartition(b"\ncrc32 ")[0] + b"\n"
    right = b"%bcrc32 %d\n" % (body, binascii.crc32(body))
    try:
        decode(data)
    except RecordError:
        pass
    found = decode(right)
    str(found)
    check(found)
    if len(data) < _REPEATED:
        again = decode(found.encode())
        assert again.encode() == found.encode()
        # Not a number is equal to nothing: such a record would be a new one at each reading.
        assert again.time == found.time


def record_file(data: bytes) -> None:
    from sanlock_helper.records.directory import RecordDirectory

    path = written(f"{seeds.UUID}.record", data)
    os.chmod(path, 0o600)
    RecordDirectory(str(folder())).read(seeds.UUID)


_INFINITE = float("inf")


def request(data: bytes) -> None:
    from sanlock_helper.agent.requests import Request

    name, _, text = data.partition(b"\0")
    found = Request.parse(os.fsdecode(name), text[: 64 * 1024].decode("utf-8", "backslashreplace"), 40)
    deadline = found.deadline
    deadline.sigkill(20000.0, 1.7e9)
    assert deadline.left(20000.0) >= 0
    assert deadline.next_check(20000.0) <= deadline.expires
    assert abs(deadline.start) < _INFINITE
    assert abs(deadline.expires) < _INFINITE
    assert found.run is None or -1 <= found.run < 2**31
    str(found.event("done", found="x", did="y", verified="z"))


class Kernel:
    """The spool's system calls, as far as sweep() makes them, over a directory with these names."""

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def listdir(self, _directory: object) -> list[str]:
        return list(self._names)

    def unlink(self, _name: str, dir_fd: int) -> None:
        pass


def spool_names(data: bytes) -> None:
    from sanlock_helper.agent.requests import Requests
    from sanlock_helper.spool import Spool, is_request

    names = [os.fsdecode(name[:255]) for name in data.split(b"/")]
    spool = Spool.__new__(Spool)
    spool.kernel, spool.directory = Kernel(names), -1
    for name in spool.names():
        is_request(name)
    Requests(spool, 40).sweep(1e6)


# sanlock's answers


def sanlock_status(data: bytes) -> str:
    from sanlock_helper.leases.sanlock_status import parse_status
    from sanlock_helper.leases.timeline import timeline_of

    status = parse_status(text_of(data))
    for name in ("kill_grace_seconds", *list(status.daemon)[:9]):
        status.number(name)
    _ = status.version
    for space in status.lockspaces[:9]:
        assert space.io_timeout >= 0
        _ = space.lost, space.joined
    timeline_of(status, [space.name for space in status.lockspaces[:9]])
    status.held_by(60)
    return ""


def lease_line(data: bytes) -> None:
    """A line of sanlock's that is read at all has just what was read in it."""
    from sanlock_helper.errors import PermanentError

    try:
        from sanlock_helper.leases import libsanlock as libsanlock  # noqa: PLC0414
    except PermanentError as error:
        raise ImportError(str(error)) from error
    for line in data.split(b" "):
        found = libsanlock.plain_lease(line)
        if found is not None:
            ((path, offset),) = found["disks"]
            names = (found["lockspace"], found["resource"], os.fsencode(path))
            assert line.startswith(b"%b:%b:%b:%d:" % (*names, offset)) or b":0" in line, line
            assert max(map(len, names[:2])) < 48, line


def sanlock_dump(data: bytes) -> None:
    from sanlock_helper.checks.sanlock import parse_dump

    parse_dump(text_of(data))


class Daemon:
    """A socket in DIRECTORY that answers each connection with `answer`."""

    def __init__(self, directory: Path) -> None:
        self.answer = b""
        self.directory = str(directory)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(directory / "sanlock.sock"))
        self._socket.listen(16)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection:
                try:
                    connection.recv(65536)
                    connection.sendall(self.answer)
                except OSError:
                    pass  # the client did not wait for the end


@functools.cache
def daemon() -> Daemon:
    """The one of this process."""
    place = folder() / "sanlock"
    place.mkdir()
    return Daemon(place)


def sanlock_answer(data: bytes) -> str:
    from sanlock_helper.errors import PermanentError
    from sanlock_helper.leases.sanlock_daemon import daemon_settings

    try:
        from sanlock_helper.leases import libsanlock as libsanlock  # noqa: PLC0414
    except PermanentError as error:
        raise ImportError(str(error)) from error
    served = daemon()
    served.answer = data
    daemon_settings(served.directory, 1.0)
    before = os.environ.get("SANLOCK_RUN_DIR")
    os.environ["SANLOCK_RUN_DIR"] = served.directory
    try:
        return _calls()
    finally:
        del os.environ["SANLOCK_RUN_DIR"]
        if before is not None:
            os.environ["SANLOCK_RUN_DIR"] = before


def _calls() -> str:
    """What the calls to sanlock's library that read an answer report."""
    from sanlock_helper.errors import LeasesUnknownError
    from sanlock_helper.leases import held, libsanlock

    problem = ""
    try:
        held.CachedLeases().of(7)
    except LeasesUnknownError as error:
        problem = str(error)
    for call in (
        libsanlock.get_lockspaces,
        lambda: libsanlock.read_resource_owners(b"LS", b"x", [("/a", 0)]),
        libsanlock._status,
    ):
        try:
            call()
        except libsanlock.SanlockException:
            pass
    return problem


# The journal


def journal(data: bytes) -> None:
    from sanlock_helper.history.journal_entries import parse_entries
    from sanlock_helper.history.outages import events_of, last_events, make_outages, name_kills

    entries = parse_entries(data.split(b"\n"))
    _check_senders(data, entries)
    _check_kills(len(data))
    events = name_kills(events_of(entries), [])
    for outage in make_outages(events):
        for part in outage.domains.values():
            _ = part.name, part.outcome, part.came_back
    last_events(events)


# What any user can have journald write: only what it adds itself tells who it was.
_ANY_USERS = {"_UID": "1000", "_SYSTEMD_UNIT": "session-1.scope"}
# So many lines of an input are forged.
_FORGED = 5


def _check_senders(data: bytes, entries: list[Entry]) -> None:
    """What any user logs is no entry, whatever the rest of it is."""
    from sanlock_helper.history.journal_entries import parse_entries

    if not entries:
        return
    for line in data.split(b"\n")[:_FORGED]:
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(fields, dict):
            assert not parse_entries([json.dumps({**fields, **_ANY_USERS}).encode()]), "a forged line counts"


def _check_kills(count: int) -> None:
    """Each SIGKILL of sanlock's is one, whatever it has counted before (src/main.c, kill_pids())."""
    from sanlock_helper.history.journal_entries import Entry
    from sanlock_helper.history.outages import events_of

    for head in ("", "2026-11-22 20:30:23 2912 [5]: "):
        line = f"{head}s1 kill 4711 sig 9 count {count}"
        assert [event.kind for event in events_of([Entry(1.0, "sanlock", line, {})])] == ["sigkill"], line


def journal_file(data: bytes) -> None:
    from sanlock_helper.history.journal_entries import read_file

    read_file(written("journal.json", data), 0.0)


def event_line(data: bytes) -> None:
    from sanlock_helper.escapes import quoted, unquoted
    from sanlock_helper.events import Event, outcome_parts
    from sanlock_helper.history.logged_events import from_fields

    line = text_of(data)
    outcome_parts(line)
    # A name; what is longer than one is left as it is.
    assert unquoted(quoted(line[:60])) == line[:60]
    assert quoted(line).isprintable()
    event = Event.parse(line)
    if event is not None:
        str(event)
        from_fields(event.fields())


def since(data: bytes) -> None:
    from sanlock_helper.history.journal_entries import parse_since

    parse_since(text_of(data), datetime(2026, 11, 25, 12, 0))


# The host


def command_line(data: bytes) -> None:
    from sanlock_helper.virt.processes import uuid_in

    assert len(uuid_in(data)) <= len(data)


def process_stat(data: bytes) -> None:
    from sanlock_helper.virt.processes import _is_empty, fields_of

    found = fields_of(data)
    if found:
        _is_empty(found)
        int(found[19])


def mountinfo(data: bytes) -> None:
    from sanlock_helper.checks.lease_dir import mount_of

    mount_of("/var/lib/libvirt/sanlock", text_of(data))


def unix_sockets(data: bytes) -> None:
    from sanlock_helper.virt.libvirt_daemon import LIBVIRTD, HostFiles

    for name in ("net", "libvirt"):
        (folder() / name).mkdir(exist_ok=True)
    written("libvirt/libvirt-sock", b"")
    written("net/unix", data)
    HostFiles(run=folder(), proc=folder()).listens(LIBVIRTD)


def domain_log(data: bytes) -> None:
    from sanlock_helper.virt.domain_log import last_end

    written("vm1.log", data)
    last_end("vm1", 0.0, str(folder()))


def repeated(part: bytes, before: bytes = b"", after: bytes = b"") -> Shape:
    """PART again and again between BEFORE and AFTER."""
    return lambda size: before + part * (size // len(part)) + after


def numbered(part: bytes, before: bytes = b"", after: bytes = b"") -> Shape:
    """The same, with a number of its own in each."""
    length = len(part % 1000000)
    return lambda size: before + b"".join(part % (1000000 + n) for n in range(size // length)) + after


_ours = (SanlockHelperError,)
_UNIX = b"Num RefCount Protocol Flags Type St Inode Path\n0: 2 0 00010000 1 1 9 /run/libvirt/libvirt-sock\n"

TARGETS = {
    target.name: target
    for target in (
        Target("arguments", arguments, seeds.ARGUMENTS, _ours, 128 * 1024),
        Target("uri", uri, seeds.URIS, (), 128 * 1024),
        Target("auth-conf", auth_conf, seeds.AUTH_CONF, (AuthError,)),
        Target("libvirt-conf", libvirt_conf, seeds.LIBVIRT_CONF, _ours),
        Target("libvirt-conf-file", libvirt_conf_file, seeds.LIBVIRT_CONF, _ours),
        Target("sanlock-conf", sanlock_conf, seeds.SANLOCK_CONF),
        Target("multipath-conf", multipath_conf, seeds.MULTIPATH_CONF),
        Target("policy", policy_in_xml, seeds.DOMAIN_XML, _ours),
        Target("inventory", inventory, seeds.DOMAIN_XML),
        Target("definition-file", definition_file, seeds.DOMAIN_XML),
        Target("domain-identity", domain_identity, seeds.DOMAIN_XML, _ours),
        Target("status-file", status_file, seeds.STATUS_FILES, _ours),
        Target("record", record, seeds.RECORDS, _ours),
        Target("record-file", record_file, seeds.RECORDS, _ours),
        Target("request", request, seeds.REQUESTS, (SpoolError,), 64 * 1024),
        Target("spool-names", spool_names, [b"/".join(seeds.names()), *seeds.REQUESTS]),
        Target("sanlock-status", sanlock_status, seeds.SANLOCK_STATUS),
        Target("lease-line", lease_line, seeds.LEASE_LINES),
        Target("sanlock-dump", sanlock_dump, seeds.SANLOCK_DUMP),
        Target("sanlock-answer", sanlock_answer, seeds.SANLOCK_ANSWERS),
        Target("journal", journal, seeds.JOURNAL),
        Target("journal-file", journal_file, seeds.JOURNAL, _ours),
        Target("event-line", event_line, seeds.EVENTS),
        Target("since", since, seeds.TIMES, _ours, 128 * 1024),
        Target("command-line", command_line, seeds.COMMAND_LINES),
        Target("process-stat", process_stat, seeds.STATS, (), 4096),
        Target("mountinfo", mountinfo, seeds.MOUNTS),
        Target("unix-sockets", unix_sockets, [_UNIX]),
        Target("domain-log", domain_log, seeds.DOMAIN_LOGS),
    )
}

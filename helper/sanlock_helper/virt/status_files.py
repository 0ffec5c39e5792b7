# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's status files: what the host knows of its running QEMU domains without libvirtd.

libvirt's QEMU driver keeps one XML file per running domain on tmpfs and replaces it at every change of state
(virDomainObjSave() in libvirt src/conf/domain_conf.c, stateDir of src/qemu/qemu_conf.c).  It stays while
libvirtd is away, and after QEMU has ended unnoticed.  The file is named after the domain, and a name may hold
whatever a file name may: so what a file is about is read inside, never from its name.

pyexpat, and not xml.etree: a helper process reads these files before its virtual machine is safe, and pyexpat
is one module in C.
"""

from __future__ import annotations

import os
import stat
from pyexpat import ExpatError, ParserCreate

from ..errors import SanlockHelperError
from . import NAMESPACE

# Only root writes there; libvirtd and virtqemud use the same directory.
STATE_DIR = "/run/libvirt/qemu"

SUFFIX = ".xml"

# A domain's XML is at most 4 MiB (libvirt src/remote/remote_protocol.x); the rest of the file is some 10 KiB.
MAX_BYTES = 8 * 1024 * 1024

# virsh's words where libvirt's own in these files are others (VIR_ENUM_IMPL(virDomainState) in libvirt
# src/conf/domain_conf.c).
STATE_WORDS = {"nostate": "no state", "blocked": "idle", "shutdown": "in shutdown", "shutoff": "shut off"}

# What libxml2, and so libvirt, reads: xmlParserMaxDepth of its parserInternals.h.
_MAX_DEPTH = 256
# More tags than a file with five hundred disks has.
_MANY = 10_000

_ROOT, _DOMAIN = "domstatus", "domain"
_BEGIN, _END, _ROOT_END = b"<domain", b"</domain>", b"</domstatus>"
# Before <domain>, and not there while no job is under way (qemuDomainObjPrivateXMLFormatJob() in libvirt
# src/qemu/qemu_domain.c).
_JOB = b"<job "
_LOCK_BEGIN, _LOCK_END = b"<lockstate>", b"</lockstate>"
# There as well, with one <blockjob> for each (qemuDomainObjPrivateXMLFormatBlockjobs() there).
_BLOCK_JOBS_BEGIN, _BLOCK_JOBS_END, _BLOCK_JOB = b"<blockjobs ", b"</blockjobs>", b"<blockjob "


class Status:
    """A running domain, as its status file has it.

    name, uuid, id: the domain and its run.  state, reason: virDomainState and its reason in libvirt's words,
    as libvirtd knew them last.  pid: QEMU's process id.  written: when the file was written, seconds since
    the epoch. xml: the live definition, with its secrets, never to be logged.  has_job: whether libvirt may
    have a job under way that takes long, a dump for example; it notes one before it begins
    (virDomainObjBeginJobInternal() in libvirt src/conf/virdomainjob.c).  lock_state: the leases that
    libvirt gave up when the domain was paused last, in sanlock's words and as the file has them, until it
    goes on; "" where there are none (virDomainLockProcessPause() in libvirt src/locking/domain_lock.c).
    """

    __slots__ = (
        *("block_jobs", "has_job", "id", "lock_state", "name", "pid"),
        *("reason", "state", "uuid", "written", "xml"),
    )

    def __init__(
        self,
        name: str,
        uuid: str,
        id: int,
        state: str,
        reason: str,
        pid: int,
        written: float = 0.0,
        xml: str = "",
        has_job: bool = True,
        lock_state: str = "",
        block_jobs: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.uuid = uuid
        self.id = id
        self.state = state
        self.reason = reason
        self.pid = pid
        self.written = written
        self.xml = xml
        self.has_job = has_job
        self.lock_state = lock_state
        self.block_jobs = block_jobs


class StatusFileError(SanlockHelperError):
    """A file is no status file; the message has the reason."""


class StatusFiles:
    """The status files of one directory.  Several threads may use one."""

    def __init__(self, directory: str = STATE_DIR) -> None:
        self._directory = directory
        # Each file as it was read last, by its name, with its signature (see _signature): one that is the
        # same still is not read again.
        self._known: dict[str, tuple[tuple[int, ...], Status]] = {}

    def find(self, uuid: str) -> Status | None:
        """The newest status of domain UUID, None where no file is about it."""
        return next(iter(self.matching(uuid)), None)

    def matching(self, uuid: str) -> list[Status]:
        """What is about domain UUID, newest first: one file, unless a copy was left there.

        A file that is none of libvirt's, or that cannot be read, is about no domain.
        """
        found = self._known_of(uuid) or [status for status in self._all() if status.uuid == uuid]
        return sorted(found, key=lambda status: status.written, reverse=True)

    def all(self) -> list[Status]:
        """The status of every running domain, by name."""
        return sorted(self._all(), key=lambda status: status.name)

    def _known_of(self, uuid: str) -> list[Status]:
        """The files that were about domain UUID when they were read last, and still are."""
        names = [name for name, (_, known) in list(self._known.items()) if known.uuid == uuid]
        return [status for name in names if (status := self._read(name)) and status.uuid == uuid]

    def _all(self) -> list[Status]:
        return [status for name in self._names() if (status := self._read(name))]

    def _names(self) -> list[str]:
        try:
            return [name for name in os.listdir(self._directory) if name.endswith(SUFFIX)]
        except OSError:
            return []

    def _read(self, name: str) -> Status | None:
        path = f"{self._directory}/{name}"
        known = self._known.get(name)
        try:
            if known is not None and known[0] == _signature(os.lstat(path)):
                return known[1]
            self._known[name] = known = _read_file(path)
        except (OSError, StatusFileError):
            self._known.pop(name, None)
            return None
        return known[1]


def _signature(status: os.stat_result) -> tuple[int, ...]:
    # The time of the last change is the kernel's own: the other one can be set.
    return status.st_ino, status.st_ctime_ns, status.st_mtime_ns, status.st_size


def _read_file(path: str) -> tuple[tuple[int, ...], Status]:
    """The file at PATH.  Raises OSError, or StatusFileError for what libvirt did not write."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
            raise StatusFileError("it is no regular file that root alone can write")
        if found.st_size > MAX_BYTES:
            raise StatusFileError(f"it is larger than {MAX_BYTES} bytes")
        # One read: a regular file of tmpfs gives all that there is.
        data = os.read(descriptor, found.st_size + 1)
    finally:
        os.close(descriptor)
    status = parse_status_file(data)
    status.written = found.st_mtime
    return _signature(found), status


def parse_status_file(data: bytes) -> Status:
    """Read the XML of a status file.  Raises StatusFileError for anything else."""
    # The errors' own texts and objects quote the file, which has secrets.
    data, lock_state = _without_lock_state(data)
    try:
        status = _Reader(data).status()
        status.lock_state = lock_state
        return status
    except ExpatError as error:
        why = f"error {error.code} of expat in line {error.lineno}"
    except KeyError as error:
        why = f"no {error.args[0]}"
    except StatusFileError as error:
        why = str(error)
    except ValueError:
        why = "a number that is none"
    raise StatusFileError(f"it is no status file of libvirt's: {why}")


def _refuse_doctype(*_: object) -> None:
    """libvirt declares none, and the entities of one may expand without end."""
    raise StatusFileError("it declares a document type")


class _Reader:
    """Reads <domstatus state reason pid> … <domain id> <name/> <uuid/> … </domain> </domstatus>.

    Elements of the same names may stand elsewhere in the file, in the domain's metadata above all: only their
    place counts.

    A file has some 400 elements, before <domain> and behind its UUID, and a call for each of them takes four
    times as long as the rest: so where the file is as libvirt writes it, those elements are left to expat.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._path: list[str] = []
        self._root: dict[str, str] = {}
        self._domain: dict[str, str] = {}
        self._texts: dict[str, list[str]] = {}
        # What many elements in one another take is limited; to count their depth takes a call for each.
        self._has_many = data.count(b"<") > _MANY
        self._begin, self._end = (-1, -1) if self._has_many else _find_domain(data)
        self._is_found = self._begin >= 0
        # The encoding overrides what the file declares: a codec by another name would be loaded, or fail.
        self._parser = parser = ParserCreate("utf-8")
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = _refuse_doctype
        self._hear_elements(True)

    def status(self) -> Status:
        parser, data = self._parser, self._data
        if self._is_found:
            parser.Parse(data[: self._begin], False)
            self._hear_elements(True)
            parser.Parse(data[self._begin :], True)
        else:
            parser.Parse(data, True)
        xml = data[self._begin : self._end].decode()
        head = data[: max(0, self._begin)]
        return Status(
            "".join(self._texts["name"]),
            "".join(self._texts["uuid"]).lower(),
            int(self._domain["id"]),
            self._root["state"],
            self._root.get("reason", "unknown"),
            int(self._root["pid"]),
            xml=xml,
            has_job=_JOB in head,
            block_jobs=_block_jobs(head),
        )

    def _hear_elements(self, do: bool) -> None:
        self._parser.StartElementHandler = self._start if do else None
        self._parser.EndElementHandler = self._stop if do else None

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        path = self._path
        path.append(name)
        depth = len(path)
        if depth > _MAX_DEPTH and self._has_many:
            raise StatusFileError(f"more than {_MAX_DEPTH} elements in one another")
        if depth == 1:
            if name != _ROOT:
                raise StatusFileError("its root is another")
            self._root = attributes
            self._hear_elements(not self._is_found)
        elif depth == 2 and name == _DOMAIN and (self._is_found or self._begin < 0):
            self._domain = attributes
            self._begin = self._parser.CurrentByteIndex
        elif depth == 3 and path[1] == _DOMAIN and name in ("name", "uuid") and name not in self._texts:
            self._texts[name] = []
            self._parser.CharacterDataHandler = self._text

    def _text(self, text: str) -> None:
        self._texts[self._path[-1]].append(text)

    def _stop(self, name: str) -> None:
        path = self._path
        path.pop()
        if self._parser.CharacterDataHandler is not None:
            self._parser.CharacterDataHandler = None
            if self._is_found and len(self._texts) == 2:
                self._hear_elements(False)
        if len(path) == 1 and name == _DOMAIN and self._end < 0:
            self._end = self._parser.CurrentByteIndex + len(_END)


def _without_lock_state(data: bytes) -> tuple[bytes, str]:
    """DATA without <lockstate>, and the text of that; "" where there is none before <domain>.

    libvirt writes it as it is, so that an "&" or a "<" in the name of a lease leaves no XML
    (qemuDomainObjPrivateXMLFormat() in libvirt src/qemu/qemu_domain.c): it is a line of its own.  No other
    element there can hold that tag as text: libvirt escapes what an owner chooses in all others.
    """
    begin = data.find(_LOCK_BEGIN)
    if begin < 0 or 0 <= data.find(_BEGIN) < begin:
        return data, ""
    text = begin + len(_LOCK_BEGIN)
    line = data.find(b"\n", text)
    end = data.rfind(_LOCK_END, text, line if line >= 0 else len(data))
    if end < 0:
        return data, ""
    return data[:begin] + data[end + len(_LOCK_END) :], data[text:end].decode("utf-8", "surrogateescape")


def _block_jobs(head: bytes) -> tuple[str, ...]:
    """The targets of the disks in <blockjobs>; HEAD is what a status file has before <domain>."""
    begin = head.find(_BLOCK_JOBS_BEGIN)
    end = head.find(_BLOCK_JOBS_END, begin) + len(_BLOCK_JOBS_END)
    if begin < 0 or end < begin or head.find(_BLOCK_JOB, begin, end) < 0:
        return ()
    found: dict[str, None] = {}

    def start(name: str, attributes: dict[str, str]) -> None:
        # What a job's chains have of disks has no target.
        if name == "disk" and attributes.get("dst"):
            found[attributes["dst"]] = None

    parser = ParserCreate("utf-8")
    parser.StartElementHandler = start
    parser.Parse(head[begin:end], True)
    return tuple(found)


def _find_domain(data: bytes) -> tuple[int, int]:
    """Where <domain> begins and ends in DATA if that is the root's last child and its only one of the name.

    (-1, -1) where it takes a parser to find it.  Where DATA is XML at all, the end tag that stands right
    before the root's is of a child of the root, and where "<domain" stands once, that is its start tag: no
    comment or CDATA is open there, for it would not be closed.
    """
    begin, end = data.find(_BEGIN), data.rfind(_END) + len(_END)
    if begin < 0 or begin != data.rfind(_BEGIN) or end < begin or data[end:].strip() != _ROOT_END:
        return -1, -1
    return begin, end


def metadata_attributes(xml: str) -> dict[str, str]:
    """The attributes of this program's element in the metadata of a domain's XML, {} where there is none.

    It is the one that policy.py reads; that module costs more than a domain that is not safe has time for.
    """
    return _AttributesReader(xml).attributes() if NAMESPACE in xml else {}


class _AttributesReader:
    """Reads <domain> <metadata> <lockfailure .../> </metadata> </domain>, as far as that element."""

    def __init__(self, xml: str) -> None:
        self._data = xml.encode()
        self._path: list[str] = []
        self._found: dict[str, str] | None = None
        self._parser = parser = ParserCreate("utf-8", "}")
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._stop

    def attributes(self) -> dict[str, str]:
        # In libvirt's XML the metadata come before the devices, which are left out where they can be.
        end = self._data.find(b">", self._data.find(NAMESPACE.encode())) + 1
        try:
            self._parser.Parse(self._data[:end], False)
            if self._found is None:
                self._parser.Parse(self._data[end:], True)
        except ExpatError:
            return {}
        return self._found or {}

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        path = self._path
        path.append(name)
        if len(path) == 3 and path[1] == "metadata" and name.startswith(f"{NAMESPACE}}}"):
            # The first one counts, whatever it is.
            # Its attributes may have the namespace, or not: as policy.py has it.
            space = f"{NAMESPACE}}}"
            own = {key.removeprefix(space): value for key, value in attributes.items()}
            self._found = own if name == f"{space}lockfailure" else {}
            self._parser.StartElementHandler = self._parser.EndElementHandler = None

    def _stop(self, name: str) -> None:
        self._path.pop()

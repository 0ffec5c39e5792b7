# SPDX-License-Identifier: LGPL-2.1-or-later
"""sanlock's client library by ctypes, under the names and with the semantics of the module sanlock-python.

sanlock-python is not on every host (upstream has dropped it), and it cannot serve some of what sanlock
serves: its inquire() parses the daemon's text with sanlock_state_to_args(), which crashes the process for a
resource name with ":" or of 48 bytes; its lists take a name of 48 bytes for longer than it is, and refuse a
path that is not UTF-8.  So all that gives answers is here.

The library is libsanlock_client.so.1, or else libsanlock.so.1, which has the same calls: libvirt's own plugin
is linked to the former, so it is wherever a domain can have a lease, and it needs the C library only, where
the latter loads libaio and libblkid too.  The structures are those of sanlock ``src/sanlock.h``, the same
from 3.8.5 to 5.1.1; the soname stands for them.

To import this raises PermanentError, with what to install, where there is no such library.  No call has a
time limit: it waits as long as the daemon takes, see threads.py.  No answer makes one of these crash,
whatever the daemon sends: counts are not believed, text is read to the end of its memory at most.
"""

from __future__ import annotations

import errno
import os
from typing import Any

from ..errors import PermanentError

try:
    from ctypes import (
        CDLL,
        POINTER,
        Structure,
        byref,
        c_char,
        c_char_p,
        c_int,
        c_size_t,
        c_uint32,
        c_uint64,
        c_void_p,
        pointer,
        sizeof,
        string_at,
    )
except ImportError as error:
    raise PermanentError(
        "load sanlock's library", str(error), "install all of Python's standard library"
    ) from error

SONAMES = ("libsanlock_client.so.1", "libsanlock.so.1")

NAME_LEN = 48  # SANLK_NAME_LEN: a name of so many bytes has no NUL at its end
PATH_LEN = 1024  # SANLK_PATH_LEN, with its NUL
MAX_DISKS = 4

RES_LVER, RES_SHARED = 0x1, 0x4
LSFLAG_ADD, LSFLAG_REM = 0x1, 0x2
HOST_UNKNOWN, HOST_FREE, HOST_LIVE, HOST_FAIL, HOST_DEAD = 1, 2, 3, 4, 5

_ADD_ASYNC = _REM_ASYNC = 0x1
_REM_UNUSED = 0x2
_WRITE_CLEAR = 0x1
_ACQUIRE_LVB = 0x1
_ALIGN = {1 << 20: 0x10, 2 << 20: 0x20, 4 << 20: 0x40, 8 << 20: 0x80}
_SECTOR = {512: 0x100, 4096: 0x200}

# sanlock's errors of cmd_inquire() in its src/cmd.c: a lease has no text, or one with a blank in it.
_NO_TEXT = (-errno.ELIBACC, -errno.ELIBBAD, -errno.ELIBSCN)


class SanlockException(Exception):
    """args, as sanlock-python's: the error, what failed, the error's text."""

    @property
    def errno(self) -> int:
        """An errno, or a number below -200 of sanlock ``src/sanlock_rv.h``."""
        number: int = self.args[0]
        return number


class _Disk(Structure):
    _fields_ = (("path", c_char * PATH_LEN), ("offset", c_uint64), ("pad1", c_uint32), ("pad2", c_uint32))


class _ResourceHead(Structure):
    """struct sanlk_resource without the disks that follow it."""

    _fields_ = (
        ("lockspace_name", c_char * NAME_LEN),
        ("name", c_char * NAME_LEN),
        ("lver", c_uint64),
        ("data64", c_uint64),
        ("data32", c_uint32),
        ("unused", c_uint32),
        ("flags", c_uint32),
        ("num_disks", c_uint32),
    )


class _Resource(Structure):
    _fields_ = (("head", _ResourceHead), ("disks", _Disk * MAX_DISKS))


class _Lockspace(Structure):
    _fields_ = (
        ("name", c_char * NAME_LEN),
        ("host_id", c_uint64),
        ("flags", c_uint32),
        ("host_id_disk", _Disk),
    )


class _Host(Structure):
    _fields_ = (
        ("host_id", c_uint64),
        ("generation", c_uint64),
        ("timestamp", c_uint64),
        ("io_timeout", c_uint32),
        ("flags", c_uint32),
    )


class _State(Structure):
    """struct sanlk_state of ``src/sanlock_sock.h``, before its string."""

    _fields_ = (
        ("type", c_uint32),
        ("flags", c_uint32),
        ("data32", c_uint32),
        ("data64", c_uint64),
        ("name", c_char * NAME_LEN),
        ("str_len", c_uint32),
    )


_SIZES = ((_Disk, 1040), (_ResourceHead, 128), (_Lockspace, 1104), (_Host, 32), (_State, 80))
_HEADER_SIZE = 32  # struct sm_header

_CMD_STATUS = 5
_STATE_LOCKSPACE, _STATE_RESOURCE = 3, 4
# Some 60000 leases.
_MAX_STATUS = 64 << 20

_res = POINTER(_Resource)
_ls = POINTER(_Lockspace)
_hosts = POINTER(POINTER(_Host))
_u32 = c_uint32

_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "register": (),
    "killpath": (c_int, _u32, c_char_p, c_char_p),
    "acquire": (c_int, c_int, _u32, c_int, POINTER(_res), c_void_p),
    "release": (c_int, c_int, _u32, c_int, POINTER(_res)),
    "inquire": (c_int, c_int, _u32, POINTER(c_int), POINTER(c_void_p)),
    "add_lockspace_timeout": (_ls, _u32, _u32),
    "rem_lockspace": (_ls, _u32),
    "get_lockspaces": (POINTER(_ls), POINTER(c_int), _u32),
    "get_hosts": (c_char_p, c_uint64, _hosts, POINTER(c_int), _u32),
    "read_resource": (_res, _u32),
    "read_resource_owners": (_res, _u32, _hosts, POINTER(c_int)),
    "write_lockspace": (_ls, c_int, _u32, _u32),
    "write_resource": (_res, c_int, c_int, _u32),
}


def _load() -> Any:
    """The library, with the types of its calls.  Raises PermanentError."""
    what, hint = "load sanlock's library", "install sanlock-lib; on Debian libsanlock-client1"
    wrong = [kind.__name__ for kind, size in _SIZES if sizeof(kind) != size]
    if wrong:
        raise PermanentError(
            what, f"{', '.join(wrong)}: another size than in sanlock's headers", "report this"
        )
    why = ""
    for name in SONAMES:
        try:
            library = CDLL(name)
            for call, types in _SIGNATURES.items():
                getattr(library, f"sanlock_{call}").argtypes = types
            library.sanlock_strerror.argtypes, library.sanlock_strerror.restype = (c_int,), c_char_p
            library.send_command.argtypes = (c_int, c_uint32)
            return library
        except (OSError, AttributeError) as error:
            why = why or str(error)
    raise PermanentError(what, why, hint)


_library = _load()
# The C library's own, which the client library's malloc() is.
_libc = CDLL(None)
_libc.free.argtypes, _libc.free.restype = (c_void_p,), None
_libc.malloc_usable_size.argtypes, _libc.malloc_usable_size.restype = (c_void_p,), c_size_t


# What goes in


def _name(what: str, name: bytes) -> bytes:
    # sanlock-python cuts a longer one off, which names something else.
    if len(name) > NAME_LEN or b"\0" in name:
        raise ValueError(f"{what} {name!r}: sanlock takes at most {NAME_LEN} bytes, and no NUL")
    return name


def _need_process(slkfd: int, pid: int) -> None:
    if slkfd == -1 and pid == -1:
        raise _error(-errno.EINVAL, "Invalid slkfd and pid values")


def _path(path: str) -> bytes:
    raw = os.fsencode(path)
    if len(raw) >= PATH_LEN or b"\0" in raw:
        raise ValueError(f"path {path!r}: sanlock takes less than {PATH_LEN} bytes, and no NUL")
    return raw


def _layout(align: int, sector: int) -> int:
    if align not in _ALIGN or sector not in _SECTOR:
        raise ValueError(f"align {align}, sector {sector}: align is 1, 2, 4 or 8 MiB, sector 512 or 4096")
    return _ALIGN[align] | _SECTOR[sector]


def _make_lockspace(name: bytes, host_id: int, path: str, offset: int, flags: int = 0) -> _Lockspace:
    space = _Lockspace(_name("lockspace", name), host_id, flags)
    space.host_id_disk.path, space.host_id_disk.offset = _path(path), offset
    return space


def _make_resource(
    lockspace: bytes, resource: bytes, disks: list[tuple[str, int]], flags: int = 0
) -> _Resource:
    if len(disks) > MAX_DISKS:
        raise ValueError(f"{len(disks)} disks: sanlock takes at most {MAX_DISKS} for a resource")
    made = _Resource()
    made.head.lockspace_name = _name("lockspace", lockspace)
    made.head.name = _name("resource", resource)
    made.head.flags, made.head.num_disks = flags, len(disks)
    for disk, (path, offset) in zip(made.disks, disks):
        disk.path, disk.offset = _path(path), offset
    return made


# What comes out


def _error(result: int, what: str) -> SanlockException:
    if result > 0:
        # No call returns one: it must not pass for the errno of the same number.
        result = -errno.EBADMSG
    if -200 < result < 0:
        return SanlockException(-result, what, os.strerror(-result))
    text = _library.sanlock_strerror(result)
    return SanlockException(result, what, text.decode("ascii", "replace"))


def _succeed(result: int, what: str) -> None:
    if result != 0:
        raise _error(result, what)


def _copies(found: Any, count: int, kind: Any, what: str) -> list[Any]:
    """COUNT structures of KIND that the library has allocated at FOUND, which is freed."""
    try:
        if count < 0 or (count and not found):
            raise _error(-errno.EBADMSG, what)
        return [kind.from_buffer_copy(found[index]) for index in range(count)]
    finally:
        _libc.free(found)


def _text(state: Any) -> bytes:
    """The C string at STATE, which is freed; the daemon need not have ended it."""
    if not state:
        return b""
    try:
        return string_at(state, _libc.malloc_usable_size(state)).partition(b"\0")[0]
    finally:
        _libc.free(state)


def _host(host: Any) -> dict[str, int]:
    return {name: getattr(host, name) for name, _ in _Host._fields_}


def _lease(head: _ResourceHead, version: int, disks: list[tuple[str, int]]) -> dict[str, Any]:
    shared = bool(head.flags & RES_SHARED)
    return {
        "lockspace": head.lockspace_name,
        "resource": head.name,
        "flags": RES_SHARED if shared else RES_LVER,
        "version": 0 if shared else version,
        "disks": disks,
    }


# The calls


def register() -> int:
    """Make this process known to sanlock; the descriptor holds what it acquires."""
    descriptor: int = _library.sanlock_register()
    if descriptor < 0:
        raise _error(descriptor, "Sanlock registration failed")
    return descriptor


def killpath(path: str, args: list[str], slkfd: int = -1) -> None:
    """Have sanlock run PATH with ARGS for the process of SLKFD when its leases are lost."""
    words = b" ".join(os.fsencode(arg).replace(b"\\", b"\\\\").replace(b" ", b"\\ ") for arg in args)
    if len(os.fsencode(path)) >= 127 or len(words) >= 127:
        raise ValueError(f"killpath {path!r} {args!r}: sanlock takes at most 126 bytes of each")
    _succeed(_library.sanlock_killpath(slkfd, 0, os.fsencode(path), words), "Killpath script not configured")


def acquire(
    lockspace: bytes,
    resource: bytes,
    disks: list[tuple[str, int]],
    slkfd: int = -1,
    pid: int = -1,
    shared: bool = False,
    lvb: bool = False,
    version: int | None = None,
) -> None:
    """Take a lease for this process (SLKFD, of register()) or for process PID."""
    _need_process(slkfd, pid)
    made = _make_resource(lockspace, resource, disks, RES_SHARED if shared else 0)
    if version is not None:
        made.head.flags |= RES_LVER
        made.head.lver = version
    flags = _ACQUIRE_LVB if lvb else 0
    result = _library.sanlock_acquire(slkfd, pid, flags, 1, byref(pointer(made)), None)
    _succeed(result, "Sanlock resource not acquired")


def release(
    lockspace: bytes, resource: bytes, disks: list[tuple[str, int]], slkfd: int = -1, pid: int = -1
) -> None:
    """Give up a lease of this process (SLKFD) or of process PID; sanlock goes by its names alone."""
    made = _make_resource(lockspace, resource, disks)
    result = _library.sanlock_release(slkfd, pid, 0, 1, byref(pointer(made)))
    _succeed(result, "Sanlock resource not released")


def inquire(slkfd: int = -1, pid: int = -1) -> list[dict[str, Any]]:
    """The leases of this process (SLKFD) or of process PID, from the daemon's memory.

    The daemon answers with text in which names are not escaped: lockspace:resource:path:offset:version, with
    a blank between two (sanlock_res_to_str() in ``src/client.c``).  What can be read in one way only is read.
    For anything else, and where the daemon itself refuses to make that text because of a blank, its status is
    asked for, which has the names and paths as they are.  A lease that cannot be learned in this way either
    has empty names: it is held.
    """
    _need_process(slkfd, pid)
    count, state = c_int(), c_void_p()
    result = _library.sanlock_inquire(slkfd, pid, 0, byref(count), byref(state))
    text = _text(state)
    if result not in _NO_TEXT:
        _succeed(result, "Inquire error")
    lines = text.split(b" ") if text else []
    plain = [lease for lease in map(plain_lease, lines) if lease]
    if result == 0 and len(plain) == len(lines) == count.value:
        return plain
    try:
        known = _held(os.getpid() if pid == -1 else pid)
    except SanlockException:
        known = plain
    # One that was given up meanwhile is among the missing: the next inquiry has it right.
    missing = max(len(lines), min(count.value, _MAX_UNKNOWN), 1) - len(known)
    return known + [_lease(_ResourceHead(), 0, []) for _ in range(missing)]


# Those of 2**64 - 1, which int() takes: it refuses thousands of them.
_MOST_DIGITS = 20

# So many leases of unknown name are returned at most, whatever the daemon counts.
_MAX_UNKNOWN = 64


def plain_lease(line: bytes) -> dict[str, Any] | None:
    """The lease that LINE is, where there is one way to read it: one disk, no escapes, names below 48 bytes.

    A name of 48 bytes has no end in it: the daemon prints what follows it in its memory.
    """
    words = line.split(b":")
    if len(words) != 5 or b"\\" in line or max(len(words[0]), len(words[1])) >= NAME_LEN:
        return None
    lockspace, resource, path, offset, version = words
    shared = version == b"SH"
    numbers = (offset,) if shared else (offset, version)
    if not all(number.isdigit() and len(number) <= _MOST_DIGITS for number in numbers):
        return None
    head = _ResourceHead(lockspace, resource, flags=RES_SHARED if shared else 0)
    return _lease(head, 0 if shared else int(version), [(os.fsdecode(path), int(offset))])


def _held(pid: int) -> list[dict[str, Any]]:
    """The leases of process PID in the daemon's status.

    As inquire() has it, a lease counts from when it is asked for (list=add) until it is given up: what the
    daemon then does on storage (list=rem) is not the process's any more, nor is an orphan.
    """
    found = []
    for state, text, head, disks in _status():
        words = text.split(b"\0")[0].split(b" ")
        if state.data32 == pid and b"list=rem" not in words and b"list=orphan" not in words:
            places = [(os.fsdecode(disk.path), disk.offset) for disk in disks]
            found.append(_lease(head, state.data64, places))
    return found


def _status() -> list[tuple[_State, bytes, _ResourceHead, list[_Disk]]]:
    """The resources in the daemon's status, as sanlock_status() in ``src/client_cmd.c`` receives them."""
    what = "Status error"
    data = memoryview(_receive(_CMD_STATUS, what))[_HEADER_SIZE:]
    found = []

    def take(kind: Any, size: int = 0) -> Any:
        nonlocal data
        size = size or sizeof(kind)
        if len(data) < size:
            raise _error(-errno.EBADMSG, what)
        part, data = data[:size], data[size:]
        return bytes(part) if kind is bytes else kind.from_buffer_copy(part)

    while data:
        state = take(_State)
        text = take(bytes, state.str_len) if state.str_len else b""
        if state.type == _STATE_LOCKSPACE:
            take(_Lockspace)
        elif state.type == _STATE_RESOURCE:
            head = take(_ResourceHead)
            if head.num_disks > MAX_DISKS:
                raise _error(-errno.EBADMSG, what)
            found.append((state, text, head, [take(_Disk) for _ in range(head.num_disks)]))
    return found


def _receive(command: int, what: str) -> bytes:
    """All that the daemon answers to COMMAND, its header included.

    The daemon's main thread sends it, and waits when it is not read: so it is read first, and parsed then.
    """
    descriptor: int = _library.send_command(command, 0)
    if descriptor < 0:
        raise _error(descriptor, what)
    parts, size = [], 0
    try:
        while part := os.read(descriptor, 1 << 18):
            parts.append(part)
            size += len(part)
            if size > _MAX_STATUS:
                raise _error(-errno.EMSGSIZE, what)
    except OSError as error:
        raise _error(-(error.errno or errno.EIO), what) from error
    finally:
        os.close(descriptor)
    if size < _HEADER_SIZE:
        raise _error(-errno.EBADMSG, what)
    return b"".join(parts)


def add_lockspace(
    lockspace: bytes, host_id: int, path: str, offset: int = 0, iotimeout: int = 0, wait: bool = True
) -> None:
    """Join a lockspace; IOTIMEOUT in seconds, 0 for the daemon's own."""
    space = _make_lockspace(lockspace, host_id, path, offset)
    result = _library.sanlock_add_lockspace_timeout(space, 0 if wait else _ADD_ASYNC, iotimeout)
    _succeed(result, "Sanlock lockspace add failure")


def rem_lockspace(
    lockspace: bytes, host_id: int, path: str, offset: int = 0, wait: bool = True, unused: bool = False
) -> None:
    """Leave a lockspace; sanlock kills the processes that use it, or refuses with UNUSED."""
    space = _make_lockspace(lockspace, host_id, path, offset)
    flags = (0 if wait else _REM_ASYNC) | (_REM_UNUSED if unused else 0)
    _succeed(_library.sanlock_rem_lockspace(space, flags), "Sanlock lockspace remove failure")


def get_lockspaces() -> list[dict[str, Any]]:
    """The lockspaces in the daemon's memory; flags is LSFLAG_ADD or LSFLAG_REM on its way."""
    what = "Sanlock get lockspaces failure"
    found, count = _ls(), c_int()
    result = _library.sanlock_get_lockspaces(byref(found), byref(count), 0)
    spaces = _copies(found, count.value if result >= 0 else 0, _Lockspace, what)
    if result < 0:
        raise _error(result, what)
    return [
        {
            "lockspace": space.name,
            "host_id": space.host_id,
            "path": os.fsdecode(space.host_id_disk.path),
            "offset": space.host_id_disk.offset,
            "flags": space.flags,
        }
        for space in spaces
    ]


def get_hosts(lockspace: bytes, host_id: int = 0) -> list[dict[str, int]]:
    """The hosts of a lockspace as the daemon sees them, or the one with HOST_ID; no storage is read."""
    what = "Sanlock get hosts failure"
    found, count = POINTER(_Host)(), c_int()
    name = _name("lockspace", lockspace)
    result = _library.sanlock_get_hosts(name, host_id, byref(found), byref(count), 0)
    hosts = _copies(found, count.value if result >= 0 else 0, _Host, what)
    if result < 0:
        raise _error(result, what)
    return [_host(host) for host in hosts]


def read_resource(path: str, offset: int = 0, align: int = 1 << 20, sector: int = 512) -> dict[str, Any]:
    """The names and the version of the lease at PATH and OFFSET, from storage."""
    made = _make_resource(b"", b"", [(path, offset)], _layout(align, sector))
    _succeed(_library.sanlock_read_resource(made, 0), "Sanlock resource read failure")
    return {
        "lockspace": made.head.lockspace_name,
        "resource": made.head.name,
        "version": made.head.lver,
    }


def read_resource_owners(
    lockspace: bytes, resource: bytes, disks: list[tuple[str, int]], align: int = 1 << 20, sector: int = 512
) -> list[dict[str, int]]:
    """The hosts that own a lease, dead ones among them, from storage; as get_hosts() has them."""
    what = "Unable to read resource owners"
    made = _make_resource(lockspace, resource, disks, _layout(align, sector))
    found, count = POINTER(_Host)(), c_int()
    result = _library.sanlock_read_resource_owners(made, 0, byref(found), byref(count))
    hosts = _copies(found, count.value if result == 0 else 0, _Host, what)
    _succeed(result, what)
    return [_host(host) for host in hosts]


def write_lockspace(
    lockspace: bytes,
    path: str,
    offset: int = 0,
    max_hosts: int = 0,
    iotimeout: int = 0,
    align: int = 1 << 20,
    sector: int = 512,
) -> None:
    """Make a lockspace on storage."""
    space = _make_lockspace(lockspace, 0, path, offset, _layout(align, sector))
    result = _library.sanlock_write_lockspace(space, max_hosts, 0, iotimeout)
    _succeed(result, "Sanlock lockspace write failure")


def write_resource(
    lockspace: bytes,
    resource: bytes,
    disks: list[tuple[str, int]],
    max_hosts: int = 0,
    num_hosts: int = 0,
    clear: bool = False,
    align: int = 1 << 20,
    sector: int = 512,
) -> None:
    """Make a lease on storage, or with CLEAR none."""
    made = _make_resource(lockspace, resource, disks, _layout(align, sector))
    flags = _WRITE_CLEAR if clear else 0
    result = _library.sanlock_write_resource(made, max_hosts, num_hosts, flags)
    _succeed(result, "Sanlock resource write failure")

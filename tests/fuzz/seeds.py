# SPDX-License-Identifier: LGPL-2.1-or-later
"""What hosts have, for the parsers to begin with: good inputs of each kind, and words to change them with.

The passwords in them are SECRET: no error may quote it.
"""

from __future__ import annotations

import struct

from sanlock_helper.leases.held import Lease, Lockspace
from sanlock_helper.records.record import Record

SECRET = "hunter2-secret"

UUID = "defc17ee-2773-427c-8210-136921a454d3"

# Names that libvirt accepts (no "/" and no newline in a domain's), and what sanlock takes for a lease.
NAMES = (
    "vm1",
    "R&D",
    "a b",
    " lead",
    "trail ",
    "-",
    "--help",
    "a: b",
    "it's",
    'say "x"',
    "<b>",
    "]]>",
    "%s{0}$x`id`",
    "ü",
    "имя",
    "東京",
    "e\u0301",
    "\u202eabc",
    "\u200b",
    "\u2028",
    "\x85",
    "\U0001f600",
    "a\\b",
    "\\x3a",
    "a\tb",
    "x" * 255,
    "..",
    "*",
    "~",
    "#1",
    ";",
    "007",
    "²",
    "١٢",
    "null",
    "nan",
    UUID,
    "pool:vm",
    "done",
    "p 7",
    "a\rb",
    "\x7f",
)

# Whatever a file may get that no editor shows; halves of things; numbers that no type holds.
WORDS = (
    b"\0",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\xfe\xff",
    b"\r\n",
    b"\r",
    b"\n\n",
    b"\xe9",
    b"\xc3",
    b"\xc2\x85",
    b"\xe2\x80\xa8",
    b"\xed\xa0\x80",
    b"\xf0\x9f\x98\x80",
    b"\x0b",
    b"\x0c",
    b"\x1c",
    b"\xc2\xa0",
    b"\xc2\xb2",
    b"\xd9\xa1",
    b"0",
    b"-1",
    b"nan",
    b"inf",
    b"-inf",
    b"1e309",
    b"1_0",
    b"0x10",
    b"2147483648",
    b"18446744073709551616",
    b"9" * 25,
    b"9" * 320,
    b"9" * 4301,
    b"\\",
    b"\\u",
    b"\\ud800",
    b"\\x",
    b"\\N{",
    b"%",
    b"%n",
    b"'",
    b'"',
    b'"""',
    b"[",
    b"]",
    b"[" * 99,
    b"<a>" * 99,
    b"</a>",
    b"<!--",
    b"-->",
    b"<![CDATA[",
    b"]]>",
    b"&#0;",
    b"&x;",
    b"&#55296;",
    b"{" * 99,
    b":",
    b" - ",
    b"=",
    b"#",
    b";",
    b" ",
    b"\t",
    b"A" * 300,
)


def names() -> list[bytes]:
    return [name.encode() for name in NAMES]


ARGUMENTS = [
    *(f"qemu:///system\0{UUID}\0{action}".encode() for action in ("poweroff", "pause", "restart", "ignore")),
    f"--budget=30\0qemu+tls://host/system?authfile=/a%20b\0{UUID.upper()}\0pause\0{2**22}".encode(),
    f"--budget\0001e3\0--\0test:///x\0{UUID.replace('-', '')}\0restart\0007".encode(),
]

AUTH_CONF = [
    f"""[auth-libvirt-h]
credentials=a

[credentials-a]
username=vdsm@ovirt
authname=vdsm@ovirt
password={SECRET}\\s\\\\
realm=x
""".encode(),
    b"# c\r\n[auth-esx-default]\r\ncredentials = b\r\n[credentials-b]\r\n"
    + f"password[de]={SECRET}\r\nEncoding=UTF-8\r\n".encode(),
]

LIBVIRT_CONF = [
    f"""# qemu.conf
lock_manager = "sanlock"
vnc_password = "{SECRET}"
user = 'root' ; group = "+0"
cgroup_controllers = [ "cpu", 'memory' , ]
namespaces = []
max_files = 32768   # so many
nested = [ [ "a" ], [ 1, [ 2 ] ] ]
text = \"""several
lines\"""
lock_manager = "nop"
""".encode(),
    b'auto_disk_leases = 1\nhost_id = 1\nio_timeout = 10\ndisk_lease_dir = "/rhev/data-center/mnt/\xc3\xbc"\n'
    b'user = "sanlock"\ngroup = "sanlock"\ncheck_disk_lease_owner = 0\n',
]

SANLOCK_CONF = [
    b"# kill_grace_seconds = 40\nkill_grace_seconds = 35\nkill_grace_seconds=20\nuse_watchdog = 0\n"
    b"watchdog_fire_timeout = 30\ndebug_cmd = ^all,+acquire\nour_host_name = h\n",
    b"kill_grace_seconds\t=\t 7 x\r\nname\r\n= 5\n kill_grace_seconds = 9",
]

MULTIPATH_CONF = [
    b"""defaults {
\tpolling_interval 5
\tno_path_retry "fail"
}

devices {
    device {
        vendor "COMPELNT"
        no_path_retry    12
    }
    device {
        no_path_retry queue
    }
}
""",
]


def domain_xml(name: str = "vm1", more: str = "") -> str:
    escaped = name.replace("&", "&amp;").replace("<", "&lt;")
    return f"""<domain type='kvm' id='7' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{escaped}</name>
  <uuid>{UUID}</uuid>
  <metadata>
    <lockfailure xmlns="urn:virt-sanlock-helper:1" recover="yes"/>
    <ovirt-vm:vm xmlns:ovirt-vm="http://ovirt.org/vm/1.0"><name>b</name>{more}</ovirt-vm:vm>
  </metadata>
  <on_lockfailure>pause</on_lockfailure>
  <devices>
    <disk type='file' device='disk'><source file='/a/{UUID}'/><target dev='vda'/></disk>
    <disk type='block' device='cdrom'><source dev='/dev/x'/><readonly/></disk>
    <disk type='network'><source protocol='rbd' name='p/v'><host name='h'/></source><shareable/></disk>
    <lease><lockspace>LS:a</lockspace><key>k</key><target path='/l' offset='1048576'/></lease>
    <graphics type='vnc' passwd='{SECRET}'/>
  </devices>
</domain>"""


DOMAIN_XML = [domain_xml(name).encode("utf-8", "surrogatepass") for name in NAMES[:12]]
DOMAIN_XML += [
    b"<?xml version='1.0' encoding='utf-8'?>" + DOMAIN_XML[0],
    b"<?xml version='1.0' encoding='latin-1'?>" + DOMAIN_XML[0].replace(b"vm1", b"vm\xe9"),
    b"<!DOCTYPE d [<!ENTITY a 'x'><!ENTITY b '&a;&a;'>]>" + DOMAIN_XML[0].replace(b"vm1", b"&b;"),
]


def status_xml(domain: bytes) -> bytes:
    return (
        b"<!--\nWARNING: THIS IS AN AUTO-GENERATED FILE.\n-->\n\n"
        b"<domstatus state='running' reason='booted' pid='4711'>\n  <taint flag='high-privileges'/>\n"
        b"  <monitor path='/m' type='unix'/>\n  " + domain + b"\n</domstatus>\n"
    )


STATUS_FILES = [status_xml(xml) for xml in DOMAIN_XML[:6]]
STATUS_FILES += [
    STATUS_FILES[0].replace(b"</domain>", b"</domain>\n<x/>"),
    b"<?xml version='1.0' encoding='latin-1'?>" + STATUS_FILES[0].replace(b"vm1", b"vm\xe9"),
]


def make_record(name: str, uri: str = "qemu:///system", **more: object) -> Record:
    spaces = (Lockspace("LS:a", 1, "/a b", 0, 10, 3),)
    leases = (Lease("LS:a", "pool:vm", 7, "/l", 1048576), Lease("LS:a", name[:12], 0, "/l", 0, True))
    return Record(
        UUID, name, uri, "poweroff", time=1.7e9, run=7, pid=9, lockspaces=spaces, leases=leases, **more
    )


# In no other seed.
STRANGE = "a-machine-that-had-this-uuid-before"


def make_stranger() -> Record:
    """The record of another machine of the same UUID: another name, other leases, other disks."""
    record = make_record(STRANGE, xml=domain_xml(STRANGE).replace(f"/a/{UUID}", f"/b/{STRANGE}"))
    record.xml = record.xml.replace("<key>k</key>", f"<key>{STRANGE}</key>")
    record.leases = ()
    return record


RECORDS = [make_record(name).encode() for name in NAMES]
RECORDS += [make_record("vm1", xml=domain_xml(), mark="refused", why="no").encode()]

# The name of a request's file, a NUL, and what is in the file.
_FORM = f"{UUID}.{{0}}.0000000012345678-4711\0002\n12345.678\n{{1}}\n{{2}}\nqemu:///system\n"
REQUESTS = [
    _FORM.format("poweroff", "", "").encode(),
    _FORM.format("pause", "30.0", "4711").encode() + b"run\t7\ndied\t1-2\nnotice\tpause vm1: done\n",
    _FORM.replace("-4711", "-4711.done").format("restart", "", "9").encode() + b"error\tx\n",
]

SANLOCK_STATUS = [
    rb"""daemon host1
    our_host_name=host1
    kill_grace_seconds=40
    watchdog_fire_timeout=60
    version_str=3.8.5
p -1 helper
p 60 vm1
    kill_count=0
s __LIBVIRT__DISKS__:1:/var/lib/libvirt/sanlock/__LIBVIRT__DISKS__:0
    io_timeout=1
    space_dead=0
    killing_pids=0
    align_size=1048576
s other:3:/path\:with/colon:1048576 ADD
    io_timeout=20
r __LIBVIRT__DISKS__:b9e9:/var/lib/libvirt/sanlock/b9e9:0:1 p 60
    flags=0
r other:po:ol:/path\:with/col\ on:2097152:SH p 61 ADD
""",
    b"s LS:1:/LS:0\nr LS:line\nbreak:/p:0:1 p 60\n    list=held\nr LS:x:nothing p 60 ORPHAN\n",
]

SANLOCK_DUMP = [
    b"  offset             lockspace                    resource  timestamp  own  gen\n"
    b"00000000    __LIBVIRT__DISKS__                       host1 0000000123 0001 0003\n"
    b"00000512    __LIBVIRT__DISKS__                       host2 0000000000 0002 0001\n",
]


def sanlock_resource(pid: int, name: bytes, text: bytes = b"list=held flags=0\0", disks: int = 1) -> bytes:
    """A lease in the binary answer to SM_CMD_STATUS: sanlock src/sanlock_sock.h."""
    state = struct.pack("=IIIIQ48sI4x", 4, 0, pid, 0, 5, name, len(text))
    made = struct.pack("=48s48sQQIIII", b"L:S", name, 0, 0, 0, 0, 0, disks)
    return state + text + made + struct.pack("=1024sQII", b"/p 1", 9, 0, 0) * disks


def sanlock_header(data: int, data2: int, length: int) -> bytes:
    return struct.pack("=8I", 0x04282010, 1, 9, 0, length, 0, data, data2)


_LEASES = b"LS:a:/p:0:1 LS:b:/q:1048576:SH"
# An answer to SM_CMD_INQUIRE; one that needs the status as well; a host; a lockspace.
SANLOCK_ANSWERS = [
    sanlock_header(0, 2, 32 + len(_LEASES)) + _LEASES,
    sanlock_header(0, 0, 32) + sanlock_resource(7, b"pool:vm") + sanlock_resource(7, b"n" * 48, disks=4),
    sanlock_header(0, 1, 64) + struct.pack("=QQQII", 1, 3, 1234, 10, 3),
    sanlock_header(0, 1, 1136) + struct.pack("=48sQI4x1024sQII", b"LS", 1, 0, b"/p", 0, 0, 0),
]

# What sanlock has of a process's leases: lockspace:resource:path:offset:version.
LEASE_LINES = [
    b"LS:key:/storage/disk:0:7 LS:other:/storage/disk:1048576:SH",
    b"LS:pool:vm:/storage/disk:0:7",
    b"LS:" + b"k" * 47 + b":/storage/disk:0:1 LS:" + b"k" * 48 + b":/storage/disk:0:1",
    b"a:b:c:d:/storage/disk:0:1",
    b"LS:key:/with blank/disk:0:7",
    b"LS:key:/with\\:colon:0:7",
]

LINES = [
    f"poweroff vm1 {UUID}: done after 0.31 s: found running, destroyed it, verified off",
    f"poweroff R\\x3a D {UUID}: FAILED after 35.0 s at try 3: libvirtd does not answer",
    f"pause - {UUID}: try 1 failed: its process 4711 still holds 1 lease; next try in 0.5 s",
    f"recover vm1 {UUID}: started",
    f"ignore {UUID}: ignored",
    "recover: waiting for lockspace LS",
    "2026-11-22 20:30:23 2912 [5]: s1 check_our_lease failed 80",
    "2026-11-22 20:30:23 2912 [5]: s1 kill 4711 sig 100 count 1",
    "s2:r3 kill 4711 sig 9 count 41",
]
EVENTS = [line.encode() for line in LINES]

_ENTRY = (
    '{{"__REALTIME_TIMESTAMP":"1732000000000000","SYSLOG_IDENTIFIER":"{0}","_UID":"0","MESSAGE":{1},'
    '"DOMAIN_UUID":"{2}","DOMAIN_NAME":"vm1","VIRT_SANLOCK_HELPER_ACTION":"poweroff",'
    '"MESSAGE_ID":"3b8a803a1db5463f8172789157e1c6c1","VIRT_SANLOCK_HELPER_SECONDS":"0.31"}}'
)
JOURNAL = [
    "\n".join(
        _ENTRY.format("virt-sanlock-helper", '"' + line.replace("\\", "\\\\") + '"', UUID) for line in LINES
    ).encode(),
    _ENTRY.format("sanlock", '"' + LINES[-1] + '"', UUID).encode(),
    _ENTRY.format("virt-sanlock-helper", "[104,105,255]", "x").encode(),
    _ENTRY.format("virt-sanlock-helper", "null", UUID).encode() + b'\r\n{"MESSAGE":["a","b"]}\n{',
]

COMMAND_LINES = [
    b"/usr/bin/qemu-system-x86_64\0-name\0guest=vm1,debug-threads=on\0-uuid\0" + UUID.encode() + b"\0-S\0",
    b"/usr/libexec/qemu-kvm\0-uuid\0" + UUID.upper().encode() + b"\0-fw_cfg\0-uuid\0x\0-uuid\0y\0",
]
STATS = [
    b"4711 (qemu-system-x86) S 1 4711 4711 0 -1 1077952832 90 0 0 0 1 2 0 0 20 0 3 0 987654 1 99 1 1\n",
    b"12 (a) Z 1) Z 1 12 12 0 -1 4 90 0 0 0 1 2 0 0 20 0 1 0 5 0 0 1844674 1 1 0 0 0\n",
]
MOUNTS = [
    b"22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
    b"29 22 0:25 / /var/lib/libvirt/sanlock rw,nosuid - nfs4 host:/a\\040b rw,vers=4.2\n"
    b"30 22 0:26 / /mnt/a\\011b\\134 rw - fuse.glusterfs h:/v rw\n",
]

DOMAIN_LOGS = [
    b"2026-11-25 16:17:07.309+0000: starting up libvirt version: 9.0.0, hostname: h\nLC_ALL=C \\\n"
    b"char device redirected to /dev/pts/3 (label charserial0)\n"
    b"2026-11-25T16:17:08.992504Z qemu-system-x86_64: terminating on signal 15 from pid 17 (libvirtd)\n"
    b"2026-11-25 16:17:11.661+0000: shutting down, reason=destroyed\n",
    b"2026-11-25 16:17:11.661+0000: shutting down, reason=from snapshot\r\n",
]

ENVIRONS = [b"PATH=/bin\0SANLOCK_RUN_DIR=/run/sanlock\0X=\0"]
TIMES = [b"2h", b"3 d ago", b"yesterday", b"2026-11-22 20:15", b"2026-11-22T20:15:00+01:00"]
URIS = [b"qemu:///system", b"qemu+tls://u@[::1]:16514/system?no_verify=1&authfile=/a%00b;x=y#f", b"esx://h/"]

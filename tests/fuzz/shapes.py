# SPDX-License-Identifier: LGPL-2.1-or-later
"""Inputs that grow: for each parser the words of the seeds again and again, and more of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from . import seeds
from .targets import TARGETS, Shape, Target, numbered, repeated

# So many places of each seed, from its beginning to its end.
PLACES = 4


def shapes_of(target: Target) -> dict[str, Shape]:
    """All shapes for TARGET, by name: its own ones first."""
    return {**OWN.get(target.name, {}), **dict(_generic(target))}


def _generic(target: Target) -> Iterator[tuple[str, Shape]]:
    for (number, seed), word in itertools.product(enumerate(target.seeds[:2]), seeds.WORDS):
        for place in range(PLACES + 1):
            at = _boundary(seed, len(seed) * place // PLACES)
            yield f"{word!r:.20} in {number} at {place}", repeated(word, seed[:at], seed[at:])
    for number, seed in enumerate(target.seeds):
        yield f"{number} again and again", repeated(seed)
        yield f"lines of {number} again", repeated(seed.split(b"\n")[-2] + b"\n" if b"\n" in seed else seed)


def _boundary(seed: bytes, at: int) -> int:
    """The place at or behind AT where a word of the SEED ends: inside of it only the word would break."""
    while 0 < at < len(seed) and seed[at : at + 1].isalnum():
        at += 1
    return at


def _inside(xml: bytes, tag: bytes, make: Shape) -> Shape:
    """XML with what MAKE makes behind the first TAG."""
    before, _, after = xml.partition(tag)
    return lambda size: before + tag + make(size) + after


def _xml(xml: bytes, top: bytes = b"</metadata>") -> dict[str, Shape]:
    before, _, after = xml.partition(top)

    def deep(size: int) -> bytes:
        return before + b"<a>" * (size // 7) + b"</a>" * (size // 7) + top + after

    return {
        "deep": deep,
        "deep and open": repeated(b"<a>", before),
        "flat": repeated(b"<a/>", before, top + after),
        "flat, with names of their own": numbered(b"<a%d/>", before, top + after),
        "attributes": numbered(b"<a b%d=''/>", before, top + after),
        "attributes of one": lambda size: before + b"<a " + numbered(b"b%d='' ")(size) + b"/>" + top + after,
        "namespaces": numbered(b"<a xmlns:n%d='u'/>", before, top + after),
        "nested namespaces": numbered(b"<a xmlns:n%d='u'>", before),
        "text": repeated(b"x", before, top + after),
        "lines of text": repeated(b"\n", before, top + after),
        "references": repeated(b"&lt;", before, top + after),
        "comments": repeated(b"<!-- -->", before, top + after),
        "instructions": repeated(b"<?a b?>", before, top + after),
        "CDATA": repeated(b"<![CDATA[x]]>", before, top + after),
        "disks": _inside(xml, b"<devices>", numbered(b"<disk type='file'><source file='/%d'/></disk>")),
        "leases": _inside(xml, b"<devices>", numbered(b"<lease><key>%d</key></lease>")),
        "a long name": _inside(xml, b"<name>", repeated(b"x")),
        "a long UUID": _inside(xml, b"<uuid>", repeated(b"a")),
        "names": _inside(xml, b"<name>", repeated(b"</name><name>")),
        "policies": _inside(
            xml, b"<metadata>", repeated(b"<lockfailure xmlns='urn:virt-sanlock-helper:1' recover='x'/>")
        ),
        "a long policy": _inside(
            xml,
            b"<metadata>",
            lambda size: b"<l xmlns='urn:virt-sanlock-helper:1' recover='" + b"x" * size + b"'/>",
        ),
        "blanks at the end": repeated(b" ", xml),
        "words at the end": repeated(b"a ", xml),
        "entities": lambda size: (
            b"<!DOCTYPE d [<!ENTITY a '" + b"x" * (size // 2) + b"'>]>"
            b"<domain><name>" + b"&a;" * (size // 6) + b"</name></domain>"
        ),
    }


_DOMAIN = seeds.DOMAIN_XML[0]

OWN: dict[str, dict[str, Shape]] = {
    name: _xml(_DOMAIN) for name in ("policy", "inventory", "definition-file", "domain-identity")
}
OWN["status-file"] = {
    **_xml(seeds.STATUS_FILES[0]),
    "before the domain": repeated(
        b"<a/>", b"<domstatus state='running' pid='1'>", b"<domain id='1'/></domstatus>"
    ),
    "deep before the domain": repeated(b"<a>", b"<domstatus state='running' pid='1'>"),
    "a long id": lambda size: seeds.STATUS_FILES[0].replace(b"id='7'", b"id='" + b"7" * size + b"'"),
    "a long pid": lambda size: seeds.STATUS_FILES[0].replace(b"4711", b"7" * size),
    "four-byte characters": repeated(
        "\U0001f600".encode(),
        seeds.STATUS_FILES[0].partition(b"vm1")[0],
        seeds.STATUS_FILES[0].partition(b"vm1")[2],
    ),
}
OWN["libvirt-conf"] = OWN["libvirt-conf-file"] = {
    "settings": numbered(b"a%d=1\n"),
    "the same again": repeated(b"host_id=1\n"),
    "lists in lists": repeated(b"[", b"a="),
    "closed lists in lists": lambda size: b"a=" + b"[" * (size // 2) + b"]" * (size // 2),
    "a list": lambda size: b"user=[" + b"1," * (size // 2) + b"1]",
    "a text": lambda size: b"user='" + b"x" * size + b"'",
    "a number as text": lambda size: b"host_id='" + b"1" * size + b"'",
    "semicolons": repeated(b"a=1;"),
    "comments": repeated(b"#\n"),
    "triple quotes": repeated(b'"""', b"a="),
}
OWN["auth-conf"] = {
    "groups": numbered(b"[auth-libvirt-%d]\ncredentials=a\n"),
    "a group again": repeated(b"[credentials-a]\nusername=u\n", b"[auth-libvirt-h]\ncredentials=a\n"),
    "names": numbered(b"a%d=1\n", b"[credentials-a]\n"),
    "comments": repeated(b"#\n"),
    "a value": repeated(b"\\t", b"[auth-libvirt-h]\ncredentials=a\n[credentials-a]\npassword="),
}
OWN["lease-line"] = {"leases": repeated(b"LS:key:/p:0:1 "), "colons": repeated(b":", b"LS")}
OWN["sanlock-conf"] = {
    "settings": repeated(b"kill_grace_seconds=1\n"),
    "names of their own": numbered(b"a%d=1\n"),
    "digits": lambda size: b"kill_grace_seconds=" + b"1" * size,
    "equals signs": repeated(b"=", b"kill_grace_seconds"),
}
OWN["multipath-conf"] = {
    "no_path_retry": repeated(b"no_path_retry 12\n"),
    "digits": lambda size: b"no_path_retry " + b"1" * size,
    "blanks before": lambda size: b" " * size + b"no_path_retry 12",
}
_LEASE = b"lease LS:a pool:vm 7 /l 1048576 0\n"
_RECORD = seeds.RECORDS[0].partition(b"lockspace")
OWN["record"] = OWN["record-file"] = {
    "leases": repeated(_LEASE, _RECORD[0], b"\ncrc32 1\n"),
    "fields": numbered(b"a%d b\n", _RECORD[0], b"crc32 1\n"),
    "words": repeated(b"a ", _RECORD[0], b"\ncrc32 1\n"),
    "escapes": lambda size: _RECORD[0].replace(b"xml ", b"xml " + b"\\x20" * (size // 4)) + b"\ncrc32 1\n",
    "wide escapes": lambda size: (
        _RECORD[0].replace(b"xml ", b"xml " + b"\\U0001f600" * (size // 10)) + b"\ncrc32 1\n"
    ),
    "a number": lambda size: _RECORD[0].replace(b"pid 9", b"pid " + b"9" * size) + b"\ncrc32 1\n",
    "checksums": repeated(b"\ncrc32 1"),
}
OWN["request"] = {
    "notes": numbered(b"died\t%d\n", seeds.REQUESTS[0]),
    "outcomes": repeated(b"error\tx\n", seeds.REQUESTS[0]),
    "run": lambda size: seeds.REQUESTS[0] + b"run\t" + b"9" * size,
}
OWN["spool-names"] = {"names": numbered(b".a.b.%d-1/"), "numbers": repeated(b".a.b.9999999-1/")}
OWN["sanlock-status"] = {
    "lockspaces": numbered(b"s LS%d:1:/LS:0\n    list=spaces\n"),
    "leases": numbered(b"r LS:%d:/p:0:1 p 60\n    flags=0\n", b"s LS:1:/LS:0\n"),
    "leases in many lockspaces": lambda size: (
        numbered(b"s LS%d:1:/LS:0\n")(size // 2) + numbered(b"r x%d:a:/p:0:1 p 60\n")(size // 2)
    ),
    "half a lease": repeated(b"\nr ", b"r "),
    "line breaks in a lease": repeated(b"\n", b"r LS:a", b":/p:0:1 p 60\n"),
    "line breaks in a lockspace": repeated(b"\n", b"s LS:a", b":1:/p:0\n"),
    "words in a lease": repeated(b"a\n", b"r LS:a", b":/p:0:1 p 60\n"),
    "colons in a lease": repeated(b":", b"r LS", b"\n"),
    "places in a lease": repeated(b":/a:1", b"r LS:x", b" p 60\n"),
    "open places in a lease": repeated(b":/a:1", b"r LS:x"),
    "numbers in a lockspace": repeated(b":1", b"s LS", b":/p:0\n"),
    "open numbers in a lockspace": repeated(b":1:", b"s LS"),
    "owners in a lease": repeated(b" p 60", b"r LS"),
    "backslashes": repeated(b"\\", b"r LS:a:/", b":0:1 p 60\n"),
    "escaped colons": repeated(b"\\:", b"r LS:a:/", b":0:1 p 60\n"),
    "lines that end as a lease": repeated(b"a p 60\n", b"r LS:a"),
    "lines with escaped colons": repeated(b"r LS:a:/" + b"\\:" * 4000 + b":0:x p 60\n"),
    "settings": numbered(b"    a%d=1\n", b"daemon h\n"),
    "versions": lambda size: b"daemon h\n    version_str=" + b"1." * (size // 2) + b"1",
}
OWN["sanlock-dump"] = {"slots": numbered(b"0 LS x h%d 1 1 1\n", b"\n"), "words": repeated(b"1 ", b"\n")}
OWN["sanlock-answer"] = {
    "resources": lambda size: (
        seeds.sanlock_header(0, 0, 32) + seeds.sanlock_resource(7, b"x") * (size // 1300)
    ),
    "leases": lambda size: seeds.sanlock_header(0, size // 12, size + 32) + b"LS:a:/p:0:1 " * (size // 12),
    "colons": lambda size: seeds.sanlock_header(0, 1, size + 32) + b":" * size,
    "digits": lambda size: seeds.sanlock_header(0, 1, size + 43) + b"LS:a:/p:0:" + b"1" * size + b"\0",
    "an offset": lambda size: seeds.sanlock_header(0, 1, size + 43) + b"LS:a:/p:" + b"1" * size + b":1\0",
}
_ENTRY = seeds.JOURNAL[0].split(b"\n")[0]
_BEFORE, _, _AFTER = _ENTRY.partition(b"done after")
OWN["journal"] = OWN["journal-file"] = {
    "entries": repeated(_ENTRY + b"\n"),
    "lists in lists": repeated(b"[", b'{"MESSAGE":'),
    "objects in objects": repeated(b'{"a":', b'{"MESSAGE":'),
    "lists": lambda size: _ENTRY[:-1] + b',"a":[' + b"[]," * (size // 3) + b"[]]}",
    "bytes": lambda size: _ENTRY[:-1] + b',"MESSAGE":[' + b"255," * (size // 4) + b"255]}",
    "names": lambda size: _ENTRY[:-1] + numbered(b',"a%d":""')(size) + b"}",
    "fields": lambda size: _ENTRY[:-1] + numbered(b',"VIRT_SANLOCK_HELPER_A%d":"1"')(size) + b"}",
    "a number": lambda size: b'{"MESSAGE":' + b"1" * size + b"}",
    "a long message": repeated(b": found ", _BEFORE, _AFTER),
    "escapes": repeated(b"\\u202e", _BEFORE, _AFTER),
    "kills": lambda size: b"\n".join([seeds.JOURNAL[1]] * (size // len(seeds.JOURNAL[1]))),
}
_HEAD = f"poweroff vm1 {seeds.UUID}: ".encode()
OWN["event-line"] = {
    "parts": repeated(b", verified x", _HEAD + b"done after 0.31 s: found x, y"),
    "notes": repeated(b"; x", _HEAD + b"done after 0.31 s: found x, y, verified z"),
    "tries": repeated(b" at try 3: ", _HEAD + b"FAILED after 35.0 s"),
    "repeated": repeated(b" (repeated: the process that logged this first was killed while doing so)", _HEAD),
    "backslashes": lambda size: b"pause " + b"\\" * size + _HEAD[12:],
    "escapes": lambda size: b"pause " + b"\\x3a" * (size // 4) + _HEAD[12:],
    "holds": repeated(b" process 1 still holds ", _HEAD),
}
OWN["command-line"] = {
    "NULs": repeated(b"\0"),
    "words": repeated(b"ab\0", b"", b"-uuid\0x\0"),
    "options": repeated(b"-uuid\0"),
    "a UUID": lambda size: b"-uuid\0" + b"a" * size + b"\0",
}
OWN["mountinfo"] = {
    "mounts": repeated(seeds.MOUNTS[0]),
    "a long path": lambda size: b"1 1 0:1 / " + b"/a" * (size // 2) + b" rw - nfs h:/a rw\n",
    "escapes": lambda size: b"1 1 0:1 / " + b"\\040" * (size // 4) + b" rw - nfs h:/a rw\n",
    "dashes": repeated(b" - ", b"1 1 0:1 / /"),
}
OWN["unix-sockets"] = {"sockets": repeated(TARGETS["unix-sockets"].seeds[0])}
OWN["domain-log"] = {"ends": repeated(seeds.DOMAIN_LOGS[0]), "starts": repeated(b"2026-11-25 16:17:07.")}
OWN["arguments"] = {
    "a budget": lambda size: b"--budget=" + b"9" * size,
    "a UUID": lambda size: b"qemu:///system\0" + b"a" * size + b"\0pause",
    "an action": lambda size: b"qemu:///system\0" + seeds.UUID.encode() + b"\0" + b"p" * size,
    "a process": lambda size: seeds.ARGUMENTS[0] + b"\0" + b"1" * size,
    "budgets": repeated(b"--budget=1\0", b"", seeds.ARGUMENTS[0]),
    "an option": lambda size: b"--" + b"x" * size,
}
OWN["since"] = {"an age": lambda size: b"1" * size + b"h", "blanks": lambda size: b"1" + b" " * size + b"x"}
OWN["uri"] = {
    "parameters": repeated(b"a=b&", b"qemu:///system?"),
    "semicolons": repeated(b"a=b;", b"qemu:///system?"),
    "escapes": repeated(b"%41", b"qemu://"),
    "percent signs": repeated(b"%", b"qemu://"),
}

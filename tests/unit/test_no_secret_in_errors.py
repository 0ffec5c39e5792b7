# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a domain's XML and auth.conf hold is in no error: repr() of a Unicode error has all of its data."""

from __future__ import annotations

import argparse
from zlib import crc32

import pytest

pytest.importorskip("libvirt")

import libvirt_auth
from sanlock_helper.checks.facts import Facts, HostPaths
from sanlock_helper.checks.finding import passed
from sanlock_helper.checks.registry import Check
from sanlock_helper.cli import main as cli
from sanlock_helper.cli.verbs import history
from sanlock_helper.journal import Journal
from sanlock_helper.records.record import Record, RecordError, decode
from sanlock_helper.virt.status_files import StatusFileError, parse_status_file

from .agent_world import AgentWorld

MARK = "Mk7hush"
XML = f"<domain type='qemu'><devices><graphics type='vnc' passwd='{MARK}'/></devices></domain>"
UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"


def unicode_errors() -> list[Exception]:
    found: list[Exception] = []
    for convert in ((XML.encode() + b"\xff").decode, (XML + "\udcff").encode):
        try:
            convert()
        except UnicodeError as error:
            found.append(error)
    assert all(MARK in repr(error) for error in found)
    return found


both = pytest.mark.parametrize("error", unicode_errors(), ids=["read", "written"])


@both
def test_an_attempt_that_meets_one(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    world = AgentWorld(monkeypatch, error)
    assert world.serve()
    assert type(error).__name__ in world.journal.text()
    assert MARK not in world.journal.text()


@both
@pytest.mark.parametrize("words", [["history"], ["history", "--debug"]])
def test_a_verb_that_meets_one(
    error: Exception,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail(_arguments: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(history, "run", fail)
    monkeypatch.setattr(cli, "_start_debugging", lambda: None)
    monkeypatch.setattr(cli, "wants_debug", lambda: "--debug" in words)
    assert cli.main(words) == 1
    printed = capfd.readouterr().err
    assert type(error).__name__ in printed
    assert ("Traceback" in printed) is ("--debug" in words)
    assert MARK not in printed


@both
def test_a_check_that_meets_one(error: Exception) -> None:
    def fail(_facts: Facts) -> tuple[str]:
        raise error

    found = Check("x", "", fail, passed).run(Facts(HostPaths())).found
    assert type(error).__name__ in found
    assert MARK not in found


@both
def test_a_log_that_meets_one(error: Exception, capfd: pytest.CaptureFixture[str]) -> None:
    def fail(_priority: int, _line: str) -> None:
        raise error

    journal = Journal(fail, lambda _line: None)
    journal.log("notice", "done")
    journal.flush(10)
    printed = capfd.readouterr().err
    assert type(error).__name__ in printed
    assert MARK not in printed


def sealed(text: bytes) -> bytes:
    return text + b"crc32 %d\n" % crc32(text)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\nxml ", b"\nxml \\xf"),
        (b"\nxml ", b"\nxml \\N{} "),
        (b"\nxml ", b"\nrun "),
        (b"\nxml ", b"\npid "),
        (b"\nxml ", b"\n"),
        (b"\nxml ", b"\nlease "),
        (b"\nxml ", b"\naction "),
        (b"\nxml ", b"\nmark "),
        (b"\nxml ", b"\ntime "),
    ],
)
def test_a_record_that_is_malformed(old: bytes, new: bytes) -> None:
    record = Record(UUID, "vm1", "qemu:///system", "poweroff", time=1.0)
    record.xml = f"<graphics\u00a0passwd='{MARK}'/>"
    lines = [line + b"\n" for line in record.encode().splitlines() if not line.startswith(b"crc32 ")]
    (xml,) = (line for line in lines if line.startswith(b"xml "))
    assert MARK.encode() in xml
    # In place of what has that name, and the XML's own line beside it: its fields are read in their order.
    bad = (b"\n" + xml).replace(old, new)[1:]
    name = bad.split(b" ")[0] + b" "
    kept = [line for line in lines if not line.startswith(name)]
    with pytest.raises(RecordError) as refused:
        decode(sealed(b"".join(kept) + bad))
    assert MARK not in str(refused.value)


@pytest.mark.parametrize("end", [b"\xff", b"&nope;", b"</graphics>"])
def test_a_status_file_that_is_none(end: bytes) -> None:
    data = f"<domstatus state='running' pid='1'>{XML}".encode() + end + b"</domstatus>"
    with pytest.raises(StatusFileError) as refused:
        parse_status_file(data)
    assert MARK not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[auth-libvirt-localhost]\n{}\n",
        "[auth-libvirt-localhost]\npassword {}\n",
        "[auth-libvirt-localhost]\ncredentials=a\n[credentials-a]\npassword={}\n {}\n",
        "[credentials-a\npassword={}\n",
        "[credentials-a]\npassword={}\udcff\n[auth-libvirt-localhost]\ncredentials=b\n",
    ],
)
def test_a_file_of_credentials_that_is_none(text: str) -> None:
    data = text.replace("{}", MARK).encode("utf-8", "surrogateescape")
    with pytest.raises(libvirt_auth.AuthConfigError) as refused:
        libvirt_auth.AuthConfig.from_bytes(data, "/auth.conf").credentials_group("libvirt")
    assert MARK not in str(refused.value) + repr(refused.value)

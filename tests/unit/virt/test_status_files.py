# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's status files: what counts is what stands inside, at its place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_mock import MockerFixture

from sanlock_helper.virt.status_files import StatusFileError, StatusFiles, parse_status_file

from ..fake_host import OTHER, UUID, status_xml

pytestmark = pytest.mark.pure

NAMES = [
    "vm1",
    "R&D",
    "a&amp;b",
    "x<y>",
    "q\"u'o",
    "blank name",
    "ünï",
    "名",
    "nl\nx",
    "a.xml",
    ".pid",
    "-",
    "a]]>b",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_domain_is_found_whatever_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "any.xml").write_bytes(status_xml(name))
    status = StatusFiles(str(tmp_path)).find(UUID)
    assert status is not None
    assert (status.name, status.uuid, status.id, status.pid) == (name, UUID, 3, 4711)
    assert (status.state, status.reason) == ("running", "booted")
    assert status.xml.startswith("<domain type='kvm' id='3'>")
    assert status.xml.endswith("</domain>")


JOB = b"  <job type='none' async='dump' phase='none' flags='0x2'/>\n"


@pytest.mark.parametrize("metadata", ["", "<job async='dump'/>", "<a:x xmlns:a='a'><domain/></a:x>"])
def test_a_job_of_libvirts_stands_before_the_domain(metadata: str) -> None:
    data = status_xml(metadata=metadata)
    assert not parse_status_file(data).has_job
    assert parse_status_file(data.replace(b"  <domain type", JOB + b"  <domain type")).has_job


NO_BLOCK_JOB = "<blockjobs active='no'/>"
PULL = """<blockjobs active='yes'>
    <blockjob name='pull-vda' type='pull' state='running' jobflags='0x0'>
      <disk dst='vda'/>
    </blockjob>
    <blockjob name='copy-vdb' type='copy' state='ready' newstate='ready' jobflags='0x4'>
      <disk dst='vdb' mirror='yes'/>
    </blockjob>
    <blockjob name='broken' type='commit' state='concluded' brokentype='commit'>
      <chains><disk type='file' format='raw'><source file='/a'/></disk></chains>
    </blockjob>
  </blockjobs>"""


@pytest.mark.parametrize("metadata", ["", PULL])
@pytest.mark.parametrize(
    ("text", "found"), [("", ()), (NO_BLOCK_JOB, ()), ("<blockjobs ", None), (PULL, ("vda", "vdb"))]
)
def test_block_jobs_stand_before_the_domain(text: str, found: tuple[str, ...] | None, metadata: str) -> None:
    data = status_xml(metadata=metadata).replace(b"  <domain type", f"  {text}\n  <domain type".encode())
    if found is None:
        with pytest.raises(StatusFileError):
            parse_status_file(data)
    else:
        assert parse_status_file(data).block_jobs == found


@pytest.mark.parametrize(
    "metadata",
    [
        f"<uuid>{OTHER}</uuid>",
        f"<a:x xmlns:a='urn:a'><domain id='9'><name>b</name><uuid>{OTHER}</uuid></domain></a:x>",
        f"<![CDATA[</metadata></domain></domstatus><domain><uuid>{OTHER}</uuid>]]>",
        f"<!-- <uuid>{OTHER}</uuid> -->",
    ],
)
def test_what_stands_in_the_metadata_names_no_domain(tmp_path: Path, metadata: str) -> None:
    (tmp_path / "vm1.xml").write_bytes(status_xml(metadata=metadata))
    files = StatusFiles(str(tmp_path))
    assert files.find(OTHER) is None
    status = files.find(UUID)
    assert status is not None
    assert (status.name, status.id) == ("vm1", 3)
    assert metadata in status.xml


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"no XML",
        b"<domain id='3'><name>a</name><uuid>%s</uuid></domain>" % UUID.encode(),
        status_xml()[:-20],
        status_xml().replace(b"pid='4711'", b"pid=''"),
        status_xml().replace(b" id='3'", b""),
        status_xml().replace(b"<name>vm1</name>", b""),
        b"<domstatus state='running' pid='1'></domstatus>",
        "<domstatus state='running' pid='1'/>".encode("utf-16"),
    ],
)
def test_what_is_no_status_file_is_about_no_domain(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(StatusFileError):
        parse_status_file(data)
    (tmp_path / "vm1.xml").write_bytes(data)
    (tmp_path / "vm2.xml").write_bytes(status_xml("vm2", OTHER))
    files = StatusFiles(str(tmp_path))
    assert files.find(UUID) is None
    assert [status.name for status in files.all()] == ["vm2"]


def test_only_regular_files_that_root_alone_can_write_count(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.xml")
    (tmp_path / "directory.xml").mkdir()
    (tmp_path / "dangling.xml").symlink_to("/nowhere")
    (tmp_path / "true").write_bytes(status_xml())
    (tmp_path / "link.xml").symlink_to(tmp_path / "true")
    (tmp_path / "open.xml").write_bytes(status_xml())
    (tmp_path / "open.xml").chmod(0o666)
    assert StatusFiles(str(tmp_path)).find(UUID) is None
    assert StatusFiles(str(tmp_path)).all() == []


def test_no_directory_is_no_domain(tmp_path: Path) -> None:
    assert StatusFiles(f"{tmp_path}/none").find(UUID) is None


def test_a_file_that_was_written_again_is_read_again(tmp_path: Path) -> None:
    files = StatusFiles(str(tmp_path))
    assert files.find(UUID) is None
    path = tmp_path / "vm1.xml"
    for pid, state in ((1, "running"), (2, "paused")):
        new = tmp_path / "new"
        new.write_bytes(status_xml(pid=pid, state=state))
        new.rename(path)
        status = files.find(UUID)
        assert status is not None
        assert (status.pid, status.state) == (pid, state)
    # Another domain of the same name came after it.
    path.write_bytes(status_xml(uuid=OTHER))
    assert files.find(UUID) is None
    assert files.find(OTHER) is not None
    path.unlink()
    assert files.find(OTHER) is None


def test_the_newest_of_two_files_counts(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b", "c")):
        (tmp_path / f"{name}.xml").write_bytes(status_xml(pid=number + 1))
        os.utime(tmp_path / f"{name}.xml", (0, 100 if name == "b" else number))
    status = StatusFiles(str(tmp_path)).find(UUID)
    assert status is not None
    assert status.pid == 2


def test_a_file_that_another_thread_reads_at_the_same_time_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the reading of what is known and the search for what has changed."""
    for name, uuid in (("a", UUID), ("b", OTHER)):
        (tmp_path / f"{name}.xml").write_bytes(status_xml(name, uuid))
    files = StatusFiles(str(tmp_path))
    real = os.listdir

    def interleave(path: str) -> list[str]:
        monkeypatch.setattr(os, "listdir", real)
        assert files.find(OTHER) is not None
        return real(path)

    monkeypatch.setattr(os, "listdir", interleave)
    assert files.find(UUID) is not None
    assert os.listdir is real


def test_300_files_are_not_all_read_for_each_domain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uuids = [f"00000000-0000-0000-0000-{number:012d}" for number in range(300)]
    for uuid in uuids:
        (tmp_path / f"{uuid}.xml").write_bytes(status_xml(uuid, uuid))
    files = StatusFiles(str(tmp_path))
    visited: list[str] = []
    real = os.lstat

    def count(path: str) -> os.stat_result:
        visited.append(path)
        return real(path)

    monkeypatch.setattr(os, "lstat", count)
    for uuid in uuids:
        assert files.find(uuid) is not None
    assert 0 < len(visited) < 2 * len(uuids)


@given(st.text(st.characters(exclude_characters="\0\r", exclude_categories=("Cs", "Cc")), min_size=1))
def test_any_name(name: str) -> None:
    try:
        status = parse_status_file(status_xml(name))
    except StatusFileError:
        assert any(char in name for char in "\ufffe\uffff")
    else:
        assert status.name == name


def test_a_document_type_is_none_of_libvirts(tmp_path: Path) -> None:
    """The text of its entities may be a thousand times the file's, and each try read it again."""
    xml = status_xml().partition(b"-->")[2].replace(b"<name>vm1</name>", b"<name>&e;</name>")
    (tmp_path / "a.xml").write_bytes(b"<!DOCTYPE domstatus [<!ENTITY e 'vm1'>]>" + xml)
    assert StatusFiles(str(tmp_path)).find(UUID) is None


BODY = status_xml().partition(b"-->\n")[2]

ODD_PLACES = {
    "a domain that is not the last child": BODY.replace(b"</domain>", b"</domain><x/>"),
    "two domains": BODY.replace(b"</domain>", b"</domain><domain id='9'><name>b</name></domain>"),
    "a domain in a comment before it": b"<!-- <domain id='9'><name>b</name></domain> -->" + BODY,
    "a domain in a monitor": BODY.replace(
        b"<monitor", b"<m><domain id='9'><name>b</name></domain></m><monitor"
    ),
    "another element of that beginning": BODY.replace(b"<monitor", b"<domainbackup/><monitor"),
    "a comment at the end": BODY + b"<!-- </domain></domstatus> -->",
    "blanks in the end tags": BODY.replace(b"</domain>", b"</domain >"),
    "blanks in the root's end tag": BODY.replace(b"</domstatus>", b"</domstatus\n>"),
    "no blanks at the end": BODY.replace(b"</domain>\n", b"</domain>").rstrip(),
}


@pytest.mark.parametrize("data", ODD_PLACES.values(), ids=ODD_PLACES)
def test_the_domain_is_the_first_child_of_that_name_of_the_root(data: bytes) -> None:
    status = parse_status_file(data)
    assert (status.name, status.uuid, status.id, status.pid) == ("vm1", UUID, 3, 4711)
    assert status.xml.startswith("<domain type='kvm' id='3'>\n    <name>vm1<")
    assert status.xml.rstrip(" >").endswith("</domain")
    assert status.xml.count("</domain") == 1


@pytest.mark.parametrize(
    "data",
    [
        BODY.replace(b"<domain ", b"<domains ").replace(b"</domain>", b"</domains>"),
        BODY.replace(b"<domain ", b"<domains "),
        BODY.replace(b"<domain ", b"<x><domain ").replace(b"</domain>", b"</domain></x>"),
        b"<!-- " + BODY,
        b"<domstatus state='running' pid='1'><![CDATA[" + BODY,
        b"<domstatus state='running' pid='1'/>" + BODY,
        b"</domain></domstatus>" + BODY,
        BODY.replace(b"</metadata>", b""),
        BODY.replace(b"<qemuCaps>", b""),
        BODY.replace(b"<memory", b"&e;<memory"),
    ],
)
def test_what_resembles_a_domain_and_is_none(data: bytes) -> None:
    with pytest.raises(StatusFileError):
        parse_status_file(data)


SNIPPETS = st.sampled_from(
    ["<a>", "</a>", "<a/>", "<domain>", "<domain/>", "</domain>", "<!--", "-->", "<![CDATA[", "]]>", " ", "x",
     "<name>b</name>", f"<uuid>{OTHER}</uuid>", "</domstatus>", "<domstatus>", "<?p", "?>", "<metadata>",
     "</metadata>", "<domainsnapshot/>"]
)  # fmt: skip


@given(st.lists(SNIPPETS), st.lists(SNIPPETS), st.lists(SNIPPETS))
def test_the_short_way_finds_what_the_long_one_does(
    before: list[str], inside: list[str], behind: list[str]
) -> None:
    """A comment behind the root is read in the long way: then each element counts for itself."""
    data = BODY.replace(b"<metadata></metadata>", "".join(inside).encode())
    data = data.replace(b"<monitor", "".join(before).encode() + b"<monitor")
    data = data.replace(b"</domstatus>", "".join(behind).encode() + b"</domstatus>")

    def parsed(text: bytes) -> tuple[object, ...] | None:
        try:
            found = parse_status_file(text)
        except StatusFileError:
            return None
        return found.name, found.uuid, found.id, found.state, found.pid, found.xml

    assert parsed(data) == parsed(data + b"<!-- -->")


def test_a_file_that_is_the_same_is_read_once(tmp_path: Path, mocker: MockerFixture) -> None:
    for name, uuid in (("a", UUID), ("b", OTHER)):
        (tmp_path / f"{name}.xml").write_bytes(status_xml(name, uuid))
    opened = mocker.spy(os, "open")
    files = StatusFiles(str(tmp_path))
    for _ in range(3):
        assert files.find(UUID) is not None
        assert files.find(OTHER) is not None
        assert len(files.all()) == 2
    assert opened.call_count == 2


def test_a_file_that_was_changed_in_place_and_dated_back_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(status_xml(pid=1111))
    os.utime(path, (5, 5))
    files = StatusFiles(str(tmp_path))
    assert files.find(UUID) is not None
    before = path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        path.write_bytes(status_xml(pid=2222))
        os.utime(path, (5, 5))
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_size) == (
        before.st_ino,
        before.st_mtime_ns,
        before.st_size,
    )
    status = files.find(UUID)
    assert status is not None
    assert status.pid == 2222


GIVEN_UP = "LS:disk&amp;1:/a:0:3 LS:b:/b:0:4"


def test_what_libvirt_has_given_up() -> None:
    text = status_xml().replace(b"<domain ", f"<lockstate>{GIVEN_UP}</lockstate><domain ".encode(), 1)
    assert parse_status_file(text).lock_state == GIVEN_UP
    assert parse_status_file(status_xml()).lock_state == ""
    empty = status_xml().replace(b"<domain ", b"<lockstate></lockstate><domain ", 1)
    assert parse_status_file(empty).lock_state == ""


@pytest.mark.parametrize(
    "key",
    [
        "a&b",
        "a<b",
        "<b>",
        "a&amp;b",
        "&#x41;",
        "&nbsp;",
        "]]>",
        "<!--",
        "<![CDATA[",
        "</lockstate>",
        "<domain>",
        "\u00fc",
    ],
)
def test_libvirt_does_not_escape_what_it_has_given_up(key: str) -> None:
    note = f"LS:{key}:/a:0:3"
    for end in ("", "\n  "):
        text = status_xml().replace(b"<domain ", f"<lockstate>{note}</lockstate>{end}<domain ".encode(), 1)
        status = parse_status_file(text)
        assert (status.lock_state, status.xml) == (note, parse_status_file(status_xml()).xml)


def test_a_note_that_has_no_end() -> None:
    text = status_xml().replace(b"<domain ", b"<lockstate>LS:a:/a:0:3\n<domain ", 1)
    with pytest.raises(StatusFileError):
        parse_status_file(text)


@pytest.mark.parametrize(
    "metadata", ["<lockstate>LS:a:/a:0:9</lockstate>", "<![CDATA[<lockstate>LS:a:/a:0:9</lockstate>]]>"]
)
def test_what_stands_in_the_metadata_was_not_given_up(metadata: str) -> None:
    assert parse_status_file(status_xml(metadata=metadata)).lock_state == ""

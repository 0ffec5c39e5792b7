# SPDX-License-Identifier: LGPL-2.1-or-later
"""The recovery policy in a domain's metadata: status and recovery read the same, on libvirt's test driver."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Callable

import pytest

pytest.importorskip("libvirt")

import libvirt
from hypothesis import given
from hypothesis import strategies as st

from sanlock_helper.agent.recorder import RecoveryRecorder
from sanlock_helper.virt import policy
from sanlock_helper.virt.inventory import parse_domain, take_inventory
from sanlock_helper.virt.status_files import Status

UUID = "defc17ee-2773-427c-8210-136921a454d3"
SPACE = "xmlns='urn:virt-sanlock-helper:1'"


@pytest.fixture
def connection() -> Iterator[Any]:
    connection = libvirt.open("test:///default")
    yield connection
    # The driver keeps its domains as long as anything refers to a connection.
    connection.lookupByUUIDString(UUID).destroy()
    connection.close()


def domain(connection: Any, metadata: str) -> Any:
    return connection.createXML(
        f"<domain type='test'><name>vm</name><uuid>{UUID}</uuid><memory>1024</memory>"
        f"<os><type>hvm</type></os><metadata>{metadata}</metadata></domain>",
        0,
    )


@pytest.mark.parametrize(
    ("metadata", "recovers"),
    [
        ("", False),
        (f"<lockfailure {SPACE} recover='yes'/>", True),
        (f"<lockfailure {SPACE} recover='no'/>", False),
        (f"<lockfailure {SPACE}/>", False),
        (f"<lockfailure {SPACE} recover='yes' priority='1'/>", True),
        ("<x:lockfailure xmlns:x='urn:virt-sanlock-helper:1' recover='yes'/>", True),
        ("<x:lockfailure xmlns:x='urn:virt-sanlock-helper:1' x:recover='yes'/>", True),
        ("<x:lockfailure xmlns:x='urn:virt-sanlock-helper:1' x:recover='no'/>", False),
        ("<x:lockfailure xmlns:x='urn:virt-sanlock-helper:1' x:recover='yes' recover='yes'/>", None),
        ("<lockfailure xmlns='urn:virt-sanlock-helper:1' xmlns:y='urn:y' y:recover='yes'/>", False),
        ("<lockfailure xmlns='urn:virt-sanlock-helper:2' recover='true'/>", False),
        (f"<a xmlns='urn:a'><lockfailure {SPACE} recover='yes'/></a>", False),
        *((f"<lockfailure {SPACE} recover='{value}'/>", None) for value in ("true", "", "Yes", " yes", "1")),
        # libvirt finds the element by its namespace alone.
        (f"<lockfail {SPACE} recover='yes'/>", None),
        (f"<lockfail {SPACE}/><x:lockfailure xmlns:x='urn:virt-sanlock-helper:1' recover='yes'/>", None),
    ],
)
def test_each_reader_of_the_policy_reads_the_same(
    connection: Any, metadata: str, recovers: bool | None
) -> None:
    running = domain(connection, metadata)
    xml = running.XMLDesc(0)
    found = next(known for known in take_inventory(connection) if known.name == "vm")
    assert found.config is not None
    assert found.config.recover is parse_domain(xml).recover is recovers
    if recovers is not None:
        assert bool(policy.of_domain(running).recover) is bool(policy.of_xml(xml).recover) is recovers
        assert found.problems == []
        return
    (problem,) = found.problems
    readers: list[Callable[[], object]] = [
        lambda: policy.of_domain(running),
        lambda: policy.of_xml(xml),
        lambda: policy.settings(running),
    ]
    for read in readers:
        with pytest.raises(policy.PolicyError) as raised:
            read()
        assert str(raised.value) == problem
    assert problem.startswith("the recovery policy in its metadata: ")
    # What the message names as the remedy is one.
    assert f"virt-sanlock-helper policy {UUID} --recover" in problem
    policy.set_policy(running, {"recover": "yes"})
    assert policy.of_domain(running).recover is policy.of_xml(running.XMLDesc(0)).recover is True


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("", (None, None, None)),
        ("recover='yes'", (True, None, None)),
        ("priority='-5'", (None, -5, None)),
        ("recover='no' priority='1000000' delay='3600'", (False, 1000000, 3600)),
        ("priority='007' delay='0'", (None, 7, 0)),
        ("xmlns:x='urn:virt-sanlock-helper:1' x:priority='8' x:delay='9'", (None, 8, 9)),
        ("xmlns:y='urn:y' y:priority='8' delay='9'", (None, None, 9)),
        *(
            (f"priority='{value}'", None)
            for value in ("high", "1e9", "²", "", "+1", " 1", "1_0", "--1", "1000001")
        ),
        *((f"priority='{value}'", None) for value in ("-1000001", "9" * 5000, "1.0", "nan", "-", "x" * 300)),
        *((f"delay='{value}'", None) for value in ("NaN", "-1", "3601", "1e3", "inf", "", "0.5", "9" * 5000)),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_the_order_in_the_metadata(
    connection: Any, words: str, found: tuple[bool | None, int | None, int | None] | None
) -> None:
    running = domain(connection, f"<lockfailure {SPACE} {words}/>")
    xml = running.XMLDesc(0)
    values = policy.of_domain(running)
    assert values == policy.of_xml(xml) == policy.settings(running)["live"]
    known = next(known for known in take_inventory(connection) if known.name == "vm")
    # The agent, which may not load this reader, records the same.
    noted = recorded(xml)
    if found is not None:
        assert values == (*found, "")
        assert noted == (values.priority or 0, values.delay or 0)
        assert known.problems == []
        return
    # It costs the domain nothing: it is brought back as if it had none.
    assert (values.recover, values.priority, values.delay) == (None, None, None)
    assert noted == (0, 0)
    assert known.problems == [values.problem]
    assert len(values.problem) < 300
    remedy = re.search(r"\(virt-sanlock-helper policy (\S+) --(priority|delay) 0\)$", values.problem)
    assert remedy is not None
    assert remedy[1] == UUID
    policy.set_policy(running, {remedy[2]: "0"})
    assert policy.of_domain(running).problem == ""


def recorded(xml: str) -> tuple[int, int]:
    status = Status("vm", UUID, 1, "running", "booted", 1, xml=xml)
    records: Any = None
    record = RecoveryRecorder(records, records).of_status(status, "qemu:///system", "pause")
    assert record is not None
    return record.priority, record.delay


metadata = st.lists(
    st.sampled_from(
        [
            f"<lockfailure {SPACE} priority='3'/>",
            f"<lockfailure {SPACE} priority='4' delay='5'><lockfailure {SPACE} delay='6'/></lockfailure>",
            f"<lockfail {SPACE} priority='7'/>",
            "<x:lockfailure xmlns:x='urn:virt-sanlock-helper:1' x:priority='8' delay='9'/>",
            "<lockfailure priority='10'/>",
            f"<a xmlns='urn:a'><lockfailure {SPACE} priority='11'/></a>",
            "<metadata xmlns='urn:virt-sanlock-helper:1' priority='12'/>",
            "<!-- <lockfailure xmlns='urn:virt-sanlock-helper:1' priority='13'/> -->",
            f"<a xmlns='urn:a'><![CDATA[<lockfailure {SPACE} priority='14'/>]]></a>",
        ]
    ),
    max_size=4,
).map("".join)


@given(metadata, st.sampled_from(["", "<metadata/>", "<devices><metadata><x/></metadata></devices>"]))
def test_the_agent_records_what_recovery_reads(text: str, before: str) -> None:
    xml = f"<domain type='kvm'>{before}<metadata>{text}</metadata><memory>1</memory></domain>"
    try:
        found = policy.of_xml(xml)
    except policy.PolicyError:
        assert recorded(xml) == (0, 0)
        return
    assert recorded(xml) == (found.priority or 0, found.delay or 0)


def test_what_is_not_set_stays_as_it_is(connection: Any) -> None:
    other = "<o:thing xmlns:o='urn:other' recover='maybe'/>"
    running = domain(connection, f"{other}<lockfailure {SPACE} recover='no' later='&lt;&quot;'/>")
    policy.set_policy(running, {"priority": "-3"})
    policy.set_policy(running, {"delay": "4"})
    assert policy.of_domain(running) == (False, -3, 4, "")
    xml = running.XMLDesc(0)
    assert 'later="&lt;&quot;"' in xml.replace("'", '"')
    assert "urn:other" in xml
    policy.set_policy(running, {"recover": "yes", "delay": "0"})
    assert policy.of_domain(running) == (True, -3, 0, "")


def test_an_element_of_another_name_is_replaced(connection: Any) -> None:
    running = domain(connection, f"<lockfail {SPACE} recover='no' priority='3'/>")
    with pytest.raises(policy.PolicyError):
        policy.of_domain(running)
    policy.set_policy(running, {"recover": "yes"})
    assert policy.of_domain(running) == (True, None, None, "")


@pytest.mark.parametrize(
    "element",
    [
        "<lockfailure {} recover='YES' priority='3'/>",
        "<lockfail {} recover='no'/>",
        "<lockfailure {} recover=''/>",
    ],
)
def test_one_that_stays_malformed_is_not_changed(connection: Any, element: str) -> None:
    running = domain(connection, element.format(SPACE))
    before = running.XMLDesc(0)
    with pytest.raises(policy.PolicyError):
        policy.set_policy(running, {"priority": "5", "delay": "4"})
    assert running.XMLDesc(0) == before
    policy.set_policy(running, {"priority": "5", "recover": "no"})
    assert policy.of_domain(running)[:2] == (False, 5)


def test_a_number_that_is_malformed_is_mended_by_itself(connection: Any) -> None:
    running = domain(connection, f"<lockfailure {SPACE} recover='no' priority='x' delay='y'/>")
    policy.set_policy(running, {"priority": "5"})
    policy.set_policy(running, {"delay": "4"})
    assert policy.of_domain(running) == (False, 5, 4, "")

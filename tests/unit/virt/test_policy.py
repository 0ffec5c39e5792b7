# SPDX-License-Identifier: LGPL-2.1-or-later
"""The recovery policy in a domain's metadata: status and recovery read the same, on libvirt's test driver."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Callable

import pytest

pytest.importorskip("libvirt")

import libvirt

from sanlock_helper.virt import policy
from sanlock_helper.virt.inventory import parse_domain, take_inventory

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
        assert policy.recovers(running) is policy.in_xml(xml) is recovers
        assert found.problems == []
        return
    (problem,) = found.problems
    readers: list[Callable[[], object]] = [
        lambda: policy.recovers(running),
        lambda: policy.in_xml(xml),
        lambda: policy.settings(running),
    ]
    for read in readers:
        with pytest.raises(policy.PolicyError) as raised:
            read()
        assert str(raised.value) == problem
    assert problem.startswith("the recovery policy in its metadata: ")
    # What the message names as the remedy is one.
    assert f"virt-sanlock-helper policy {UUID} --recover" in problem
    policy.set_policy(running, True)
    assert policy.recovers(running) is policy.in_xml(running.XMLDesc(0)) is True

# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Protocols of virConnect and virDomain are true of libvirt-python: each method, and what it takes."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

libvirt = pytest.importorskip("libvirt")

from sanlock_helper.virt.api import VirConnect, VirDomain  # noqa: E402

pytestmark = pytest.mark.pure

METHODS = [
    (real, protocol, name)
    for real, protocol in ((libvirt.virDomain, VirDomain), (libvirt.virConnect, VirConnect))
    for name in vars(protocol)
    if not name.startswith("_")
]


@pytest.mark.parametrize(("real", "protocol", "name"), METHODS, ids=[name for _, _, name in METHODS])
def test_libvirt_has_it_and_takes_the_same(real: Any, protocol: Any, name: str) -> None:
    parameters = list(inspect.signature(getattr(protocol, name)).parameters.values())
    least = [object()] * sum(one.default is inspect.Parameter.empty for one in parameters)
    signature = inspect.signature(getattr(real, name))
    signature.bind(*least)
    signature.bind(*[object()] * len(parameters))


def test_there_is_something_to_compare() -> None:
    assert {name for _, _, name in METHODS} >= {"destroy", "suspend", "createXML", "lookupByUUIDString"}


def test_what_the_calls_give_is_of_the_type_that_the_protocols_name() -> None:
    connection = libvirt.open("test:///default")
    domain = connection.lookupByName("test")
    state = domain.state()
    assert [type(part) for part in state] == [int, int]
    assert isinstance(domain.ID(), int)
    assert isinstance(domain.XMLDesc(0), str)
    ((found, stats),) = connection.getAllDomainStats(0, 0)
    assert (found.UUIDString(), isinstance(stats, dict)) == (domain.UUIDString(), True)
    assert [one.name() for one in connection.listAllDomains(0)] == ["test"]
    assert isinstance(connection.isAlive(), int)
    connection.close()

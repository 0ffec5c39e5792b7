# SPDX-License-Identifier: LGPL-2.1-or-later
"""A storm of calls, each process with a low limit of open files: libvirt's client ends a process over that.

One more connection than the limit has room for, and GLib ends the agent by SIGTRAP.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.stack import Stack

from . import limited_storm
from .limited_storm import storm

pytestmark = pytest.mark.xdist_group("faults-0")


@pytest.fixture(scope="module")
def host() -> Iterator[Stack]:
    with limited_storm.host() as stack:
        yield stack


@pytest.mark.parametrize("limit", [16, 24, 48])
@pytest.mark.parametrize("action", ["pause", "poweroff"])
def test_a_storm_with_few_descriptors(host: Stack, action: str, limit: int) -> None:
    uuids, messages = storm(host, action, f"-n {limit}")
    lines = [line for line in messages if line.startswith(f"{action} ")]
    done = [line.split(": done after")[0][-36:] for line in lines if ": done after" in line]
    assert sorted(uuid for uuid in done if uuid in uuids) == sorted(uuids)
    # No agent has died.
    assert not [line for line in lines if "died" in line or "this program failed" in line]

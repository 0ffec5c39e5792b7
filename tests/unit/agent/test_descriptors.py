# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process with few descriptors left: no connection is opened that GLib would end it over."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("libvirt")

import libvirt

from sanlock_helper.agent.descriptors import lacks_descriptor
from sanlock_helper.errors import TransientError

HELPER = Path(__file__).parents[3] / "helper"

FREE = range(16)
TAKEN = [0, 1, 100]

# For each pair, in a process of its own: how many descriptors are free before the reserve is taken, and how
# many something else takes later.
PROBE = """
import json, os, resource, sys
sys.path.insert(0, sys.argv[1])
from sanlock_helper.agent.descriptors import Descriptors
from sanlock_helper.errors import TransientError
opened = len(os.listdir("/proc/self/fd")) - 1
def connect(uri):
    # What libvirt takes.
    return [os.dup(0), os.dup(0)]
def attempt(before, later):
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + before, 4096))
    descriptors = Descriptors()
    kept = []
    try:
        for _ in range(later):
            kept.append(os.dup(0))
    except OSError:
        pass
    try:
        made = []
        while True:
            made.append(descriptors.guard(connect)("test:///default"))
    except TransientError as error:
        print(json.dumps([before, later, len(made), str(error)]), flush=True)
for before, later in json.loads(sys.argv[2]):
    process = os.fork()
    if not process:
        status = 1
        try:
            attempt(before, later)
            status = 0
        except Exception as error:
            print(json.dumps([before, later, -1, repr(error)]), flush=True)
        finally:
            os._exit(status)
    os.waitpid(process, 0)
"""


@functools.cache
def attempts() -> dict[tuple[int, int], tuple[int, str]]:
    """How many connections were made, and the error, by the pair: one interpreter is started for all."""
    pairs = [(before, later) for before in FREE for later in TAKEN]
    command = ["/usr/bin/python3", "-IB", "-c", PROBE, str(HELPER), json.dumps(pairs)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in answer.stdout.splitlines()]
    return {(before, later): (made, error) for before, later, made, error in lines}


@pytest.mark.parametrize("before", FREE)
@pytest.mark.parametrize("later", TAKEN)
def test_a_connection_is_refused_before_it_ends_the_process(before: int, later: int) -> None:
    # A process that was ended has left no line.
    made, error = attempts()[before, later]
    assert "leaves no room for a connection" in error
    assert "LimitNOFILE=" in error
    if later == 0:
        # The first needs two and two beside it, a further one eight beside it.
        assert made == (before >= 4) + (max(before - 2, 8) - 8) // 2


def system_error(number: int) -> libvirt.libvirtError:
    error = libvirt.libvirtError("")
    error.err = (libvirt.VIR_ERR_SYSTEM_ERROR, 0, "", 0, "", "", "", number, 0)
    return error


def caused(cause: BaseException) -> TransientError:
    error = TransientError("connect", "why")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "lacks"),
    [
        (OSError(24, "Too many open files"), True),
        (OSError(23, "Too many open files in system"), True),
        (OSError(2, "No such file or directory"), False),
        (TransientError("connect", "Too many open files"), False),
        (caused(OSError(24, "")), True),
        (caused(caused(system_error(24))), True),
        (system_error(111), False),
        (None, False),
    ],
)
def test_what_is_a_lack_of_descriptors(error: BaseException | None, lacks: bool) -> None:
    assert lacks_descriptor(error) is lacks


def test_libvirt_itself_says_so() -> None:
    """The number stands where lacks_descriptor() looks for it."""
    code = (
        "import libvirt, os, resource, sys; sys.path.insert(0, sys.argv[1])\n"
        "from sanlock_helper.agent.descriptors import lacks_descriptor\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir('/proc/self/fd')) - 1, 4096))\n"
        "try:\n    libvirt.open('qemu+unix:///system?socket=/nowhere')\n"
        "except libvirt.libvirtError as error:\n    print(lacks_descriptor(error))\n"
    )
    command = ["/usr/bin/python3", "-IB", "-c", code, str(HELPER)]
    answer = subprocess.run(command, capture_output=True, text=True, env={**os.environ}, check=False)
    assert answer.stdout == "True\n", answer

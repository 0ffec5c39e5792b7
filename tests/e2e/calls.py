# SPDX-License-Identifier: LGPL-2.1-or-later
"""Calls of the helper as sanlock makes them, on libvirtd's test driver, and what becomes of them."""

from __future__ import annotations

from pathlib import Path

from .lease_loss import HELPER, RUNTIME_DIR, story
from .stack import Stack
from .testdriver import URI

SPOOL = f"{RUNTIME_DIR}/requests"
COMM = "libvirt_sanlock"


def call(stack: Stack, uuid: str, action: str = "pause", helper: Path = HELPER, uri: str = URI) -> None:
    """Start the helper as sanlock does, and do not wait for it."""
    script = f'"{helper}" {uri} {uuid} {action} </dev/null >/dev/null 2>&1 &'
    stack.run("sh", "-c", script)


def storm(
    stack: Stack, uuids: list[str], action: str = "pause", helper: Path = HELPER, prefix: str = ""
) -> None:
    """Start a helper for each of UUIDS at once, and do not wait for them."""
    script = f'{prefix} while read uuid; do "{helper}" {URI} $uuid {action} </dev/null >/dev/null 2>&1 & done'
    stack.run("sh", "-c", script, input="".join(f"{uuid}\n" for uuid in uuids))


def helpers(stack: Stack) -> list[int]:
    return [process.pid for process in stack.processes(COMM)]


def messages(stack: Stack) -> str:
    return "\n".join(line.message for line in story(stack))

# SPDX-License-Identifier: LGPL-2.1-or-later
"""The administrator's command inside a stack."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.schemas import validated

from .stack import Stack

HELPER = Path(__file__).parents[2] / "helper"
COMMAND = str(HELPER / "virt-sanlock-helper")

# What a package puts at the killpath: a small file that runs the real one elsewhere.
TRAMPOLINE = "/run/stack/trampoline"
EXPORT = "/run/stack/journal.json"


def install_ours(stack: Stack) -> None:
    """Put our helper at libvirt's path, as a package does: unrecorded, behind a trampoline."""
    text = f'#!/bin/sh\nexec "{HELPER / "libvirt_sanlock_helper"}" "$@"\n'
    stack.write(TRAMPOLINE, text, 0o755)
    stack.install_helper(TRAMPOLINE, record=False)


def run(stack: Stack, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run it without a terminal."""
    return stack.run(COMMAND, *words, check=False, env=env)


def document(stack: Stack, kind: str, *words: str) -> dict[str, Any]:
    """Its JSON, valid for the schema KIND."""
    return validated(run(stack, *words, "--json").stdout, kind)


def checks(stack: Stack, *words: str) -> dict[str, dict[str, str]]:
    """What `check` finds, by name."""
    return {check["name"]: check for check in document(stack, "check", "check", *words)["checks"]}


def export_journal(stack: Stack) -> str:
    """Write the stack's syslog as journalctl -o json would; a stack has no journald.  Returns the path."""
    lines = (
        json.dumps(
            {
                "__REALTIME_TIMESTAMP": str(int(line.time * 1e6)),
                "SYSLOG_IDENTIFIER": line.ident,
                "MESSAGE": line.message,
                # All that runs in a stack is root's.
                "_UID": "0",
            }
        )
        for line in stack.journal()
    )
    stack.write(EXPORT, "\n".join(lines) + "\n")
    return EXPORT

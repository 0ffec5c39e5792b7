# SPDX-License-Identifier: LGPL-2.1-or-later
"""Say whether ours is the helper that sanlock runs on this host, and else what to do next."""

from __future__ import annotations

import argparse

from ...install.host import Host
from ...install.inspection import look
from ..terminal import print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(arguments: argparse.Namespace) -> int:
    findings = look(Host())
    good = all(finding.ok for finding in findings)
    if arguments.json:
        print_json("install-check", 1, {"ok": good, "findings": [finding._asdict() for finding in findings]})
        return 0 if good else 1
    for finding in findings:
        print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.what}: {finding.found}")
        if finding.step:
            print(f"      next: {finding.step}")
    return 0 if good else 1

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Check whether ours is the helper that sanlock runs on this host, now and after its next start.

These checks are the first ones of `check`, one line each: pass, warn or fail.  This verb needs no
libvirt-python, and reports where it is missing.  Nothing is changed.  Exit status: 0 when all passed, else 1.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from ...checks.facts import Facts, HostPaths
from ...checks.finding import PASS, Finding
from ...checks.plan import INSTALLATION
from ...install.host import Host
from ..check_lines import print_findings
from ..terminal import print_json

SCHEMA = 1

_WIDTH = max(len(check.what) for check in INSTALLATION)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    parser.add_argument("--json", action="store_true", help="one JSON document, see packaging/schema")


def run(arguments: argparse.Namespace) -> int:
    """Run the checks; 1 when one does not pass.  Raises HelperError without libvirt's sanlock plugin."""
    host = Host()
    host.stock()
    facts = Facts(HostPaths(proc=host.proc, run=host.run_dir), installation=host)
    found = (replace(check.run(facts), name=check.what) for check in INSTALLATION)
    findings = list(found) if arguments.json else print_findings(found, _WIDTH)
    ok = all(finding.verdict == PASS for finding in findings)
    if arguments.json:
        print_json("install-check", SCHEMA, {"ok": ok, "findings": [_as_dict(each) for each in findings]})
    return 0 if ok else 1


def _as_dict(finding: Finding) -> dict[str, object]:
    ok = finding.verdict == PASS
    return {"what": finding.name, "found": finding.found, "ok": ok, "step": "" if ok else finding.remedy}

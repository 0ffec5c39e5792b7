# SPDX-License-Identifier: LGPL-2.1-or-later
"""Check whether this host is ready to lose its storage: one line per check, pass, warn or fail.

Everything is read as sanlock's children will read it, and nothing is changed.  Exit status: 0 when
nothing failed, 1 when something did; with --strict a warning counts as a failure.
"""

from __future__ import annotations

import argparse
import os

from ...checks.facts import Facts, HostPaths
from ...checks.finding import FAIL, PASS, WARN
from ...checks.plan import CHECKS
from ..connecting import add_connect
from ..findings import print_findings
from ..terminal import print_json

SCHEMA = 1

_WIDTH = max(len(check.name) for check in CHECKS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    add_connect(parser)
    parser.add_argument("--quiet", action="store_true", help="only what did not pass")
    parser.add_argument("--strict", action="store_true", help="a warning makes the exit status 1, too")
    parser.add_argument("--json", action="store_true", help="one JSON document, see packaging/schema")


def run(arguments: argparse.Namespace) -> int:
    """Run all checks; 1 when one fails."""
    facts = Facts(HostPaths(uri=arguments.connect))
    # libvirt's client in this process must find the auth.conf that the helper's will find.
    os.environ.clear()
    os.environ.update(facts.environ)
    found = (check.run(facts) for check in CHECKS)
    findings = list(found) if arguments.json else print_findings(found, _WIDTH, arguments.quiet)
    bad = (FAIL, WARN) if arguments.strict else (FAIL,)
    ok = not any(finding.verdict in bad for finding in findings)
    if arguments.json:
        shown = [vars(finding) for finding in findings if not (arguments.quiet and finding.verdict == PASS)]
        print_json("check", SCHEMA, {"ok": ok, "checks": shown})
    return 0 if ok else 1

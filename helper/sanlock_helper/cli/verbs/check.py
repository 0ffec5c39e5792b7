# SPDX-License-Identifier: LGPL-2.1-or-later
"""Check whether this host is ready to lose its storage: one line per check, pass, warn or fail.

Everything is read as sanlock's children will read it, and nothing is changed.  The last line has the result:
READY, NOT READY, or NOT KNOWN where a check could not be made.  Exit status: 0 when it is ready, 1 when it
is not, or that is not known; with --strict a warning counts as a failure.  With --nagios: 0 ready, 1 with
warnings, 2 not ready, 3 not known.
"""

from __future__ import annotations

import argparse
import os

from ...checks.facts import Facts, HostPaths
from ...checks.finding import PASS, WARN, Finding
from ...checks.plan import CHECKS, HEADINGS
from ..check_lines import Report, print_summary, summary
from ..connecting import add_connect
from ..explaining import explain
from ..formats import JSON, PLUGIN, TEXT, add_format
from ..metrics import check_lines, print_metrics
from ..plugin import plugin_line, plugin_status
from ..terminal import print_json

SCHEMA = 1

_WIDTH = max(len(check.name) for check in CHECKS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    add_connect(parser)
    parser.add_argument("--quiet", action="store_true", help="only what did not pass")
    parser.add_argument("--strict", action="store_true", help="a warning makes the exit status 1, too")
    parser.add_argument("--explain", metavar="NAME", help="explain this check, and make none")
    choice = add_format(parser)
    choice.add_argument(
        "--nagios",
        dest="format",
        action="store_const",
        const=PLUGIN,
        help="one line and an exit status of 0 to 3, as a monitoring plugin",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run all checks; 1 when this host is not known to be ready.  Raises UsageError for no check's name."""
    if arguments.explain is not None:
        return explain(arguments.explain)
    facts = Facts(HostPaths(uri=arguments.connect))
    # libvirt's client in this process must find the auth.conf that the helper's will find.
    os.environ.clear()
    os.environ.update(facts.environ)
    report = Report(_WIDTH, arguments.quiet)
    for check in CHECKS:
        finding = check.run(facts)
        if arguments.format == TEXT:
            report.add(finding, HEADINGS.get(check.name, ""))
        else:
            report.found.append(finding)
    if arguments.format == PLUGIN:
        print(plugin_line(report.found))
        return plugin_status(report.found)
    is_ok = _is_ok(report.found, arguments.strict)
    if arguments.format == TEXT:
        report.end()
        # As a cron job mails it: nothing where nothing is to be done.
        if not arguments.quiet or any(finding.verdict != PASS for finding in report.found):
            print_summary(report.found)
    elif arguments.format == JSON:
        shown = [
            finding.as_dict() for finding in report.found if not (arguments.quiet and finding.verdict == PASS)
        ]
        print_json("check", SCHEMA, {"ok": is_ok, "checks": shown})
    else:
        print_metrics(check_lines(report.found, is_ok))
    return 0 if is_ok else 1


def _is_ok(findings: list[Finding], strict: bool) -> bool:
    return summary(findings)[1] and not (strict and any(finding.verdict == WARN for finding in findings))

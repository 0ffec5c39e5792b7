# SPDX-License-Identifier: LGPL-2.1-or-later
"""The administrator's verbs, one module each.

A verb's module holds SUMMARY (a line for --help), add_arguments(parser), and run(arguments) -> exit status
(0 done, 1 failed, 2 usage); it parses and prints, and calls what does the work elsewhere.  A module's name is
its verb, with "_" for "-".
"""

VERBS: tuple[str, ...] = (
    "recover",
    "policy",
    "install-check",
    "activate",
    "check",
    "status",
    "run",
    "history",
    "auth",
)

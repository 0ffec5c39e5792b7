# SPDX-License-Identifier: LGPL-2.1-or-later
"""Explain where libvirt's client takes the credentials for a URI from, or try them.

`auth check` goes through libvirt's lookup step by step: the files tried, the group chosen, the fields
present, never their values.  `auth test` connects.  Both do so with the environment they are started in;
sanlock starts the helper with another one, and `virt-sanlock-helper check` uses that.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

import libvirt_auth
from libvirt_auth.config import FIELDS
from libvirt_auth.uri import URI, service_of

from ...errors import HelperError
from ..connecting import DEFAULT_URI, connect_within, uri_argument
from ..terminal import plain, print_json, print_pieces
from ..wrapping import Piece

SCHEMA = 1

CONNECT_SECONDS = 30.0


@dataclass(frozen=True)
class LookupStep:
    """One step of the lookup: what was read, its result (used, skipped, warning, error), the reason."""

    what: str
    result: str
    why: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    kinds = parser.add_subparsers(dest="kind", metavar="check|test", required=True)
    for kind, summary in (("check", "explain the lookup step by step"), ("test", "connect")):
        sub = kinds.add_parser(kind, help=summary, description=f"{summary.capitalize()}.")
        sub.add_argument(
            "uri",
            metavar="URI",
            nargs="?",
            type=uri_argument,
            default=DEFAULT_URI,
            help="default: %(default)s",
        )
        sub.add_argument("--json", action="store_true", help="one JSON document, see packaging/schema")


def run(arguments: argparse.Namespace) -> int:
    """Explain or try; 1 when the file cannot be used, or the connection fails."""
    return check(arguments) if arguments.kind == "check" else test(arguments)


def check(arguments: argparse.Namespace) -> int:
    """Print the steps."""
    steps = [*file_steps(arguments.uri), *group_steps(arguments.uri)]
    failed = any(step.result == "error" for step in steps)
    if arguments.json:
        print_json(
            "auth-check",
            SCHEMA,
            {"uri": arguments.uri, "ok": not failed, "steps": [vars(step) for step in steps]},
        )
    else:
        colours = {"used": "green", "skipped": "", "warning": "yellow", "error": "red"}
        for step in steps:
            result = [Piece(f"{step.result:<8}", colours[step.result])]
            print_pieces([*result, Piece(plain(f"{step.what}: {step.why}"))], indent=8)
    return 1 if failed else 0


def file_steps(uri: str) -> Iterable[LookupStep]:
    """Where libvirt searches for the file, in its order."""
    winner = ""
    for candidate in libvirt_auth.auth_file_candidates(uri, os.environ):
        what = {"user": "the user's file", "system": "the host's file"}.get(
            candidate.origin, candidate.origin
        )
        if winner:
            there = "there, but hidden by" if os.path.exists(candidate.path) else "not read after"
            yield LookupStep(f"{what} {candidate.path}", "skipped", f"{there} {winner}")
        elif candidate.is_used():
            winner = candidate.path
            yield LookupStep(
                f"{what} {candidate.path}", "used", "the first one that libvirt takes; nothing is merged"
            )
        else:
            why = "it cannot be read" if os.path.exists(candidate.path) else "it is not there"
            yield LookupStep(f"{what} {candidate.path}", "skipped", why)
    if not winner:
        yield LookupStep("no file", "used", "libvirt connects without credentials")


def group_steps(uri: str) -> Iterable[LookupStep]:
    """The groups of the file in force that apply to URI."""
    path = libvirt_auth.find_auth_file(uri, os.environ)
    if path is None:
        return
    parts = URI(uri)
    service, host = service_of(parts), parts.server or "localhost"
    try:
        config = libvirt_auth.AuthConfig.from_file(path)
        chosen = config.auth_group(service, parts.server)
        for group in (f"auth-{service}-{host}", f"auth-{service}-default"):
            if group == chosen:
                yield LookupStep(f"group [{group}]", "used", "it is there")
                break
            yield LookupStep(f"group [{group}]", "skipped", "it is not there")
        if chosen is None:
            return
        source = libvirt_auth.describe_source(uri, os.environ)
        yield LookupStep(f"group [{source.credentials_group}]", "used", f"[{chosen}] names it")
        fields = ", ".join(source.fields) or "none"
        yield LookupStep(
            "fields", "used", f"present: {fields}; libvirt's SASL login asks for authname and password"
        )
        yield from _odd_fields(config, service, parts.server)
    except libvirt_auth.AuthConfigError as error:
        hint = f" ({error.hint})" if error.hint else ""
        yield LookupStep(f"file {path}", "error", f"{error}{hint}")


def _odd_fields(config: libvirt_auth.AuthConfig, service: str, host: str | None) -> Iterable[LookupStep]:
    """The fields of the group in use that are read as no value, or will be with another GLib."""
    odd = config.odd_fields(service, host)
    for name in FIELDS:
        why = config.why_none(service, host, name)
        if name in odd:
            what = (
                why
                or "it has a backslash that begins no escape, and other versions of GLib take it for no value"
            )
            yield LookupStep(f"field {name}", "warning", f"{what}: write each backslash twice")
        elif why:
            yield LookupStep(f"field {name}", "warning", f"{why}: it counts as none")


def test(arguments: argparse.Namespace) -> int:
    """Connect, and print the result."""
    start = time.monotonic()
    problem: HelperError | None = None
    try:
        connect_within(arguments.uri, CONNECT_SECONDS).close()
    except HelperError as error:
        problem = error
    seconds = round(time.monotonic() - start, 3)
    if arguments.json:
        data = {
            "uri": arguments.uri,
            "ok": problem is None,
            "seconds": seconds,
            "error": problem and problem.why,
            "remedy": problem.hint if problem else "",
        }
        print_json("auth-test", SCHEMA, data)
        return 1 if problem else 0
    if problem is not None:
        raise problem
    try:
        source = str(libvirt_auth.describe_source(arguments.uri, os.environ))
    except libvirt_auth.AuthConfigError as error:
        source = f"none asked for, and {error}"
    text = f"connected to {arguments.uri} in {seconds:.3f} s; credentials: {source}"
    print_pieces([Piece(plain(text))])
    return 0

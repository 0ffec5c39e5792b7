# SPDX-License-Identifier: LGPL-2.1-or-later
"""The administrator's command line: argument parsing and printing only."""

from __future__ import annotations

import argparse
import importlib
import os
import posix
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from .. import IDENTIFIER, __version__
from ..errors import HelperError, UsageError, described
from ..invocation import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE
from ..journal import DEBUG_VARIABLE, traceback_lines, wants_debug
from ..memory_limits import forbid_core_dumps
from .terminal import plain
from .verbs import VERBS

PROGRAM = IDENTIFIER

# The modules that another package has, and which.
_PACKAGES = {"libvirt": "python3-libvirt", "libvirtmod": "python3-libvirt", "sanlock": "python3-sanlock"}


class Parser(argparse.ArgumentParser):
    """Prints a usage error in one line, as all errors are printed."""

    def error(self, message: str) -> NoReturn:
        """End with a usage error."""
        self.exit(EXIT_USAGE, f"{plain(f'{self.prog}: {message} (see {self.prog} --help)')}\n")


def make_parser(wanted: str | None = None) -> argparse.ArgumentParser:
    """The parser with all verbs; the verb WANTED alone has its options, or each one where it is None.

    Raises ImportError when the module of such a verb needs one that is not here.
    """
    parser = Parser(
        prog=PROGRAM, description="Virtual machines that lose their sanlock leases, for their administrator."
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    _add_debug(parser, f"print tracebacks and debug lines to stderr, as {DEBUG_VARIABLE}=1 does")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, summary in VERBS.items():
        verb_parser = verbs.add_parser(verb, help=summary)
        if wanted in (None, verb):
            module = importlib.import_module(f".verbs.{verb.replace('-', '_')}", __package__)
            verb_parser.description = module.__doc__
            module.add_arguments(verb_parser)
            _add_debug(verb_parser, argparse.SUPPRESS)
            verb_parser.set_defaults(run=module.run)
    return parser


def _add_debug(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=what)


def _start_debugging() -> None:
    """For this process (a Journal reads the environment at its start, which posix keeps) and its children."""
    os.environ[DEBUG_VARIABLE] = "1"
    posix.environ[DEBUG_VARIABLE.encode()] = b"1"


def _print_traceback(error: BaseException) -> None:
    """Print where ERROR was raised, if debug lines are wanted."""
    if wants_debug():
        for line in traceback_lines(error):
            print(plain(line), file=sys.stderr)


def main(arguments: Sequence[str]) -> int:
    """Run with the ARGUMENTS behind the program's name; returns the exit status, with all output written."""
    _open_streams()
    forbid_core_dumps()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        # As the executable left it, lest a Ctrl-C while Python is still loading shows a traceback.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader has ended (| head).  Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        # Only the output is left to fail: what a verb reads, it reports as a HelperError.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"{PROGRAM}: write the output: {error.strerror}", file=sys.stderr)
        return EXIT_FAILED
    except Exception as error:
        _print_traceback(error)
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(place.filename)}, line {place.lineno}"
        text = plain(f"{PROGRAM}: internal error: {described(error)} in {where} (a defect: please report it)")
        print(text, file=sys.stderr)
        return EXIT_FAILED


def _run(arguments: Sequence[str]) -> int:
    try:
        # No option before the verb has a value.
        verb = next((word for word in arguments if not word.startswith("-")), "")
        parsed = make_parser(verb).parse_args(arguments)
        if "debug" in parsed:
            _start_debugging()
        status: int = parsed.run(parsed)
    except SystemExit as end:
        # --help, --version and usage errors; returned, so that their output is flushed like any other.
        return EXIT_DONE if end.code is None else int(end.code)
    except HelperError as error:
        _print_traceback(error)
        print(f"{PROGRAM}: {plain(str(error))}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED
    except ImportError as error:
        if error.name not in _PACKAGES:
            raise
        _print_traceback(error)
        hint = f"install {_PACKAGES[error.name]}"
        print(f"{PROGRAM}: load {error.name}: {plain(str(error))} ({hint})", file=sys.stderr)
        return EXIT_FAILED
    return status


def _open_streams() -> None:
    """Make stdout and stderr take every text, and all three be there: a caller may have closed them."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115  as long-lived as the process
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  as long-lived as the process
        # Domain names need not be UTF-8, and the locale need not know their characters.
        getattr(sys, name).reconfigure(errors="backslashreplace")

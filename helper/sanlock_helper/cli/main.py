# SPDX-License-Identifier: LGPL-2.1-or-later
"""The administrator's command line: argument parsing and printing only."""

from __future__ import annotations

import argparse
import importlib
import os
import posix
import shlex
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from .. import IDENTIFIER, __version__
from ..distribution import Distribution
from ..errors import HelperError, UsageError, described
from ..invocation import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE
from ..journal import DEBUG_VARIABLE, traceback_lines, wants_debug
from ..memory_limits import forbid_core_dumps
from .suggestions import did_you_mean
from .terminal import plain, print_error
from .text_width import columns_of
from .verbs import VERBS
from .wrapping import Piece, plain_text, wrap

PROGRAM = IDENTIFIER

# The modules that another package has, and which of distribution.PACKAGES that is.
_PACKAGES = {"libvirt": "libvirt-python", "libvirtmod": "libvirt-python", "sanlock": "sanlock-python"}


# The options that every verb has, and those of the program itself.
_BEFORE_THE_VERB = ("--debug", "--help", "-h", "--version")


class Parser(argparse.ArgumentParser):
    """Prints a usage error in one line, as all errors are printed, with what was probably meant."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        # Python 3.14 has colours in the help, which format_help() wraps by the width of its text.
        self.color = False

    def _check_value(self, action: argparse.Action, value: object) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            meant = did_you_mean(str(value), map(str, action.choices or ()))
            if meant:
                error.message = f"invalid choice: {value!r}; {meant}"
            raise

    def error(self, message: str) -> NoReturn:
        """End with a usage error."""
        kind, _, words = message.partition("unrecognized arguments: ")
        if not kind and words.startswith("-"):
            meant = did_you_mean(words.split()[0].partition("=")[0], self._all_options())
            message += f"; {meant}" if meant else ""
        print_error(f"{self.prog}: {message} (see {self.prog} --help)")
        self.exit(EXIT_USAGE)

    def format_help(self) -> str:
        """The help text; argparse breaks no line of choices, whatever the width of the terminal is."""
        return _fitted(super().format_help())

    def _all_options(self) -> list[str]:
        """The options of this parser and of those below it."""
        found = []
        for action in self._actions:
            found += [option for option in action.option_strings if option.startswith("--")]
            if isinstance(action, argparse._SubParsersAction):
                found += [option for below in action.choices.values() for option in below._all_options()]
        return found


def _fitted(text: str) -> str:
    """TEXT with lines that fit the terminal, if stdout is one."""
    width = columns_of()
    lines = [
        part
        for line in text.splitlines()
        for part in plain_text(wrap([Piece(line)], width, len(line) - len(line.lstrip()) + 2))
    ]
    return "\n".join([*lines, ""])


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
    # Where a caller ignores it, the kernel forgets how this program's children end, and Python takes each for
    # one that succeeded.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
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
        if error.filename is not None:
            return _defect(error)
        # Only the output is left to fail: what a verb reads, it reports as a HelperError.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print_error(f"{PROGRAM}: write the output: {error.strerror}")
        return EXIT_FAILED
    except Exception as error:
        return _defect(error)


def _defect(error: Exception) -> int:
    """Print ERROR, which no verb has foreseen; returns the exit status."""
    _print_traceback(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{os.path.basename(place.filename)}, line {place.lineno}"
    print_error(f"{PROGRAM}: internal error: {described(error)} in {where} (a defect: please report it)")
    return EXIT_FAILED


def _run(arguments: Sequence[str]) -> int:
    try:
        parsed = make_parser(_verb_of(arguments)).parse_args(arguments)
        if "debug" in parsed:
            _start_debugging()
        status: int = parsed.run(parsed)
    except SystemExit as end:
        # --help, --version and usage errors; returned, so that their output is flushed like any other.
        return EXIT_DONE if end.code is None else int(end.code)
    except HelperError as error:
        _print_traceback(error)
        print_error(f"{PROGRAM}: {error}")
        return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED
    except ImportError as error:
        if error.name not in _PACKAGES:
            raise
        _print_traceback(error)
        hint = Distribution.read().install(_PACKAGES[error.name])
        print_error(f"{PROGRAM}: load {error.name}: {error} ({hint})")
        return EXIT_FAILED
    return status


def _verb_of(arguments: Sequence[str]) -> str:
    """The verb among ARGUMENTS, "" when there is none.  Raises UsageError for a verb's option before it."""
    for place, word in enumerate(arguments):
        if word in VERBS:
            return word
        if word.startswith("-") and word.partition("=")[0] not in _BEFORE_THE_VERB:
            at = next((at for at in range(place, len(arguments)) if arguments[at] in VERBS), 0)
            if at:
                meant = [PROGRAM, arguments[at], *arguments[:at], *arguments[at + 1 :]]
                raise UsageError(word, f"options of {arguments[at]} stand behind it", shlex.join(meant))
            break
    return next((word for word in arguments if not word.startswith("-")), "")


def _open_streams() -> None:
    """Make stdout and stderr take every text, and all three be there: a caller may have closed them."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115  as long-lived as the process
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  as long-lived as the process
        # Domain names need not be UTF-8, and the locale need not know their characters.
        getattr(sys, name).reconfigure(errors="backslashreplace")

# SPDX-License-Identifier: LGPL-2.1-or-later
"""The argument contract between sanlock and its killpath.

libvirt's lock driver registers ``libvirt_sanlock_helper URI UUID ACTION`` for each QEMU process (libvirt
``src/locking/lock_driver_sanlock.c``); sanlock appends the process id when the owner asked for it with
SANLK_KILLPATH_PID (sanlock ``src/helper.c``).
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from .errors import UsageError

ACTIONS = ("poweroff", "restart", "pause", "ignore")
PROGRAM = "libvirt_sanlock_helper"

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
# What a shell gives for a program that SIGINT ended.
EXIT_INTERRUPTED = 130

USAGE = f"""\
usage: {PROGRAM} [--budget SECONDS] URI UUID ACTION [PID]
       {PROGRAM} --help | --version
"""

HELP = f"""\
{USAGE}
Make a virtual machine safe that has lost its sanlock leases.  sanlock runs this program as root, once per
virtual machine; by hand it does the same.

  URI      libvirt connection URI of the domain, for example qemu:///system
  UUID     the domain's UUID
  ACTION   the domain's on_lockfailure:
             poweroff  destroy the domain, verify that it is off
             restart   the same, then one try to start it again
             pause     suspend the domain, verify that it holds no lease any more
             ignore    do nothing; sanlock sends SIGKILL when kill_grace_seconds are over
  PID      process id that held the leases, where the owner asked sanlock to pass it

  --budget SECONDS  keep trying for so long (default: sanlock's kill_grace_seconds less 5)
  --list-files      print what a call opens until its request is handed over, and do nothing

Exit status: 0 the goal was reached and verified, 1 it was not, 2 usage error.  What was found and done goes
to syslog as virt-sanlock-helper, and to stderr.
"""

# Kernel limit: /proc/sys/kernel/pid_max cannot exceed 4 Mi (Linux include/linux/threads.h).
_PID_MAX = 4 * 1024 * 1024
# A budget over a day is a typing error; it would also overflow lock timeouts.
_BUDGET_MAX = 86400.0


class Invocation:
    """What the caller wants: a URI, a domain's UUID in libvirt's form, an action, and perhaps a process id.

    ``budget`` is in seconds; None leaves it to sanlock's kill_grace_seconds.
    """

    __slots__ = ("action", "budget", "pid", "uri", "uuid")

    def __init__(
        self, uri: str, uuid: str, action: str, pid: "int | None" = None, budget: "float | None" = None
    ) -> None:
        self.uri = uri
        self.uuid = uuid
        self.action = action
        self.pid = pid
        self.budget = budget

    @classmethod
    def parse(cls, arguments: "Sequence[str]") -> "Invocation":
        """Read the arguments behind the program's name.

        Raises UsageError, which names the argument, for anything that is not in the contract.
        """
        words, budget = _split_budget(arguments)
        if len(words) not in (3, 4):
            raise _refusal(
                "arguments", f"expected URI UUID ACTION [PID], got {len(words)} words", "see --help"
            )
        return cls(
            uri=_uri(words[0]),
            uuid=_uuid(words[1]),
            action=_action(words[2]),
            pid=_pid(words[3]) if len(words) == 4 else None,
            budget=budget,
        )


def _refusal(what: str, why: str, hint: str = "") -> "UsageError":
    from .errors import UsageError

    return UsageError(what, why, hint)


def _shown(value: str) -> str:
    from .escapes import shown

    return shown(value)


def _split_budget(arguments: "Sequence[str]") -> "tuple[list[str], float | None]":
    words = list(arguments)
    budget = None
    while words and words[0].startswith("-"):
        option = words.pop(0)
        if option == "--":
            break
        name, equals, value = option.partition("=")
        if name != "--budget":
            raise _refusal("option", f"unknown option {_shown(option)}", "see --help")
        if not equals:
            if not words:
                raise _refusal("--budget", "needs a number of seconds")
            value = words.pop(0)
        budget = _seconds(value)
    return words, budget


def _seconds(value: str) -> float:
    try:
        # float() takes more than a number: digits of any script, with "_" between them.
        seconds = float(value) if value.isascii() and "_" not in value else -1.0
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= _BUDGET_MAX:  # also false for nan
        raise _refusal("--budget", f"{_shown(value)} is not a number of seconds above 0")
    return seconds


def _plain(what: str, value: str) -> str:
    """VALUE as libvirt will read it: not empty, UTF-8 whatever the locale, one line."""
    try:
        # The interpreter decoded argv with the locale's codec; libvirt's strings are UTF-8.
        value = value.encode(sys.getfilesystemencoding(), "surrogateescape").decode("utf-8")
    except UnicodeError:
        raise _refusal(what, f"{_shown(value)} is not UTF-8") from None
    if not value:
        raise _refusal(what, "is empty")
    if not value.isprintable():
        raise _refusal(what, f"{_shown(value)} holds control characters")
    return value


def _uri(value: str) -> str:
    uri = _plain("URI", value)
    if uri.isspace():
        raise _refusal("URI", "is empty", "for example qemu:///system")
    return uri


def _uuid(value: str) -> str:
    text = _plain("UUID", value)
    digits = text.replace("-", "").lower()
    canonical = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    well_formed = len(digits) == 32 and not digits.strip("0123456789abcdef")
    if not well_formed or text.lower() not in (digits, canonical):
        raise _refusal(
            "UUID",
            f"{_shown(text)} is malformed",
            "32 hexadecimal digits, 8-4-4-4-12, see virsh domuuid DOMAIN",
        )
    return canonical


def _action(value: str) -> str:
    action = _plain("ACTION", value)
    if action not in ACTIONS:
        raise _refusal("ACTION", f"{_shown(action)} is unknown", f"one of {', '.join(ACTIONS)}")
    return action


def _pid(value: str) -> int:
    text = _plain("PID", value)
    if not (text.isascii() and text.isdigit() and len(text) <= 7 and 0 < int(text) <= _PID_MAX):
        raise _refusal("PID", f"{_shown(text)} is not a process id")
    return int(text)

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Units that `systemctl start` refuses as they are: masked ones, and those that have failed too often."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..command import run

COMMAND_SECONDS = 10.0

_PROPERTIES = "--property=Id,LoadState,UnitFileState,ActiveState,Result"

# A mask that the next boot takes away; `systemctl unmask` takes only the other one away without --runtime.
_UNTIL_BOOT = "masked-runtime"


def hindered_units(units: Iterable[str], program: str = "systemctl") -> dict[str, str]:
    """Those of UNITS that are masked or failed, each with that or the result, as in start-limit-hit.

    None where systemd does not answer.
    """
    answer = run([program, "show", _PROPERTIES, *units], COMMAND_SECONDS)
    found = {}
    for block in answer.stdout.split("\n\n") if answer.status == 0 else ():
        values = dict(line.partition("=")[::2] for line in block.splitlines())
        name, result = values.get("Id", ""), values.get("Result", "")
        if values.get("LoadState") == "masked":
            found[name] = values.get("UnitFileState") or "masked"
        elif values.get("ActiveState") == "failed" or result.endswith("start-limit-hit"):
            found[name] = result
    return found


def described(hindered: Mapping[str, str]) -> str:
    """HINDERED, by hindered_units(), in words."""
    return f"systemd: {', '.join(f'{unit} {reason}' for unit, reason in hindered.items())}"


def freed(hindered: Mapping[str, str], behind: str = "; ") -> str:
    """The commands that have systemd start HINDERED units again, each with BEHIND it; "" without any."""
    masked = [unit for unit, reason in hindered.items() if reason.startswith("masked")]
    for_now = [unit for unit in masked if hindered[unit] == _UNTIL_BOOT]
    commands = {
        "systemctl unmask": [unit for unit in masked if unit not in for_now],
        "systemctl unmask --runtime": for_now,
        "systemctl reset-failed": [unit for unit in hindered if unit not in masked],
    }
    return "".join(f"{command} {' '.join(names)}{behind}" for command, names in commands.items() if names)

# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is done in a run, and when: made from a seed, written to a file, read again.  Pure data."""

from __future__ import annotations

import json
import random
import uuid
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

# Bytes of a lease's key and of a domain's name that libvirt accepts (SANLK_NAME_LEN less one; NAME_MAX less
# what libvirt adds to it).
KEY_BYTES, NAME_BYTES = 47, 200
# libvirt refuses a slash and a line feed in a name, and the two names that every directory has.
NAME_LETTERS = (
    *"abcXYZ019 -_.,;:!?%&#@=+*~^|'\"`$()[]{}<>\\\x7f",
    *("&amp;", "%s", "$(id)", "..", "--", "\u00fc", "e\u0301", "\u00a0", "\u0085", "\u2028", "\u202e"),
    *("\U0001f600", "\ufffd"),
)
# A restarted libvirtd reads these as blanks in its status file, finds no monitor, and ends the machine.
BLANKED = ("\t", "\r")
# The name of a resource is no path; only what XML cannot hold, or turns into a blank, is left out.
KEY_LETTERS = (*"abcXYZ019 -_.,;:!?/%&#@=+*~^|'\"$()[]{}<>\\", "\u00fc", "\U0001f600")
# What is in the name of a lease's file.
FILE_LETTERS = (*"abc019 -_.,;:!?%&#@=+*'\"$()[]<>\\", "\u00fc")
# Of a lease that libvirt gives up for an I/O error: what makes its note in the status file no XML, so that a
# new libvirtd does not know the machine, and what it cannot read in a key when the machine is to go on.
NOT_NOTED = "&<:"

# How many machines there are.
MACHINES = 10
# Those of a machine's policy; few are above the rest, and several share each.
PRIORITIES = (0, 0, 0, -5, 10, 10, 1_000_000)
# The seconds that one outage takes, with what comes before and after it.
ROUND = 38.0
# The hosts on which an agent stands: most outages are of the first one.
STANDING: tuple[tuple[int, ...], ...] = ((1,), (1,), (1, 2), (2,), ())


class Machine(NamedTuple):
    """One virtual machine: it is known on both hosts, and has one disk, and a lease for each of `keys`.

    recover: yes, no, or "" for no policy.  keys: the key and the file of each <lease> element.  twin: the
    UUID of another machine that has the same name at other times.  priority: of its policy, 0 for none.
    stops: it has a second disk, which its guest uses all the time, and by whose errors it stops.
    """

    number: int
    name: str
    uuid: str
    action: str
    recover: str
    transient: bool
    keys: tuple[tuple[str, str], ...]
    twin: str
    # Machines of older schedules have neither.
    priority: int = 0
    stops: bool = False


class Step(NamedTuple):
    """One thing that is done `at` so many seconds after the begin.

    do: one of what world.py can do.  host: where.  machine: its number, -1 for none.  lasts: after so many
    seconds it is undone, 0 for what has no end of its own.  word: which kind of it.
    """

    at: float
    do: str
    host: int = 1
    machine: int = -1
    lasts: float = 0.0
    word: str = ""


class Schedule(NamedTuple):
    """All of a run.  standing: the hosts on which an agent stands."""

    seed: int
    seconds: float
    machines: tuple[Machine, ...]
    steps: tuple[Step, ...]
    standing: tuple[int, ...] = ()

    def to_json(self) -> str:
        """As a file has it: a line for each machine and step."""
        lines = [
            f'{{"seed": {self.seed}, "seconds": {self.seconds:g}, "standing": {list(self.standing)}, '
            '"machines": ['
        ]
        lines.append(",\n".join(json.dumps(machine._asdict()) for machine in self.machines))
        lines.append('], "steps": [')
        lines.append(",\n".join(json.dumps(step._asdict()) for step in self.steps))
        lines.append("]}")
        return "\n".join(lines) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Schedule:
        """What to_json() wrote, in this version or an older one.

        Raises ValueError, KeyError or TypeError for anything else, and for a step that there is none of.
        """
        data = json.loads(text)
        machines = tuple(_machine(fields) for fields in data["machines"])
        return cls(
            int(data["seed"]),
            float(data["seconds"]),
            machines,
            tuple(_checked(Step(**fields), machines) for fields in data["steps"]),
            # A schedule of an older version has none.
            tuple(data.get("standing", ())),
        )


def _machine(fields: dict[str, Any]) -> Machine:
    keys = tuple((key, file) for key, file in fields.pop("keys"))
    return Machine(**fields, keys=keys)


def _checked(step: Step, machines: tuple[Machine, ...]) -> Step:
    """STEP, if it can be done.  Raises ValueError."""
    if step.do not in KINDS or step.host not in (1, 2):
        raise ValueError(f"there is no step {step.do!r} on host {step.host!r}")
    if step.do in MACHINE_FAULTS and not 0 <= step.machine < len(machines):
        raise ValueError(f"the step {step.do!r} at {step.at} is of machine {step.machine}, which is none")
    words = WORDS.get(step.do)
    if words is not None and step.word not in words:
        raise ValueError(f"the step {step.do!r} at {step.at} is {step.word!r}, which is none of {words}")
    if step.do == "disk" and not machines[step.machine].stops:
        raise ValueError(f"the step 'disk' at {step.at} is of machine {step.machine}, which has none to fail")
    return step


def generate(seed: int, seconds: float, machines: int = MACHINES) -> Schedule:
    """The schedule of SEED: the same one each time."""
    rng = random.Random(seed)
    made = tuple(_make_machine(rng, number) for number in range(machines))
    standing = rng.choice(STANDING)
    steps: list[Step] = []
    begin = 1.0
    while begin + ROUND <= seconds or not steps:
        steps += _Round(rng, begin, made, standing).steps
        begin += ROUND
    return Schedule(seed, max(seconds, begin), made, tuple(sorted(steps)), standing)


def _make_machine(rng: random.Random, number: int) -> Machine:
    stops = rng.random() < 0.4
    unread = NOT_NOTED if stops else ""
    # The number keeps two machines from having one name, key or file.
    keys = tuple(
        (
            _text(rng, _without(KEY_LETTERS, unread), KEY_BYTES, f"{number}.{index}"),
            _text(rng, _without(FILE_LETTERS, unread.replace(":", "")), 60, f"k{number}{index}"),
        )
        for index in range(rng.choice((0, 0, 1, 1, 2)))
    )
    return Machine(
        number=number,
        name=_text(rng, NAME_LETTERS + BLANKED * (rng.random() < 0.1), NAME_BYTES, str(number)),
        uuid=_uuid(rng),
        action=rng.choice(("poweroff", "pause")),
        recover=rng.choice(("yes", "yes", "yes", "no", "")),
        transient=rng.random() < 0.2,
        keys=keys,
        twin=_uuid(rng),
        priority=rng.choice(PRIORITIES),
        stops=stops,
    )


def _without(letters: tuple[str, ...], left_out: str) -> tuple[str, ...]:
    return tuple(letter for letter in letters if letter not in set(left_out))


def _uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _text(rng: random.Random, letters: tuple[str, ...], most: int, needed: str) -> str:
    """A text of LETTERS with NEEDED somewhere in it: short ones mostly, and some of MOST bytes."""
    size = most if rng.random() < 0.1 else rng.randint(1, 12)
    size -= len(needed)
    parts: list[str] = []
    left = size
    while left > 0:
        letter = rng.choice(letters)
        # A file of the domain's has its name in XML's escapes.
        left -= len(escape(letter, {"'": "&apos;", '"': "&quot;"}).encode())
        if left >= 0:
            parts.append(letter)
    parts.insert(rng.randint(0, len(parts)), needed)
    return "".join(parts)


# What may happen beside an outage: a weight, and how long it lasts at the shortest and the longest.
HOST_FAULTS = {
    "libvirtd-stopped": (3, 1.0, 8.0),
    "libvirtd-killed": (3, 0.0, 8.0),
    "libvirtd-frozen": (3, 1.0, 12.0),
    "libvirtd-restarted": (2, 0.0, 0.0),
    "sanlock-frozen": (2, 0.5, 4.0),
    "sanlock-restarted": (1, 0.0, 0.0),
    "killpath-killed": (4, 0.0, 0.8),
    "killpath-stopped": (4, 0.5, 12.0),
    "recovery-killed": (4, 0.0, 4.0),
    "recovery-stopped": (2, 0.5, 6.0),
    "standing-killed": (4, 0.0, 0.0),
    "standing-stopped": (4, 0.5, 12.0),
    "standing-restarted": (3, 0.0, 0.0),
    "standing-updated": (2, 0.0, 0.0),
    "hold": (4, 6.0, 20.0),
    "busy": (2, 1.0, 6.0),
    "storm": (2, 0.0, 0.0),
}
MACHINE_FAULTS = {
    "qemu-frozen": (3, 0.5, 6.0),
    "qemu-killed": (2, 0.0, 0.0),
    "start": (2, 0.0, 0.0),
    "start-there": (5, 2.0, 12.0),
    "destroy": (2, 0.0, 0.0),
    "suspend": (2, 1.0, 10.0),
    "dump": (3, 0.0, 0.0),
    "save": (1, 0.0, 0.0),
    "migrate": (3, 0.0, 0.0),
    "reboot": (1, 0.0, 0.0),
    "request": (1, 0.0, 0.0),
    "by-hand": (2, 0.0, 0.0),
    "policy": (1, 0.0, 0.0),
    "undefine": (1, 0.0, 0.0),
    "twin": (1, 0.0, 0.0),
    "disk": (12, 0.3, 8.0),
}
# Of a disk: its server is away, it gives an error for each read, or has no space.  With the second a guest
# stops again as often as it is resumed: some ten times in the longest.
WORDS = {
    "by-hand": ("poweroff", "pause", "restart", "ignore"),
    "policy": ("yes", "no"),
    "disk": ("", "", "", "eio", "enospc"),
}
# What an outage is of: the storage of both hosts' leases, one host's sector of the lockspace, or the second
# disks of all machines of a host.
OUTAGES = ("storage", "sector", "disks")
KINDS = {"start-all", *OUTAGES, *HOST_FAULTS, *MACHINE_FAULTS}

# The seconds from an outage's begin in which the faults fall: the leases are lost after 6 to 8, or after 2.
WINDOW = (-3.0, 24.0)
# These wait for a process: our own live for a second, once the leases are lost.
WINDOWS = {
    "killpath-killed": (0.0, 6.0),
    "killpath-stopped": (0.0, 6.0),
    "recovery-killed": (2.0, 12.0),
    "recovery-stopped": (2.0, 12.0),
    # Over the time in which all would come back.
    "hold": (-3.0, 16.0),
    # At rest, and when the requests come.
    **dict.fromkeys(
        ("standing-killed", "standing-stopped", "standing-restarted", "standing-updated"), (-3.0, 12.0)
    ),
}
# A daemon needs a moment between two faults to count as back.
_BETWEEN = 1.0


class _Round:
    """The steps of one outage: all machines are started, the storage goes and returns, and faults beside."""

    def __init__(
        self, rng: random.Random, begin: float, machines: tuple[Machine, ...], standing: tuple[int, ...]
    ) -> None:
        self._rng = rng
        self._machines = machines
        self._standing = standing
        # Until when a thing is in a fault, by the host and the thing.
        self._taken: dict[tuple[int, str], list[tuple[float, float]]] = {}
        self.steps = [Step(begin, "start-all")]
        outage = begin + 7.0 + rng.uniform(0.0, 2.0)
        self._outage(outage)
        for _ in range(rng.randint(8, 18)):
            self._fault(outage)

    def _outage(self, at: float) -> None:
        rng = self._rng
        kind = rng.choice(("storage", "storage", "sector", "sector", "disks"))
        word = rng.choice(("", "", "resources")) if kind == "storage" else ""
        # A blink now and then, which loses nothing.
        lasts = rng.uniform(1.0, 4.0) if rng.random() < 0.1 else rng.uniform(9.0, 16.0)
        host = 2 if kind == "sector" and rng.random() < 0.1 else 1
        self.steps.append(_step(at, kind, host, -1, lasts, word))
        if kind == "storage" and rng.random() < 0.5:
            # The disks are on it, too: their errors come before a lease is lost, and they may be back before
            # the leases are, or after them.
            until = at + lasts + rng.uniform(-3.0, 6.0)
            since = at - rng.uniform(0.0, 3.0)
            self.steps.append(_step(since, "disks", host, -1, max(1.0, until - since), ""))

    def _fault(self, outage: float) -> None:
        rng = self._rng
        table = rng.choice((HOST_FAULTS, MACHINE_FAULTS))
        do = rng.choices(list(table), [weight for weight, _, _ in table.values()])[0]
        _, shortest, longest = table[do]
        machine = self._choose_machine(do) if table is MACHINE_FAULTS else -1
        lasts = rng.uniform(shortest, longest)
        at = outage + rng.uniform(*WINDOWS.get(do, WINDOW))
        host = 2 if do == "start-there" else rng.choice((1, 1, 1, 2))
        if do.startswith("standing"):
            if not self._standing:
                return
            host = rng.choice(self._standing)
        if do == "disk":
            if not self._machines[machine].stops:
                return
            if rng.random() < 0.3:
                # Its leases are given up then, and another host may take them.
                self._start_there(machine, at, lasts)
        if self._is_free(host, f"{do.partition('-')[0]} {machine}", at, lasts):
            self.steps.append(_step(at, do, host, machine, lasts, rng.choice(WORDS.get(do, ("",)))))

    def _choose_machine(self, do: str) -> int:
        """Any machine; for a disk one that has a second one, if there is any."""
        able = [machine.number for machine in self._machines if machine.stops or do != "disk"]
        return self._rng.choice(able or [0])

    def _start_there(self, machine: int, at: float, lasts: float) -> None:
        """MACHINE is started on the second host while its disk fails on the first."""
        since, ran = at + self._rng.uniform(0.2, max(0.3, lasts)), self._rng.uniform(1.0, 5.0)
        if self._is_free(2, f"start {machine}", since, ran):
            self.steps.append(_step(since, "start-there", 2, machine, ran, ""))

    def _is_free(self, host: int, thing: str, at: float, lasts: float) -> bool:
        """Whether the thing is in no other fault then; it is taken if so."""
        taken = self._taken.setdefault((host, thing), [])
        end = at + lasts + _BETWEEN
        if any(at < until and since < end for since, until in taken):
            return False
        taken.append((at, end))
        return True


def _step(at: float, do: str, host: int, machine: int, lasts: float, word: str) -> Step:
    return Step(round(at, 2), do, host, machine, round(lasts, 2), word)

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Schedules: the same from one seed, rich in what hosts have, and as small as a violation allows."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from .schedule import (
    HOST_FAULTS,
    KEY_BYTES,
    MACHINE_FAULTS,
    MACHINES,
    NAME_BYTES,
    STANDING,
    Machine,
    Schedule,
    Step,
    generate,
)
from .shrink import shrink
from .steps import names

SEEDS = range(60)
ALL = [generate(seed, 180.0) for seed in SEEDS]
STEPS = [step for schedule in ALL for step in schedule.steps]
MADE = [machine for schedule in ALL for machine in schedule.machines]


def test_a_seed_is_one_schedule() -> None:
    assert generate(7, 180.0) == generate(7, 180.0)
    assert len({schedule.to_json() for schedule in ALL}) == len(ALL)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_file_has_all_of_it(seed: int) -> None:
    assert Schedule.from_json(ALL[seed].to_json()) == ALL[seed]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"seed": 1, "seconds": 2, "machines": [{}], "steps": []}'])
def test_a_file_that_is_none(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        Schedule.from_json(text)


def test_all_kinds_of_steps_come() -> None:
    assert {step.do for step in STEPS} == {*HOST_FAULTS, *MACHINE_FAULTS, "start-all", "storage", "sector"}
    # And there is nothing else that can be done, or that cannot.
    assert {step.do for step in STEPS} <= names()
    assert {step.host for step in STEPS} == {1, 2}
    assert {step.word for step in STEPS if step.do == "by-hand"} == {"poweroff", "pause", "restart", "ignore"}


def test_an_agent_stands_on_some_hosts_and_is_struck_there_alone() -> None:
    assert {schedule.standing for schedule in ALL} == set(STANDING)
    for schedule in ALL:
        struck = {step.host for step in schedule.steps if step.do.startswith("standing-")}
        assert struck <= set(schedule.standing)


def test_a_file_without_standing_agents() -> None:
    text = ALL[0]._replace(standing=()).to_json().replace('"standing": [], ', "")
    assert '"standing"' not in text
    assert Schedule.from_json(text) == ALL[0]._replace(standing=())


def test_machines_are_of_all_kinds() -> None:
    assert {machine.action for machine in MADE} == {"poweroff", "pause"}
    assert {machine.recover for machine in MADE} == {"yes", "no", ""}
    assert {machine.transient for machine in MADE} == {False, True}
    assert {len(machine.keys) for machine in MADE} == {0, 1, 2}


@pytest.mark.parametrize("letter", list(" &<>'\"\\;$`*?#%:=-.\x7f\u00fc\u0085\u2028\U0001f600\t\r"))
def test_names_have_every_letter(letter: str) -> None:
    assert any(letter in machine.name for machine in MADE)


@pytest.mark.parametrize("letter", list(" &<>'\"\\;$*?#%:=/.\u00fc\U0001f600"))
def test_keys_have_every_letter(letter: str) -> None:
    assert any(letter in key for machine in MADE for key, _ in machine.keys)


def test_libvirt_and_sanlock_accept_the_names() -> None:
    for machine in MADE:
        assert 0 < len(machine.name.encode()) <= NAME_BYTES
        assert not set(machine.name) & set("/\n")
        for key, file in machine.keys:
            assert 0 < len(key.encode()) <= KEY_BYTES
            assert not set(key) & set("\t\r\n")
            assert "/" not in file


def _distinct(values: Iterable[object]) -> bool:
    found = list(values)
    return len(found) == len(set(found))


@pytest.mark.parametrize("seed", SEEDS)
def test_machines_are_different_ones(seed: int) -> None:
    machines = ALL[seed].machines
    assert len(machines) == MACHINES
    assert _distinct(machine.name for machine in machines)
    assert _distinct(uuid for machine in machines for uuid in (machine.uuid, machine.twin))
    assert _distinct(key for machine in machines for key, _ in machine.keys)
    assert _distinct(file for machine in machines for _, file in machine.keys)


@pytest.mark.parametrize("seed", SEEDS)
def test_steps_come_in_their_order_and_outages_one_by_one(seed: int) -> None:
    schedule = ALL[seed]
    assert list(schedule.steps) == sorted(schedule.steps)
    outages = [step for step in schedule.steps if step.do in ("storage", "sector")]
    assert len(outages) == 4
    assert all(a.at + a.lasts < b.at for a, b in zip(outages, outages[1:]))


def test_a_short_one_has_an_outage() -> None:
    assert [step.do for step in generate(1, 5.0).steps if step.do in ("storage", "sector")]


# Shrinking


def _schedule(*words: str) -> Schedule:
    machine = Machine(0, "vm", "u", "pause", "yes", False, (), "t")
    return Schedule(1, 100.0, (machine,), tuple(Step(float(n), word) for n, word in enumerate(words)))


def _left(needed: set[str], words: str) -> tuple[str, int]:
    """What is left of the steps WORDS where all of NEEDED are needed, and how often that was tried."""
    tried = 0

    def violates(schedule: Schedule) -> bool:
        nonlocal tried
        tried += 1
        return needed <= {step.do for step in schedule.steps}

    small = shrink(_schedule(*words), violates)
    return "".join(step.do for step in small.steps), tried


@pytest.mark.parametrize("needed", ["", "a", "h", "p", "ap", "dk", "abc", "afkp", "abcdefghijklmnop"])
def test_only_what_is_needed_is_left(needed: str) -> None:
    assert _left(set(needed), "abcdefghijklmnop")[0] == needed


def test_few_tries_are_made_of_many_steps() -> None:
    words = "".join(chr(300 + number) for number in range(128))
    left, tried = _left({words[5], words[77]}, words)
    assert left == words[5] + words[77]
    assert tried < 60


def test_the_time_of_a_step_stays_and_the_rest_is_cut_off() -> None:
    small = shrink(_schedule(*"abcdef"), lambda schedule: any(step.do == "c" for step in schedule.steps))
    assert small.steps == (Step(2.0, "c"),)
    assert small.seconds == 3.0
    assert small.machines == _schedule().machines

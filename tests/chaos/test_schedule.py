# SPDX-License-Identifier: LGPL-2.1-or-later
"""Schedules: the same from one seed, rich in what hosts have, and as small as a violation allows."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from .__main__ import main
from .schedule import (
    KEY_BYTES,
    KINDS,
    MACHINES,
    NAME_BYTES,
    OUTAGES,
    PRIORITIES,
    ROUND,
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
SHORT = [generate(seed, 5.0) for seed in SEEDS]
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
    assert {step.do for step in STEPS} == KINDS
    # And there is nothing else that can be done, or that cannot.
    assert names() >= KINDS
    assert {step.host for step in STEPS} == {1, 2}
    assert {step.word for step in STEPS if step.do == "by-hand"} == {"poweroff", "pause", "restart", "ignore"}
    assert {step.word for step in STEPS if step.do == "disk"} == {"", "eio", "enospc"}


def test_disks_fail_of_machines_that_have_one() -> None:
    for schedule in ALL:
        failing = {step.machine for step in schedule.steps if step.do == "disk"}
        assert all(schedule.machines[number].stops for number in failing)
    # With the leases' storage, before it, and without it.
    outages = [{step.do for step in schedule.steps} & set(OUTAGES) for schedule in SHORT]
    assert {"disks"} in outages
    assert {"storage", "disks"} in outages
    assert {"storage"} in outages


def test_an_agent_stands_on_some_hosts_and_is_struck_there_alone() -> None:
    assert {schedule.standing for schedule in ALL} == set(STANDING)
    for schedule in ALL:
        struck = {step.host for step in schedule.steps if step.do.startswith("standing-")}
        assert struck <= set(schedule.standing)


def test_a_file_without_standing_agents() -> None:
    text = ALL[0]._replace(standing=()).to_json().replace('"standing": [], ', "")
    assert '"standing"' not in text
    assert Schedule.from_json(text) == ALL[0]._replace(standing=())


def test_a_file_without_priorities_and_disks() -> None:
    """As an older version wrote it."""
    data = json.loads(ALL[0].to_json())
    data["steps"] = [step for step in data["steps"] if step["do"] not in ("disk", "disks", "hold")]
    for machine in data["machines"]:
        del machine["priority"], machine["stops"]
    schedule = Schedule.from_json(json.dumps(data))
    assert {(machine.priority, machine.stops) for machine in schedule.machines} == {(0, False)}
    assert [step._asdict() for step in schedule.steps] == data["steps"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"do": "earthquake"}, "there is no step 'earthquake' on host 1"),
        ({"do": "host"}, "there is no step 'host' on host 1"),
        ({"do": "busy", "host": 3}, "there is no step 'busy' on host 3"),
        ({"do": "destroy"}, "'destroy' at 1.5 is of machine -1, which is none"),
        ({"do": "destroy", "machine": 10}, "'destroy' at 1.5 is of machine 10, which is none"),
        ({"do": "by-hand", "machine": 0, "word": "shout"}, "'by-hand' at 1.5 is 'shout', which is none of"),
        ({"do": "disk", "machine": 0}, "'disk' at 1.5 is of machine 0, which has none to fail"),
    ],
)
def test_a_step_that_cannot_be_done_is_refused_with_words(
    change: dict[str, object], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = json.loads(ALL[0].to_json())
    data["machines"][0]["stops"] = False
    data["steps"] = [{"at": 1.5, **change}]
    file = tmp_path / "schedule.json"
    file.write_text(json.dumps(data))
    assert words in _refused(file, capsys)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Expecting value"),
        ("{}", "'machines' is missing"),
        ("[]", "list indices"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_none_is_refused_with_words(
    text: str | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "schedule.json"
    if text is not None:
        file.write_text(text)
    assert words in _refused(file, capsys)


def _refused(file: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What is printed of a schedule that is not replayed."""
    with pytest.raises(SystemExit) as caught:
        main(["--schedule", str(file), "--directory", str(file.parent)])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert f"{file}: no schedule that can be replayed: " in error
    return error


def test_machines_are_of_all_kinds() -> None:
    assert {machine.action for machine in MADE} == {"poweroff", "pause"}
    assert {machine.recover for machine in MADE} == {"yes", "no", ""}
    assert {machine.transient for machine in MADE} == {False, True}
    assert {len(machine.keys) for machine in MADE} == {0, 1, 2}
    assert {machine.priority for machine in MADE} == set(PRIORITIES)
    assert {machine.stops for machine in MADE} == {False, True}


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
    outages = [step for step in schedule.steps if step.do in OUTAGES]
    assert len({int((step.at - 1.0) // ROUND) for step in outages}) == 4
    assert all(a.at + a.lasts < b.at for a, b in zip(outages, outages[1:]) if b.at - a.at > ROUND / 2)


def test_a_short_one_has_an_outage() -> None:
    assert all(any(step.do in OUTAGES for step in schedule.steps) for schedule in SHORT)


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

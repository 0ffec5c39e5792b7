# SPDX-License-Identifier: LGPL-2.1-or-later
"""No input of a parser's ends in a traceback, hangs it, or shows a secret: see tests/fuzz.

What was a fault once stays in the corpus.  `make fuzz` searches for more.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz import limits
from tests.fuzz.corpus import FOLDER, corpus_of
from tests.fuzz.limits import SMALL, HangError, attempt, check_memory, check_scale, no_hang, try_one
from tests.fuzz.seeds import SECRET
from tests.fuzz.shapes import OWN
from tests.fuzz.strategies import inputs, odd_numbers
from tests.fuzz.targets import TARGETS, Target

from .examples import FULL, part_of, some_of

pytestmark = pytest.mark.pure

FILES = [(name, path) for name in TARGETS for path in corpus_of(name)]
SHAPES = [(name, shape) for name in TARGETS for shape in OWN.get(name, {})]

# Up to so many bytes the time is measured here; `make fuzz` goes up to what the parser is given.
MEASURED = 4 * SMALL


@pytest.fixture(scope="module")
def here() -> dict[str, str]:
    """Why a target cannot be tried here, by its name."""
    return {name: target.missing() for name, target in TARGETS.items()}


def take(name: str, here: dict[str, str]) -> Target:
    if here[name]:
        pytest.skip(here[name])
    return TARGETS[name]


def test_each_folder_of_the_corpus_is_a_targets() -> None:
    assert {path.name for path in FOLDER.iterdir()} <= TARGETS.keys()
    assert OWN.keys() <= TARGETS.keys()
    assert len(FILES) > 30


@pytest.mark.parametrize(("name", "path"), FILES, ids=lambda value: getattr(value, "name", value))
def test_what_was_a_fault_is_none(name: str, path: Path, here: dict[str, str]) -> None:
    try_one(take(name, here), path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_as_hosts_change_them(name: str, here: dict[str, str]) -> None:
    target = take(name, here)
    for seed in target.seeds:
        try_one(target, seed)

    # The same inputs each time: what is new is found by `make fuzz`, and not by a build.
    @settings(
        derandomize=True,
        max_examples=part_of(200),
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(inputs(target.seeds))
    def run(data: bytes) -> None:
        try_one(target, data)

    run()


@pytest.mark.parametrize("name", TARGETS)
def test_numbers_that_are_none(name: str, here: dict[str, str]) -> None:
    target = take(name, here)
    for seed in target.seeds[:2]:
        for data in some_of(odd_numbers(seed)):
            try_one(target, data)


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize(("name", "shape"), SHAPES)
def test_inputs_that_grow(name: str, shape: str, here: dict[str, str]) -> None:
    target, make = take(name, here), OWN[name][shape]
    if FULL:
        check_scale(target, make, min(target.most, MEASURED))
    else:
        try_one(target, make(min(target.most, SMALL // 8)))


# The limits themselves: each finds what it is for.


def of(parse: object) -> Target:
    return Target("x", parse, [b"x"], (ValueError,))  # type: ignore[arg-type]


def raises(error: Exception) -> Target:
    def parse(_data: bytes) -> None:
        raise error

    return of(parse)


def test_an_error_that_is_not_allowed_is_found() -> None:
    with pytest.raises(KeyError):
        attempt(raises(KeyError("x")), b"")
    attempt(raises(ValueError("x")), b"")


@pytest.mark.parametrize("error", [ValueError(SECRET), ValueError("x" * 3000), ValueError(b"x", SECRET)])
def test_an_error_with_a_secret_or_too_much_is_found(error: Exception) -> None:
    with pytest.raises(AssertionError):
        attempt(raises(error), b"")


def test_a_secret_in_the_cause_is_found() -> None:
    error = ValueError("x")
    error.__cause__ = KeyError(SECRET)
    with pytest.raises(AssertionError):
        attempt(raises(error), b"")


def test_a_hang_is_found() -> None:
    def parse(_data: bytes) -> None:
        while True:
            pass

    with pytest.raises(HangError), no_hang(0.05):
        attempt(of(parse), b"")


def test_time_that_grows_faster_than_the_input_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = [0.0]
    monkeypatch.setattr(limits, "time", SimpleNamespace(process_time=lambda: sum(spent)))

    def taking(power: float) -> Target:
        return of(lambda data: spent.append((len(data) / SMALL) ** power / 20))

    def make(size: int) -> bytes:
        return b"x" * size

    for power in (2, 1.5):
        with pytest.raises(AssertionError, match="times a quarter"):
            check_scale(taking(power), make, 8 * SMALL)
    check_scale(taking(1), make, 8 * SMALL)
    # What takes no time that can be measured is not judged.
    check_scale(taking(-1), make, 8 * SMALL)


def test_memory_that_is_too_much_is_found() -> None:
    with pytest.raises(AssertionError, match="MiB"):
        check_memory(of(lambda data: [data + data for _ in range(70)]), lambda size: b"x" * size, 1 << 20)
    check_memory(of(lambda data: data + data), lambda size: b"x" * size, 1 << 20)

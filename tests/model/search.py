# SPDX-License-Identifier: LGPL-2.1-or-later
"""Breadth-first search of all states of a model, and the moves that lead to a wrong one."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, Callable, NamedTuple, Protocol, TypeVar


class State(Protocol):
    """One state of a model."""

    def key(self) -> Hashable:
        """What makes it equal to another one."""

    def moves(self) -> Iterable[tuple[str, Callable[[Any], None]]]:
        """What may happen next: a name, and what makes it happen to a copy of this state."""

    def copy(self) -> Any:
        """The same state, to be changed."""

    def check(self, is_last: bool) -> None:
        """Raise AssertionError unless all is right; IS_LAST when nothing can happen any more."""


S = TypeVar("S", bound=State)


class Found(NamedTuple):
    """How large a model is."""

    states: int
    moves: int
    last: int


class _Path(NamedTuple):
    """How a state was reached."""

    before: Any
    move: str

    def moves(self) -> list[str]:
        path, names = self, []
        while path is not None:
            names.append(path.move)
            path = path.before
        return names[::-1]


class WrongState(AssertionError):
    """A property does not hold, after these moves, the fewest that lead there."""

    def __init__(self, why: BaseException, moves: list[str]) -> None:
        super().__init__(f"{why}\nafter {len(moves)} moves:\n  " + "\n  ".join(moves))
        self.moves = moves


def search(start: S, most: int = 10**9) -> Found:
    """Visit each state that can be reached from START.

    Raises WrongState at the first that is wrong, and MemoryError where there are more than MOST.
    """
    # Of a state only the hash is kept: of a million states two have the same one with a chance of 1:10^6.
    known = {hash(start.key())}
    level: list[tuple[S, _Path | None]] = [(start, None)]
    moves = last = 0
    while level:
        following: list[tuple[S, _Path | None]] = []
        for state, path in level:
            possible = list(state.moves())
            try:
                state.check(not possible)
            except AssertionError as error:
                raise WrongState(error, path.moves() if path else []) from error
            last += not possible
            for name, move in possible:
                moves += 1
                new: S = state.copy()
                move(new)
                key = hash(new.key())
                if key not in known:
                    known.add(key)
                    following.append((new, _Path(path, name)))
        if len(known) > most:
            raise MemoryError(f"more than {most} states")
        level = following
    return Found(len(known), moves, last)

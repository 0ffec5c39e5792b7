# SPDX-License-Identifier: LGPL-2.1-or-later
"""hypothesis strategies for a parser's input: its seeds, changed as hosts, editors and disks change files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from hypothesis import strategies as st

from . import seeds

_MOST_CHANGES = 6

words = st.sampled_from(seeds.WORDS) | st.sampled_from(seeds.names()) | st.binary(max_size=12)
texts = st.text(min_size=1, max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass"))


# Numbers that no reader may take for one, or that get lost in a type.
_ODD_NUMBERS = (b"nan", b"inf", b"-inf", b"1e309", b"-1", b"", b"0", b"1" * 25, b"0x1f", b"1_0", b"\xd9\xa1")
_NUMBER = re.compile(rb"[0-9]+(?:\.[0-9]+)?")
_MOST_NUMBERS = 60


def odd_numbers(data: bytes) -> Iterator[bytes]:
    """DATA with each of its numbers, of many the first ones, replaced by each that is none."""
    for match in islice(_NUMBER.finditer(data), _MOST_NUMBERS):
        for number in _ODD_NUMBERS:
            yield data[: match.start()] + number + data[match.end() :]


@st.composite
def _change(draw: st.DrawFn, data: bytes) -> bytes:
    """DATA with one change."""
    start = draw(st.integers(0, len(data)))
    end = min(len(data), start + draw(st.integers(0, 40)))
    before, part, after = data[:start], data[start:end], data[end:]
    new = draw(words | texts)
    lines = data.split(b"\n")
    one = draw(st.integers(0, len(lines) - 1))
    return draw(
        st.sampled_from(
            (
                before + new + part + after,
                before + new + after,
                before + after,
                before,
                before + part + part + after,
                before + part.swapcase() + after,
                data + data,
                b"\n".join((*lines[:one], lines[one], *lines[one:])),
                b"\n".join((*lines[one:], *lines[:one])),
            )
        )
    )


@st.composite
def mutated(draw: st.DrawFn, given: list[bytes]) -> bytes:
    """One of the seeds GIVEN, whole or in half, with a few changes; or two of them; or any bytes."""
    data = draw(st.sampled_from(given))
    if draw(st.integers(0, 9)) == 0:
        data += draw(st.sampled_from(given))
    for _ in range(draw(st.integers(0, _MOST_CHANGES))):
        data = draw(_change(data))
    return data


def inputs(given: list[bytes]) -> st.SearchStrategy[bytes]:
    """Inputs for a parser with these seeds."""
    return st.one_of(mutated(given), mutated(given), mutated(given), st.binary(max_size=300))

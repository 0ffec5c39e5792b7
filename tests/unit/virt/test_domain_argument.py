# SPDX-License-Identifier: LGPL-2.1-or-later
"""What names a domain in a command that is to be pasted."""

from __future__ import annotations

import shlex

import pytest

from sanlock_helper.virt.domain_argument import as_argument, quoted_argument

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
OTHER = "0e8c3c5e-5b0a-4e7e-8a55-0f1d6d0f2b11"


@pytest.mark.parametrize(
    "name",
    [
        "5",
        "+5",
        "-5",
        " 5",
        "007",
        "-x",
        "--all",
        OTHER,
        OTHER.replace("-", ""),
        OTHER.upper(),
        OTHER.replace("-", " "),
        "a\tb",
        "a\x1b[2J",
        "a\u202eb",
        "\udcff",
    ],
)
def test_a_name_that_is_taken_for_something_else(name: str) -> None:
    """An option, another domain's id or UUID, or what cannot be printed as it is."""
    assert as_argument(name, UUID) == UUID
    assert quoted_argument(name, UUID) == UUID


@pytest.mark.parametrize(
    "name", ["vm1", "1a", "5.5", "web-1", "ü", "a b", "it's", "$(reboot)", "5;5", "vm 5"]
)
def test_a_name_that_is_the_domains_own(name: str) -> None:
    assert shlex.split(quoted_argument(name, UUID)) == [name]
    assert as_argument(name, UUID) in (name, UUID)
    assert shlex.split(as_argument(name, UUID)) == [as_argument(name, UUID)]

# SPDX-License-Identifier: LGPL-2.1-or-later
"""on_lockfailure, read as inventory.py reads it, with less."""

from __future__ import annotations

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.virt.inventory import parse_domain
from sanlock_helper.virt.lockfailure_action import DEFAULT, lockfailure_action

ELEMENT = "<on_lockfailure>pause</on_lockfailure>"


@pytest.mark.parametrize(
    ("inside", "action"),
    [
        (ELEMENT, "pause"),
        ("<on_lockfailure>poweroff</on_lockfailure>", "poweroff"),
        ("<on_lockfailure>restart</on_lockfailure>", "restart"),
        ("<on_lockfailure>ignore</on_lockfailure>", "ignore"),
        ("", DEFAULT),
        ("<on_crash>destroy</on_crash>", DEFAULT),
        # What stands elsewhere is another program's, whatever is before it or behind.
        (f"<metadata><x>{ELEMENT}</x></metadata>", DEFAULT),
        (f"<metadata><x><on_lockfailure>ignore</on_lockfailure></x></metadata>{ELEMENT}", "pause"),
        (f"{ELEMENT}<metadata><x><on_lockfailure>ignore</on_lockfailure></x></metadata>", "pause"),
        (
            f"<name>&lt;on_lockfailure></name><description>a\u202e&amp;b</description>{ELEMENT}<devices/>",
            "pause",
        ),
        (f"<!-- {ELEMENT} --><on_lockfailure>poweroff</on_lockfailure>", "poweroff"),
        (f"<!-- {ELEMENT} -->", DEFAULT),
    ],
)
def test_the_action(inside: str, action: str) -> None:
    xml = f"<domain type='kvm' id='1'><name>vm1</name>{inside}</domain>"
    assert lockfailure_action(xml) == parse_domain(xml).on_lockfailure == action


@pytest.mark.parametrize("xml", ["", "<domain", f"<domain>{ELEMENT}", f"</a>{ELEMENT}", f"\udcff{ELEMENT}"])
def test_what_is_no_definition(xml: str) -> None:
    assert lockfailure_action(xml) in (DEFAULT, "pause")

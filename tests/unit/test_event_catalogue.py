# SPDX-License-Identifier: LGPL-2.1-or-later
"""The catalogue of events: the table in the program, journald's catalogue file and docs/events.md agree."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sanlock_helper.events import ACTION_KINDS, KINDS, RECOVERY_KINDS

pytestmark = pytest.mark.pure

TOP = Path(__file__).parents[2]
CATALOGUE = TOP / "packaging/virt-sanlock-helper.catalog"
PAGE = TOP / "docs/events.md"

IDS = [kind.message_id for kind in KINDS.values()]


def test_the_catalogue_explains_each_kind() -> None:
    text = CATALOGUE.read_text()
    assert re.findall(r"^-- ([0-9a-f]{32})$", text, re.MULTILINE) == IDS
    for entry in re.split(r"^-- .*\n", text, flags=re.MULTILINE)[1:]:
        head, means, safe, todo = entry.strip().split("\n\n")
        subject = head.split("\n")[0]
        assert re.fullmatch(r"Subject: \S.*[^.]", subject), subject
        assert means.strip()
        assert safe.startswith("Is the VM safe? "), subject
        assert todo.startswith("What to do: "), subject
        # The page joins the lines of a paragraph: a command would have a blank in it.
        assert not re.search(r"-$", entry, re.MULTILINE), subject
        # Fields that an entry may lack would leave a hole in the text.
        assert set(re.findall(r"@(\w+)@", entry)) <= {"DOMAIN_UUID"}, subject


def test_only_an_event_of_a_domain_names_one() -> None:
    entries = re.split(r"^-- (.*)\n", CATALOGUE.read_text(), flags=re.MULTILINE)[1:]
    for message_id, text in zip(entries[::2], entries[1::2]):
        (name,) = (name for name, kind in KINDS.items() if kind.message_id == message_id)
        assert "@DOMAIN_UUID@" not in text or name in {**ACTION_KINDS, **RECOVERY_KINDS}, name


def test_the_page_is_made_of_the_catalogue() -> None:
    made = subprocess.run([TOP / "packaging/make-events"], capture_output=True, text=True, check=True).stdout
    assert PAGE.read_text() == made, "run packaging/make-events >docs/events.md"
    assert re.findall(r"^`([0-9a-f]{32})`", made, re.MULTILINE) == IDS


def test_journalctl_takes_the_catalogue(tmp_path: Path) -> None:
    if shutil.which("journalctl") is None:
        pytest.skip("journalctl is not installed")
    for folder in ("usr/lib/systemd/catalog", "var/lib/systemd/catalog"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(CATALOGUE, tmp_path / "usr/lib/systemd/catalog")
    journalctl = ["journalctl", f"--root={tmp_path}"]
    answer = subprocess.run([*journalctl, "--update-catalog"], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, "")
    listed = subprocess.run(
        [*journalctl, "--list-catalog"], capture_output=True, text=True, check=True
    ).stdout
    assert sorted(re.findall(r"^([0-9a-f]{32}) virt-sanlock-helper: ", listed, re.MULTILINE)) == sorted(IDS)

# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long multipath queues, by its configuration, by its maps, and by a multipathd that runs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

pytest.importorskip("libvirt")

from sanlock_helper.checks.multipath import (
    Multipath,
    check_multipath,
    map_queueing,
    multipath_in_force,
    parse_sections,
    queueing,
)
from sanlock_helper.leases.timeline import Timeline

CLOCK = Timeline(10, 40, 60)

QUEUES = 'features "1 queue_if_no_path"'

# As vdsm writes it (lib/vdsm/tool/configurators/multipath.py).
OVIRT = """defaults {
    polling_interval            5
    no_path_retry               16
    user_friendly_names         no
    flush_on_last_del           yes
    fast_io_fail_tmo            5
    dev_loss_tmo                30
    max_fds                     4096
}
blacklist {
        protocol "(scsi:adt|scsi:sbp)"
}
overrides {
      no_path_retry            16
}
"""


@pytest.mark.parametrize(
    ("config", "seconds"),
    [
        ("", 0),
        ("defaults {\n}\n", 0),
        ("defaults {\n  no_path_retry fail\n}\n", 0),
        ("defaults {\n  no_path_retry 0\n}\n", 0),
        ("defaults {\n  no_path_retry 4\n}\n", 20),
        ('defaults {\n  polling_interval 10\n  no_path_retry "9"\n}\n', 90),
        ("defaults {\n no_path_retry 2\n}\noverrides {\n no_path_retry 17\n}\n", 85),
        ("defaults {\n no_path_retry queue\n}\n", math.inf),
        ("defaults { no_path_retry queue }", math.inf),
        ("defaults {\n # no_path_retry queue\n}\n", 0),
        ("defaults {\n ! no_path_retry queue\n}\n", 0),
        ("defaults {\n no_path_retry 4 # queue\n}\n", 20),
        # Of one name the last counts.
        ("defaults {\n no_path_retry queue\n no_path_retry 4\n}\n", 20),
        ("defaults {\n no_path_retry queue\n}\ndefaults {\n no_path_retry 4\n}\n", 20),
        (f"defaults {{\n {QUEUES}\n}}\n", math.inf),
        ('defaults {\n features "2 queue_if_no_path retain_attached_hw_handler"\n}\n', math.inf),
        ('defaults {\n features "3 pg_init_retries 50 queue_if_no_path"\n}\n', math.inf),
        ('defaults {\n features "0"\n}\n', 0),
        # Wherever no_path_retry stands, it wins.
        (f"defaults {{\n {QUEUES}\n no_path_retry 4\n}}\n", 20),
        (f"defaults {{\n no_path_retry fail\n}}\ndevices {{\n device {{\n {QUEUES}\n}}\n}}\n", 0),
        (f"devices {{\n device {{\n vendor x\n {QUEUES}\n}}\n}}\n", math.inf),
        ("devices {\n device {\n no_path_retry queue\n}\n}\n", math.inf),
        # Overrides win over devices and defaults, and multipaths over these.
        ("devices {\n device {\n no_path_retry queue\n}\n}\noverrides {\n no_path_retry 4\n}\n", 20),
        ("defaults {\n no_path_retry queue\n}\noverrides {\n no_path_retry fail\n}\n", 0),
        ("overrides {\n no_path_retry queue\n}\ndefaults {\n no_path_retry 4\n}\n", math.inf),
        (f"overrides {{\n {QUEUES}\n}}\n", math.inf),
        (f"overrides {{\n {QUEUES}\n}}\ndefaults {{\n no_path_retry 4\n}}\n", 20),
        (
            "multipaths {\n multipath {\n no_path_retry queue\n}\n}\noverrides {\n no_path_retry 4\n}",
            math.inf,
        ),
        # A section within overrides is about paths.
        ("overrides {\n no_path_retry 4\n protocol {\n type x\n no_path_retry queue\n}\n}\n", 20),
        (OVIRT, 80),
    ],
)
def test_what_a_configuration_queues(config: str, seconds: float) -> None:
    assert queueing(config).seconds == seconds
    expected = "pass" if seconds <= CLOCK.lost else "fail" if math.isinf(seconds) else "warn"
    finding = check_multipath(Multipath(config), CLOCK)
    assert finding.verdict == expected
    retries = 7 if "polling_interval 10" in config else 15
    assert (f"no_path_retry {retries} in /etc/multipath.conf" in finding.remedy) == (expected != "pass")


def test_without_multipath() -> None:
    assert check_multipath(None, CLOCK).verdict == "pass"


def test_sections_and_words() -> None:
    found = parse_sections('a {\n  b "c # d" e\n  f {\n g "h"\n  }\n i j\n}\n} k l\n')
    assert [(one.name, one.values) for one in found] == [("a", {"b": "c # d", "i": "j"}), ("f", {"g": "h"})]


@pytest.mark.parametrize(
    ("state", "seconds"),
    [("on", math.inf), ("off", 0), ("-", 0), ("4 chk", 20), ("16 chk", 80), ("35 sec", 35)],
)
def test_what_a_map_queues(state: str, seconds: float) -> None:
    assert map_queueing([("mpatha", "off"), ("mpathb", state)], 5).seconds == seconds


DAEMON = """#!/bin/sh
case "$*" in
    "show config local") printf 'defaults {{\n polling_interval 10\n no_path_retry queue\n}}\n' ;;
    "show maps raw format %n|%Q|%f") printf '{maps}' ;;
    *) exit 1 ;;
esac
"""


@pytest.mark.parametrize(
    ("maps", "verdict", "words"),
    [
        ("", "fail", "no_path_retry queue: for ever (defaults)"),
        ("mpatha|4 chk|0\\nmpathb|off|0\\n", "pass", "mpatha queues for 40 s"),
        ("mpatha|on|1 queue_if_no_path\\n", "fail", "mpatha queues: for ever"),
        # Of a map that multipathd sets nothing for, what the kernel has.
        ("mpatha|-|1 queue_if_no_path\\n", "fail", "mpatha queues: for ever"),
        ("mpatha|-|0\\n", "pass", "no map of 1 queues"),
        ("mpatha|9 chk|0\\n", "warn", "mpatha queues for 90 s"),
        # An older one, that does not know the question.
        ("name paths\\nmpatha 4\\n", "fail", "no_path_retry queue: for ever (defaults)"),
    ],
)
def test_the_running_daemon_is_asked(tmp_path: Path, maps: str, verdict: str, words: str) -> None:
    program = tmp_path / "multipathd"
    program.write_text(DAEMON.format(maps=maps))
    program.chmod(0o755)
    (tmp_path / "multipath.conf").write_text("defaults {\n no_path_retry fail\n}\n")
    found = check_multipath(multipath_in_force(tmp_path, str(program)), CLOCK)
    assert (found.verdict, words in found.found) == (verdict, True), found
    if verdict != "pass":
        assert found.remedy == (
            "mkdir -p /etc/multipath/conf.d && printf '%s\\n' 'overrides {' '    no_path_retry 7' '}' "
            "> /etc/multipath/conf.d/virt-sanlock-helper.conf && multipathd reconfigure"
            "  # or no_path_retry 7 in /etc/multipath.conf"
        )


def test_without_a_daemon_its_files_are_read(tmp_path: Path) -> None:
    none = f"{tmp_path}/none"
    assert multipath_in_force(tmp_path, none) is None
    (tmp_path / "multipath.conf").write_text("defaults {\n no_path_retry queue\n}")
    found = check_multipath(multipath_in_force(tmp_path, none), CLOCK)
    assert (found.verdict, "reconfigure" in found.remedy) == ("fail", False)
    (tmp_path / "multipath/conf.d").mkdir(parents=True)
    (tmp_path / "multipath/conf.d/a.conf").write_text("overrides {\n no_path_retry fail\n}")
    assert check_multipath(multipath_in_force(tmp_path, none), CLOCK).verdict == "pass"


def test_a_setting_for_one_map_is_not_mended_by_another_file() -> None:
    text = "multipaths {\n multipath {\n no_path_retry queue\n}\n}"
    assert check_multipath(Multipath(text, True), CLOCK).remedy == "no_path_retry 15 in /etc/multipath.conf"

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Limits on memory: libvirt's own helper, of one thread, gets through with less than ours needs."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from sanlock_helper.checks.killpath import check_memory
from sanlock_helper.memory_limits import require_memory

HELPER = Path(__file__).parents[2] / "helper" / "libvirt_sanlock_helper"
STOCK = ("/usr/lib/libvirt/libvirt_sanlock_helper", "/usr/libexec/libvirt_sanlock_helper")
UUID = "6695eb01-f6a4-8304-79aa-0000000000%02d"

NAMESPACES = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]

# Each call is a process of its own, started at the same time, as sanlock starts them.
SCRIPT = """
mount -t tmpfs run /run
ulimit -{option} {kib}
calls=
for uuid; do
    "$HELPER" "$URI" "$uuid" poweroff &
    calls="$calls $!"
done
failed=0
for call in $calls; do wait "$call" || failed=1; done
exit $failed
"""


def storm(tmp_path: Path, option: str, mib: int, domains: int) -> tuple[int, str]:
    """Exit status (1 when one of the calls had another than 0), and stderr, of calls for DOMAINS at once."""
    uuids = [UUID % number for number in range(domains)]
    os_type = "<memory>8192</memory><os><type>hvm</type></os>"
    machines = (f"<domain type='test'><name>d{u}</name><uuid>{u}</uuid>{os_type}</domain>" for u in uuids)
    (tmp_path / "host.xml").write_text(f"<node>{''.join(machines)}</node>")
    script = SCRIPT.format(option=option, kib=mib * 1024)
    result = subprocess.run(
        [*NAMESPACES, "bash", "-c", script, "bash", *uuids],
        env={"PATH": os.defpath, "HELPER": str(HELPER), "URI": f"test://{tmp_path}/host.xml"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    return result.returncode, result.stderr


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")


@needs_root
@pytest.mark.skipif(not any(map(os.path.exists, STOCK)), reason="libvirt's own helper is not here")
@pytest.mark.parametrize(
    ("option", "mib", "words"),
    [
        (
            "v",
            100,
            "address space is limited to 100 MiB, and 512 MiB are needed: set LimitAS= of sanlock.service",
        ),
        ("v", 160, "address space is limited to 160 MiB, and 512 MiB are needed"),
        ("v", 240, "address space is limited to 240 MiB, and 512 MiB are needed"),
        ("v", 511, "address space is limited to 511 MiB, and 512 MiB are needed"),
        ("d", 16, "data size is limited to 16 MiB, and 64 MiB are needed: set LimitDATA= of sanlock.service"),
    ],
)
@pytest.mark.parametrize("domains", [1, 8])
def test_with_less_libvirts_own_helper_serves(
    tmp_path: Path, option: str, mib: int, words: str, domains: int
) -> None:
    status, text = storm(tmp_path, option, mib, domains)
    assert status == 0, text
    assert text.count("takes over, to poweroff") == domains, text
    assert words in text


@needs_root
@pytest.mark.parametrize(("option", "mib"), [("v", 512), ("v", 4000), ("d", 64)])
@pytest.mark.parametrize("domains", [1, 40])
def test_with_what_is_needed_ours_does(tmp_path: Path, option: str, mib: int, domains: int) -> None:
    status, text = storm(tmp_path, option, mib, domains)
    assert status == 0, text
    # Every call is logged by the agent that served it.
    assert text.count("found running, destroyed, verified off") == domains, text


@pytest.mark.parametrize("limits", ["", "nonsense\n", "Max address space unlimited unlimited bytes\n"])
def test_no_limit_is_no_reason(tmp_path: Path, limits: str) -> None:
    (tmp_path / "limits").write_text(limits)
    require_memory(str(tmp_path / "limits"))
    require_memory(str(tmp_path / "missing"))
    assert check_memory(limits).verdict == "pass"


def test_the_limits_of_the_sanlock_daemon_are_checked() -> None:
    limits = Path("/proc/self/limits").read_text()
    low = re.sub(r"(?m)^(Max address space +)\S+", rf"\g<1>{160 << 20}", limits)
    finding = check_memory(low)
    assert finding.verdict == "fail"
    assert "160 MiB, and 512 MiB are needed" in finding.found
    assert finding.remedy == "set LimitAS= of sanlock.service to more"

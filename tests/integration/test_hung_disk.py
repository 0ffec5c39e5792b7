# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files on a disk that does not answer, or that are no files: a virtual machine waits for none of them.

Each case runs the executable on libvirt's embedded test driver, in namespaces of its own, whose PID 1 takes
everything along when it ends.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

HELPER = Path(__file__).parents[2] / "helper" / "libvirt_sanlock_helper"
URI = "test:///default"
UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")

# The limit on memory is for the code that reads a file to its end.
SCRIPT = """
set -e
mount -t tmpfs run /run
mkdir /run/upper /run/work
mount -t overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work etc /etc
mkdir -p /etc/sanlock
rm -f /etc/sanlock/sanlock.conf
conf=/etc/sanlock/sanlock.conf
{prepare}
ulimit -v 2000000
# Without exec: the timeout of coreutils 9.10 fails as PID 1.
timeout -s KILL {seconds} "$@"
"""

# A disk of its own, which answers until it is stopped.
DISK = """
mkdir -p /run/disk /run/fuse
echo 'kill_grace_seconds = 20' >/run/disk/sanlock.conf
# Over an empty folder: FUSE 2 needs the option nonempty for another one, and FUSE 3 refuses that option.
bindfs -f /run/disk /run/fuse &
until mountpoint -q /run/fuse; do kill -0 $!; sleep 0.05; done
mount --bind /run/fuse {mount}
{before}
kill -STOP $!
"""


def hung(mount: str, before: str = "") -> str:
    return DISK.format(mount=mount, before=before)


KINDS = {
    "fifo": "mkfifo $conf",
    "link to a fifo": "mkfifo /run/fifo; ln -s /run/fifo $conf",
    "zero": "ln -s /dev/zero $conf",
    "random": "ln -s /dev/urandom $conf",
    "terminal": "ln -s /dev/tty $conf",
    "directory": "mkdir $conf",
    "socket": """python3 -c 'import socket as s; s.socket(s.AF_UNIX).bind("/etc/sanlock/sanlock.conf")'""",
    "loop": "ln -s $conf $conf",
    "huge": "truncate -s 4G $conf",
    "huge line": "head -c 300000000 /dev/zero | tr '\\0' x >$conf",
    "not readable": "touch $conf; chmod 0 $conf",
    "hung": hung("/etc/sanlock"),
    "hung after it was read": hung("/etc/sanlock", "cat $conf >/dev/null"),
}


def run(prepare: str, *arguments: str, seconds: int = 20, **environ: str) -> subprocess.CompletedProcess[str]:
    """The helper after PREPARE, in namespaces of their own."""
    script = SCRIPT.format(prepare=prepare, seconds=seconds)
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script]
    return subprocess.run(
        [*command, "sh", str(HELPER), *arguments],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=40,
    )


def seconds_of(result: subprocess.CompletedProcess[str]) -> float:
    """How long the action took, as the journal has it."""
    found = re.search(r"done after ([0-9.]+) s", result.stderr)
    assert found, (result.returncode, result.stderr)
    return float(found[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("action", ["poweroff", "pause"])
def test_sanlock_conf(kind: str, action: str) -> None:
    result = run(KINDS[kind], URI, UUID, action)
    assert result.returncode == 0, result.stderr
    # Also on a machine that is loaded: what was waited for on a disk would have no end.
    assert seconds_of(result) < 5


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_a_line_is_done_for_ignore(kind: str) -> None:
    result = run(KINDS[kind], URI, UUID, "ignore")
    assert result.returncode == 0, result.stderr
    assert "sanlock sends SIGKILL at" in result.stderr


@pytest.mark.parametrize(
    "folder",
    # The first may well be another disk, and one on the network.
    ["/usr/local", "/var", "/root", "/home", "/etc/libvirt/qemu", "/etc/sasl2"],
)
def test_a_disk_that_nothing_needs(folder: str) -> None:
    if not Path(folder).is_dir():
        pytest.skip(f"no {folder}")
    if Path(folder) in HELPER.parents:
        pytest.skip(f"{HELPER} lies there")
    result = run(hung(folder), URI, UUID, "poweroff", HOME="/root")
    assert result.returncode == 0, result.stderr
    assert seconds_of(result) < 5


XML = f"""\
<node><auth><user password='x'>login</user></auth>
<domain type='test'><name>d</name><uuid>{UUID}</uuid><memory>8192</memory><os><type>hvm</type></os></domain>
</node>
"""


@pytest.mark.parametrize("kind", ["LIBVIRT_AUTH_FILE", "libvirt.conf"])
def test_what_libvirt_reads_to_connect_costs_the_try_and_not_the_agent(tmp_path: Path, kind: str) -> None:
    """libvirt itself waits for these, in the thread of the try; the agent goes on, and ends when it must."""
    (tmp_path / "host.xml").write_text(XML)
    environ: dict[str, Any] = {}
    uri, prepare = URI, "rm -f /etc/libvirt/libvirt.conf; mkfifo /etc/libvirt/libvirt.conf"
    if kind != "libvirt.conf":
        environ = {kind: "/run/fifo"}
        uri, prepare = f"test://{tmp_path}/host.xml", "mkfifo /run/fifo"
    result = run(prepare, "--budget", "3", uri, UUID, "poweroff", **environ)
    assert result.returncode == 1, result.stderr
    assert "no answer from libvirtd within 0.9 s; trying again" in result.stderr
    # On a busy machine a little late, but by less than another try takes.
    ended = re.search(r"FAILED after (\d+\.\d+) s", result.stderr)
    assert ended is not None, result.stderr
    assert 3.0 <= float(ended[1]) < 3.8

# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's daemon in force, on folders that stand for hosts."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from pathlib import Path

import pytest

from sanlock_helper.virt.libvirt_daemon import (
    LIBVIRTD,
    VIRTQEMUD,
    HostFiles,
    daemon_in_force,
    remedy,
    stale_socket,
)

pytestmark = pytest.mark.pure

QEMUD, LEGACY = "virtqemud-sock", "libvirt-sock"


def host(
    root: Path,
    listening: Iterable[str] = (),
    left: Iterable[str] = (),
    enabled: Iterable[str] = (),
    running: Iterable[str] = (),
    installed: Iterable[str] = ("libvirtd", "virtqemud"),
    masked: Iterable[str] = (),
) -> HostFiles:
    """A host with these sockets that a process LISTENs on, or LEFT alone, units, processes and programs.

    The units MASKED are so until the next boot, or for good.
    """
    files = HostFiles(root / "run", root / "etc", root / "lib", root / "proc", (root / "sbin",))
    for folder in ("run/libvirt", "etc/systemd/system/sockets.target.wants", "lib", "proc/net", "sbin"):
        (root / folder).mkdir(parents=True)
    lines = ["Num       RefCount Protocol Flags    Type St Inode Path"]
    for name in (*listening, *left):
        (root / "run/libvirt" / name).touch()
    for name in listening:
        lines.append(f"00000000: 00000002 00000000 00010000 0001 01 7 {root}/run/libvirt/{name}")
        # A connection to it has the same path, and listens on nothing.
        lines.append(f"00000000: 00000003 00000000 00000000 0001 03 8 {root}/run/libvirt/{name}")
    for name in left:
        lines.append(f"00000000: 00000003 00000000 00000000 0001 03 9 {root}/run/libvirt/{name}")
    (root / "proc/net/unix").write_text(
        "\n".join([*lines, "00000000: 00000002 00000000 00000000 0002 01 9", ""])
    )
    for unit in enabled:
        (root / f"etc/systemd/system/sockets.target.wants/{unit}").symlink_to(f"/lib/systemd/system/{unit}")
    for number, unit in enumerate(masked):
        units = root / ("etc", "run")[number % 2] / "systemd/system"
        units.mkdir(parents=True, exist_ok=True)
        (units / unit).symlink_to("/dev/null")
    for pid, name in enumerate(running, 100):
        (root / f"proc/{pid}").mkdir()
        (root / f"proc/{pid}/comm").write_text(f"{name}\n")
    for name in installed:
        (root / "sbin" / name).touch()
    return files


MODULAR = ("virtqemud.socket", "virtproxyd.socket")

CASES = {
    "Debian": ({"listening": [LEGACY], "running": ["libvirtd"], "enabled": ["libvirtd.socket"]}, LIBVIRTD),
    "Debian, not asked yet": ({"listening": [LEGACY], "enabled": ["libvirtd.socket"]}, LIBVIRTD),
    "Debian, stopped": ({"enabled": ["libvirtd.service"]}, LIBVIRTD),
    "Debian, nothing enabled": ({"installed": ["libvirtd"]}, LIBVIRTD),
    "Fedora": (
        {"listening": [QEMUD, LEGACY], "running": ["virtqemud", "virtproxyd"], "enabled": MODULAR}, VIRTQEMUD,
    ),
    "Fedora, not asked yet": ({"listening": [QEMUD, LEGACY], "enabled": MODULAR}, VIRTQEMUD),
    "Fedora, without units": ({"listening": [QEMUD, LEGACY]}, VIRTQEMUD),
    "Fedora, virtqemud alone": ({"listening": [QEMUD], "running": ["virtqemud"]}, VIRTQEMUD),
    "Fedora, only the proxy listens": ({"listening": [LEGACY], "running": ["virtproxyd"]}, VIRTQEMUD),
    "Fedora, only the proxy's socket": ({"listening": [LEGACY], "enabled": MODULAR}, VIRTQEMUD),
    "Fedora, stopped": ({"enabled": MODULAR}, VIRTQEMUD),
    "Fedora, stopped, sockets left": ({"enabled": MODULAR, "left": [QEMUD, LEGACY]}, VIRTQEMUD),
    "Fedora, nothing enabled": ({"installed": ["virtqemud", "virtproxyd"]}, VIRTQEMUD),
    "Fedora with libvirtd": (
        {"listening": [LEGACY], "running": ["libvirtd"], "enabled": ["libvirtd.socket"], "left": [QEMUD]},
        LIBVIRTD,
    ),
    "both installed, libvirtd enabled": ({"enabled": ["libvirtd.socket"]}, LIBVIRTD),
    "libvirtd answers, the proxy is enabled": (
        {"listening": [LEGACY], "running": ["libvirtd"], "enabled": ["virtproxyd.socket"]}, LIBVIRTD,
    ),
    # systemctl mask leaves the links by which a unit was enabled.
    "virtqemud masked, libvirtd stopped": (
        {"enabled": [*MODULAR, "libvirtd.service"], "masked": ["virtqemud.service", "virtqemud.socket"]},
        LIBVIRTD,
    ),
    "virtqemud masked, its socket left": (
        {"left": [QEMUD], "masked": ["virtqemud.service"], "enabled": ["virtqemud.socket"]}, LIBVIRTD,
    ),
    "virtqemud masked, nothing enabled": ({"masked": ["virtqemud.socket", "virtqemud.service"]}, LIBVIRTD),
    "virtproxyd masked, libvirtd not asked yet": (
        {"listening": [LEGACY], "masked": ["virtproxyd.service"], "enabled": ["virtproxyd.socket"]}, LIBVIRTD,
    ),
    "libvirtd masked": ({"enabled": ["libvirtd.socket"], "masked": ["libvirtd.service"]}, VIRTQEMUD),
    "a socket masked, its service enabled": (
        {"enabled": ["virtqemud.service"], "masked": ["virtqemud.socket"]}, VIRTQEMUD,
    ),
    "both masked": ({"enabled": MODULAR, "masked": ["virtqemud.service", "libvirtd.service"]}, VIRTQEMUD),
    "a socket is left, and nothing else": ({"left": [QEMUD], "installed": []}, VIRTQEMUD),
    "nothing": ({"installed": []}, LIBVIRTD),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_daemon_in_force(tmp_path: Path, case: str) -> None:
    options, daemon = CASES[case]
    files = host(tmp_path, **options)  # type: ignore[arg-type]
    assert daemon_in_force(files) == daemon
    text = remedy(files)
    other = VIRTQEMUD if daemon == LIBVIRTD else LIBVIRTD
    # To start the other one's unit would end what runs.
    assert f"start {other.name}" not in text
    assert f"-u {other.name}" not in text
    if case != "nothing":
        assert f"systemctl start {daemon.name}.socket" in text
        assert f"journalctl -u {daemon.name}" in text


def test_nothing_is_installed(tmp_path: Path) -> None:
    files = host(tmp_path, installed=[])
    assert remedy(files) == "apt install libvirt-daemon-system, or dnf install libvirt-daemon"
    files.etc.mkdir(parents=True, exist_ok=True)
    for name, command in (
        ("debian", "apt install libvirt-daemon-system"),
        ("fedora", "dnf install libvirt-daemon"),
    ):
        (files.etc / "os-release").write_text(f"ID={name}\n")
        assert remedy(files) == command


def test_a_socket_that_is_left_hides_the_other(tmp_path: Path) -> None:
    files = host(tmp_path, listening=[LEGACY], left=[QEMUD], running=["libvirtd"])
    path = f"{tmp_path}/run/libvirt/{QEMUD}"
    assert stale_socket(files) == path
    assert remedy(files).startswith(f"rm {path}; systemctl start libvirtd.socket")


def test_a_socket_that_is_listened_on_is_not_stale(tmp_path: Path) -> None:
    assert stale_socket(host(tmp_path, listening=[QEMUD], left=[LEGACY])) == ""


def test_a_real_socket(tmp_path: Path) -> None:
    """The kernel's own list has whether a process listens, and no connection is made."""
    (tmp_path / "libvirt").mkdir()
    files = HostFiles(run=tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(files.socket(VIRTQEMUD)))
        assert not files.listens(VIRTQEMUD)
        server.listen()
        server.setblocking(False)
        assert files.listens(VIRTQEMUD)
        assert daemon_in_force(files) == VIRTQEMUD
        with pytest.raises(BlockingIOError):
            server.accept()
    assert not files.listens(VIRTQEMUD)
    assert stale_socket(files) == str(files.socket(VIRTQEMUD))


@pytest.mark.parametrize("name", ["pytest", "python3", "python"])
def test_processes(tmp_path: Path, name: str) -> None:
    own = Path("/proc/self/comm").read_text().strip()
    assert HostFiles().runs(own)
    assert not HostFiles().runs(f"no-such-{name}")

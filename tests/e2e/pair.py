# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two hosts on one storage, each with a sanlock, a libvirtd and namespaces of its own, and migrations."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator

from .domains import Domain
from .leases import LOCKSPACE
from .namespace import CommandError
from .recovery import POLICY
from .stack import Stack
from .unshared import ENVIRONMENT
from .waiting import wait_for

# A boot sector that adds 1 to a byte of each of 2816 pages at each tick of its clock, so that a migration of
# 1 MiB a second has no end of its own.  It writes to 48 MiB more once: after the switch to post-copy QEMU
# sends what the guest uses without a limit (postcopy requests in QEMU migration/ram.c), and only the rest
# takes long.  It is in 16 bits, with a data segment of 4 GiB.
DIRTIES = bytes.fromhex(
    "fa 0f 01 16 52 7c"  # cli; lgdt [7c52h]
    "0f 20 c0 0c 01 0f 22 c0"  # mov eax, cr0; or al, 1; mov cr0, eax
    "bb 08 00 8e db"  # mov bx, 8; mov ds, bx
    "24 fe 0f 22 c0"  # and al, feh; mov cr0, eax
    "31 db 8e db fb"  # xor bx, bx; mov ds, bx; sti
    "66 bb 00 00 c0 00"  # mov ebx, c00000h
    "67 fe 03"  # once: inc byte [ebx]
    "66 81 c3 00 10 00 00"  # add ebx, 1000h
    "66 81 fb 00 00 c0 03"  # cmp ebx, 3c00000h
    "72 ed"  # jb once
    "66 bb 00 00 10 00"  # first: mov ebx, 100000h
    "67 fe 03"  # next: inc byte [ebx]
    "66 81 c3 00 10 00 00"  # add ebx, 1000h
    "66 81 fb 00 00 c0 00"  # cmp ebx, c00000h
    "72 ed f4 eb e4"  # jb next; hlt; jmp first
    "0f 00 58 7c 00 00"  # what lgdt loads: the limit, and where the table is
    "00 00 00 00 00 00 00 00 ff ff 00 00 00 92 cf 00"
)

MEMORY_MIB = 64

# One of a host's sectors in a lockspace (struct leader_record in sanlock src/leader.h).
SECTOR = 512
# More than sanlock's id_renewal_seconds, twice the io_timeout of 1 s.
RENEWAL_SECONDS = 3.0

# libvirtd connects QEMU to QEMU over a socket on the storage that both hosts have.
_MIGRATE_SOCKET = "/var/lib/libvirt/images/migrate.sock"


class Migration:
    """A migration under way, driven by a virsh that is connected to both hosts."""

    def __init__(self, pair: Pair, domain: Domain, options: tuple[str, ...]) -> None:
        self._pair = pair
        self.domain = domain
        words = ["migrate", "--live", "--unsafe", "--bandwidth", "1", *options, domain.uuid]
        words += [pair.target_uri, "--migrateuri", f"unix://{_MIGRATE_SOCKET}"]
        self.client = subprocess.Popen(
            [*_virsh(pair.source_uri), *words],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        wait_for(self._is_under_way, 20, "the migration")

    def _is_under_way(self) -> bool:
        assert self.client.poll() is None, self.client.communicate()
        try:
            return "Memory processed" in self._pair.source.virsh("domjobinfo", self.domain.uuid)
        except CommandError:
            return False

    def hurry(self) -> None:
        """Let it end: it may have as much bandwidth as it likes."""
        self._pair.source.virsh("migrate-setspeed", self.domain.uuid, "1000")

    def abort(self) -> None:
        """Give it up, as an administrator would."""
        self._pair.source.virsh("domjobabort", self.domain.uuid)

    def wait(self, timeout: float = 30) -> str:
        """What virsh printed, "" for a migration that was done."""
        output, _ = self.client.communicate(timeout=timeout)
        assert (self.client.returncode == 0) == (not output), output
        return output

    def close(self) -> None:
        """End the client."""
        if self.client.poll() is None:
            self.client.kill()
            self.client.communicate()


class Pair:
    """Two hosts, of which SOURCE runs the domains and TARGET is where they migrate to."""

    def __init__(self, source: Stack, target: Stack) -> None:
        self.source = source
        self.target = target
        self.source_uri, self.target_uri = _uri(source), _uri(target)
        self._sector = b""

    def domain(self, name: str, on_lockfailure: str = "pause", *, transient: bool = False) -> Domain:
        """A domain of the source whose guest writes to its memory without end; it is to be brought back."""
        domain = self.source.domain(
            name, on_lockfailure, transient=transient, metadata=POLICY, memory_mib=MEMORY_MIB
        )
        with self.source.path(domain.disks[0]).open("r+b") as disk:
            disk.write(DIRTIES.ljust(510, b"\0") + b"\x55\xaa")
        return domain

    @contextlib.contextmanager
    def migrating(self, domain: Domain, *options: str) -> Iterator[Migration]:
        """DOMAIN under a migration which does not end before hurry(); at the end it is on no host."""
        domain.start()
        wait_until_booted(self.source, domain)
        migration = Migration(self, domain, options)
        try:
            yield migration
        finally:
            migration.close()
            for host in (self.source, self.target):
                self.remove(host, domain)

    @staticmethod
    def remove(host: Stack, domain: Domain) -> None:
        """Destroy the domain on HOST and forget it there."""
        for verb in ("destroy", "undefine"):
            with contextlib.suppress(CommandError):
                host.virsh(verb, domain.uuid)

    @staticmethod
    def qemu_pids(host: Stack, domain: Domain) -> list[int]:
        """The processes on HOST that have the domain's UUID on their command line."""
        return [process.pid for process in host.processes() if domain.uuid in process.cmdline]

    def lose(self) -> None:
        """Overwrite the source's own sector of the lockspace: it alone loses its leases, at once.

        A renewal that has read the sector before writes it back (delta_lease_renew() in sanlock
        src/delta_lease.c), so it is overwritten until one renewal has come and gone.
        """
        start, zeros = (self.source.host_id - 1) * SECTOR, b"\0" * SECTOR
        with self.source.path(self.source.storage.lockspace_path).open("r+b", buffering=0) as file:
            file.seek(start)
            self._sector = file.read(SECTOR)
            end = time.monotonic() + RENEWAL_SECONDS
            while time.monotonic() < end:
                file.seek(start)
                if file.read(SECTOR) != zeros:
                    file.seek(start)
                    file.write(zeros)
                time.sleep(0.05)

    def restore(self) -> None:
        """Bring back what lose() took, and wait until the source's sanlock has left the lockspace."""
        wait_for(lambda: not self.source.lockspaces(), 20, f"the source to leave {LOCKSPACE}")
        with self.source.path(self.source.storage.lockspace_path).open("r+b") as file:
            file.seek((self.source.host_id - 1) * SECTOR)
            file.write(self._sector)


def wait_until_booted(host: Stack, domain: Domain) -> None:
    """Wait for the firmware of DOMAIN; before it is done the guest writes to nothing."""
    wait_for(lambda: _has_booted(host, domain), 20, "the guest to write")


def _has_booted(host: Stack, domain: Domain) -> bool:
    """Whether the guest runs its boot sector: a byte of its first MiB after the first changes."""

    def byte() -> str:
        command = '{"execute":"human-monitor-command","arguments":{"command-line":"xp/1xb 0x100000"}}'
        return host.virsh("qemu-monitor-command", domain.uuid, command)

    before = byte()
    time.sleep(0.15)
    return byte() != before


def _virsh(uri: str) -> list[str]:
    return ["virsh", "-q", "-c", uri]


def _uri(host: Stack) -> str:
    """How the outside connects to the host's libvirtd."""
    return f"qemu+unix:///system?socket=/proc/{host.init_pid}/root{host.libvirtd.socket}"

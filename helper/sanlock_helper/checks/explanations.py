# SPDX-License-Identifier: LGPL-2.1-or-later
"""A paragraph on each check: what it examines, why that matters, what to do.

`check --explain` prints them, and docs/checks.md is made of them by packaging/make-checks.  What stands
between backquotes is a command or a setting, and is not broken between two lines.
"""

from __future__ import annotations

from typing import NamedTuple


class Explanation(NamedTuple):
    """What a check examines, why that matters at a loss, and what to do where it does not pass."""

    examines: str
    matters: str
    todo: str

    @property
    def text(self) -> str:
        """All three as one paragraph."""
        return f"{self.examines} {self.matters} {self.todo}"


_Each = Explanation

EXPLANATIONS: dict[str, Explanation] = {
    "user": _Each(
        "The user that runs the checks.",
        "sanlock's children are root, and most of what the other checks read is for root alone: as"
        " another user they are not made at all, since a file that may not be read could be taken for one"
        " that is not there.",
        "Run `virt-sanlock-helper check` as root.",
    ),
    "program": _Each(
        "This program's own killpath executable: whether it is there and runs in sanlock's environment.",
        "What cannot be started by hand cannot be started by sanlock at a loss either.",
        "Install the package anew, and see that no file of it is missing: `virt-sanlock-helper"
        " install-check`.",
    ),
    "python": _Each(
        "Whether the killpath's interpreter imports libvirt-python and loads sanlock's client library, in"
        " the environment that sanlock gives to its children.",
        "Without libvirt-python no VM can be paused or powered off by this program, and libvirt's own"
        " helper takes over; without sanlock's library no lease can be read, so that a pause is not"
        " verified.",
        "Install the packages that the remedy names.",
    ),
    "killpath": _Each(
        "The file that the running sanlock sees at libvirt's path of the helper, by its own mounts.",
        "sanlock runs that file, once for each VM, when the leases are lost. It may be another one than"
        " on the host itself: the drop-in binds ours over libvirt's for sanlock.service alone, from"
        " sanlock's next start on.",
        "Restart sanlock with no VM running, reboot, or replace the file at once with"
        " `virt-sanlock-helper activate`.",
    ),
    "next start": _Each(
        "Which helper sanlock will run after it has been started again: by a link at libvirt's path, or"
        " by the drop-in of sanlock.service.",
        "A host that is ready now may have libvirt's own helper again after a reboot.",
        "Have systemd read the drop-in with `systemctl daemon-reload`, or install the package anew.",
    ),
    "memory": _Each(
        "The limits of memory, files and processes that the running sanlock has: its children inherit them.",
        "For each VM a process is started within the same second; where memory does not suffice for"
        " Python, libvirt's own helper takes over.",
        "Raise the limit that is named in the unit, with `systemctl edit sanlock`, and restart sanlock"
        " with no VM running.",
    ),
    "selinux": _Each(
        "The SELinux type of the killpath.",
        "The targeted policy lets sanlock_t execute no file of type bin_t, and sanlock logs nothing about"
        " that: on an enforcing host no helper at all would run.",
        "Install the policy module of this program, and label its files with `restorecon`.",
    ),
    "selinux booleans": _Each(
        "The booleans that let libvirt use sanlock, and sanlock the filesystem of the lease directory.",
        "With one of them off no lease can be acquired, or none be renewed.",
        "Set them with `setsebool -P`, as the remedy has it.",
    ),
    "runtime directory": _Each(
        "The directory of this program below /run: it is on tmpfs, root's, and no other user may write to"
        " it.",
        "Each killpath process writes its request there. On a disk that would be lost with the storage,"
        " and a request is an order to power a VM off.",
        "Have it made by `systemd-tmpfiles --create virt-sanlock-helper.conf`, and set owner and mode as"
        " the remedy has it.",
    ),
    "arguments": _Each(
        "The length of the killpath and of the arguments that libvirt registers for each domain.",
        "sanlock takes 127 bytes of each. libvirt starts no domain whose arguments are longer.",
        "Use a shorter connection URI, or a shorter path.",
    ),
    "libvirtd": _Each(
        "Whether libvirt's daemon (libvirtd, or virtqemud where the daemons are modular) answers on its"
        " socket, and how long that takes.",
        "Every action goes through it, within kill_grace_seconds for all VMs of the host.",
        "Start the socket that the remedy names, and read the daemon's journal: `journalctl -u libvirtd`.",
    ),
    "authentication": _Each(
        "What libvirt's daemon asks for on its read-write socket, and whether it accepts the credentials"
        " that are in force for sanlock's children.",
        "A login that works in an administrator's shell may fail for the helper, whose environment has"
        " another auth.conf in force, or none.",
        "See how the credentials are found with `virt-sanlock-helper auth check`.",
    ),
    "libvirtd limits": _Each(
        "The limits of libvirt's daemon (max_clients, max_workers and the like) against the number of"
        " running domains.",
        "All VMs of a host lose their leases in the same second; with too few workers or clients some are"
        " served when the grace is over.",
        "Raise what the remedy names in the daemon's file, and restart it.",
    ),
    "auth.conf file": _Each(
        "Which of the files with credentials is in force for sanlock's children, and which it hides.",
        "libvirt takes the first one that it can read, and merges nothing: a file in root's home hides"
        " the one in /etc/libvirt.",
        "Keep one of them.",
    ),
    "auth.conf groups": _Each(
        "The syntax of the file in force, the group that applies to the connection, and its fields.",
        "A group that refers to credentials which are not there is a hard error, and a missing field is"
        " asked of a terminal that the helper does not have.",
        "Add what the remedy names; `virt-sanlock-helper auth check` has each step.",
    ),
    "auth.conf mode": _Each(
        "Owner and permissions of the file in force.",
        "It holds a password that lets its reader power off every VM of the host.",
        "Make it readable for root alone, and set another password where other users could read it.",
    ),
    "lock driver": _Each(
        "Whether libvirt's sanlock driver, lock-driver/sanlock.so, is installed, and for this machine.",
        'With `lock_manager = "sanlock"` libvirt\'s daemon does not start without it.',
        "Install the package that the remedy names.",
    ),
    "lock_manager": _Each(
        'The setting `lock_manager` of qemu.conf: "sanlock".',
        "Without it libvirt takes no lease for any disk, so that two hosts may write to it, and sanlock"
        " has nothing to protect.",
        "Set it, and restart libvirt's daemon with no VM running.",
    ),
    "host_id": _Each(
        "The `host_id` of qemu-sanlock.conf, and the one with which the lockspace is joined.",
        "It is this host's place in the lockspace, another one on each host. A new value counts when the"
        " lockspace is joined the next time.",
        "Give each host a number of its own, and restart sanlock and libvirt's daemon with no VM running.",
    ),
    "io_timeout": _Each(
        "The `io_timeout` of qemu-sanlock.conf, and the one with which the lockspace is joined.",
        "All times of a loss follow from it, and the hosts of a lockspace must agree on them.",
        "Set the same value on every host, and restart sanlock and libvirt's daemon with no VM running.",
    ),
    "disk lease owner": _Each(
        "Whether `check_disk_lease_owner` is set, and known to this libvirt.",
        "With it libvirt ties a disk's lease to one domain's UUID. An older libvirt reads over the"
        " setting, and checks no owner.",
        "Update libvirt, or remove the setting.",
    ),
    "configuration files": _Each(
        "Whether libvirt can read qemu.conf, the daemon's file and qemu-sanlock.conf, and whether a"
        " setting comes twice in one of them or in sanlock.conf.",
        "A file with an error in one line, or a value of a wrong type, is not taken at all. Of two settings"
        " libvirt takes the first, sanlock the last.",
        "Correct the line that is named, or remove the one that does not count.",
    ),
    "sanlock": _Each(
        "Whether the sanlock daemon answers.",
        "Without it no VM with a lease starts, and none is protected. What is not checked for want of it"
        " is listed at the end.",
        "Start it with `systemctl start sanlock`, and enable it.",
    ),
    "kill_grace_seconds": _Each(
        "The time between the loss of the leases and SIGKILL, as the running daemon has it.",
        "It is all the time that the helper has. With 0 sanlock kills at once, and never runs the helper.",
        "Set 40, sanlock's default, and restart sanlock with no VM running.",
    ),
    "watchdog": _Each(
        "Whether sanlock uses the watchdog and wdmd runs, or was deliberately started without it.",
        "A process that cannot be killed, as one that waits for a disk, goes on writing once the disk is"
        " back; only a reset of the host ends it.",
        "Enable it with `systemctl enable --now wdmd`, or start sanlock without it in the way that this"
        " version of sanlock reads.",
    ),
    "watchdog_fire_timeout": _Each(
        "The time after which the watchdog resets the host, in sanlock 3.9 and newer a setting.",
        "Other hosts count on it before they take a lease; below 60 s sanlock shortens its grace unless"
        " that is set.",
        "Set 60, the default, the same on every host.",
    ),
    "clock": _Each(
        "The order of events after the last good renewal: warning, loss, SIGKILL, reset, another host.",
        "Where another host may take the leases before SIGKILL, two hosts write to one disk.",
        "Lower kill_grace_seconds, or raise watchdog_fire_timeout on every host.",
    ),
    "lockspace": _Each(
        "Whether libvirt's lockspace is joined and is being renewed; with explicit leases, any lockspace.",
        "Without it no VM with a lease starts or resumes. After an outage sanlock has left it, and"
        " libvirt's daemon joins it only when it starts.",
        "Join it with `virt-sanlock-helper recover`, or restart libvirt's daemon.",
    ),
    "lockspace format": _Each(
        "The format of the lockspace on storage against the version of this host's sanlock.",
        "sanlock 5 makes lockspaces that older versions cannot join: one host that is updated first locks"
        " the others out.",
        "Run one version of sanlock on all hosts.",
    ),
    "host_id unique": _Each(
        "Whether another live host has this host's host_id in the lockspace.",
        "sanlock waits for as long as it does, and libvirt's daemon with it.",
        "Give one of the two another host_id.",
    ),
    "sanlock options": _Each(
        "Whether options in /etc/default/sanlock or /etc/sysconfig/sanlock reach sanlock: its unit reads"
        " one of these files, or none, by distribution.",
        "An option that is not read is not in force, as -w 0 for a host without a watchdog: sanlock then"
        " joins no lockspace.",
        "Write it where the unit reads it, as the remedy does, and restart sanlock with no VM running.",
    ),
    "services": _Each(
        "Whether sanlock, wdmd where sanlock uses it, and libvirt's daemon are started at boot, by"
        " themselves or by another unit that is.",
        "After a reset, which may be the watchdog's, no VM with a lease starts until they run.",
        "Enable them with `systemctl enable`; a masked one has to be unmasked first.",
    ),
    "lockspace file": _Each(
        "Whether the file of each joined lockspace is the one that sanlock has open.",
        "sanlock goes on to renew a file that was deleted or replaced, and reports it as healthy; other"
        " hosts make or read the one at the path, and take the same leases.",
        "Shut the VMs down, leave the lockspace and join it again, as the remedy does.",
    ),
    "lease directory": _Each(
        "Where the directory of the automatic disk leases is mounted from.",
        "On a filesystem that no other host mounts, the leases protect against no other host.",
        "Mount a filesystem that all hosts share there: NFS, GFS2, OCFS2, CephFS.",
    ),
    "lease path": _Each(
        "Whether the path of the lease directory is absolute, and has no blank.",
        "libvirt cannot release a lease in a directory with a blank: a paused VM keeps its leases, and"
        " sanlock kills it. One that is not absolute is another directory for each process.",
        "Use another directory: `disk_lease_dir` in /etc/libvirt/qemu-sanlock.conf.",
    ),
    "lease room": _Each(
        "The free space in the lease directory against the disks that have no lease yet.",
        "Each lease takes 1 MiB, or more with larger sectors. Without room no further VM starts.",
        "Enlarge the filesystem, or remove leases of disks that are gone: `virt-sanlock-cleanup`.",
    ),
    "lease owner": _Each(
        "Owner and mode of the lease directory and of the lockspace in it, against the user that the"
        " sanlock daemon runs as.",
        "libvirt makes these files as root, while sanlock may run as user sanlock: it can then not renew"
        " its lease.",
        "Set `user` and `group` in /etc/libvirt/qemu-sanlock.conf, and restart libvirt's daemon.",
    ),
    "root_squash": _Each(
        "With user or group set and the lease directory on a network filesystem: whether the server lets"
        " root change owners.",
        "With root_squash libvirt cannot give a new lease to sanlock, and removes it again.",
        "Export the directory with no_root_squash.",
    ),
    "lease mount": _Each(
        "Whether the filesystem of the leases is mounted at boot: by fstab, a mount unit, autofs or a"
        " cluster.",
        "Otherwise libvirt makes its leases in the empty directory below, after the next boot, where no"
        " other host finds them.",
        "Add it to /etc/fstab.",
    ),
    "leases": _Each(
        "For each disk of a running domain, and for each lease of its XML, whether it is there and held.",
        "A VM that runs without its leases is protected by nothing, and the helper is not run for it.",
        "Power the domain off and start it again.",
    ),
    "disk paths": _Each(
        "Whether block devices are named by paths that mean the same disk on every host.",
        "libvirt names a lease by the path of the disk: with /dev/sdb two hosts may hold two leases for"
        " one disk, or one for two.",
        "Name the disks by /dev/disk/by-id or by-path, or by a volume's name.",
    ),
    "on_lockfailure": _Each(
        "The `on_lockfailure` of each domain that takes a lease: poweroff or pause.",
        "A domain with restart or ignore does not start under sanlock; without any, sanlock sends"
        " SIGTERM at a loss, and runs no helper.",
        "Change the domain as the remedy does; for restart, together with a policy for recovery.",
    ),
    "disks without a lease": _Each(
        "Where auto_disk_leases is off: whether each domain that writes to a disk has a <lease>.",
        "Such a domain does not start, or with `require_lease_for_disks = 0` runs on two hosts at once.",
        "Switch automatic leases on, or give it a <lease>.",
    ),
    "storage pools": _Each(
        "The target of each pool of block devices: /dev/disk/by-path or the like.",
        "With /dev the volumes are /dev/sda and so on, another disk on each host and after each boot,"
        " and the leases are named after these.",
        "Change the target as the remedy does, and start the pool again with no VM that uses it.",
    ),
    "recovery settings": _Each(
        "The host's settings for recovery, /etc/virt-sanlock-helper.conf: whether all of it counts.",
        "What is wrong in it counts as not given. Where it may have asked for recovery, VMs without a policy"
        " of their own stay as they are until it is corrected.",
        "Correct the lines that are named; the keys are in the manual page virt-sanlock-helper(8).",
    ),
    "recovery hold": _Each(
        "Whether an administrator has held recovery for maintenance.",
        "While it is held, no VM that loses its leases is brought back, after a reset of the host neither.",
        "After the maintenance: `virt-sanlock-helper recover --release`.",
    ),
    "multipath": _Each(
        "How long multipath queues I/O when no path is left.",
        "What is queued for longer than the loss of the lease takes may be written when another host has"
        " the disk.",
        "Set no_path_retry in /etc/multipath.conf to the number that the remedy has.",
    ),
    "recovery units": _Each(
        "Whether systemd starts recovery when a record appears, and at boot.",
        "Without these units no VM comes back by itself once the storage does.",
        "Enable them, as the remedy has it, or run `virt-sanlock-helper recover` by hand.",
    ),
    "agent": _Each(
        "Whether an agent stands: in memory, with its connections to libvirtd open, before leases are lost.",
        "Without it the first process of an outage becomes the agent, and starts from a disk that may be"
        " gone in that minute. One that is stopped serves nothing, and is replaced after three seconds.",
        "The packages enable it. Where it was disabled since, `systemctl enable --now"
        " virt-sanlock-helper-agent.service` has one stand.",
    ),
    "virt-sanlock-cleanup": _Each(
        "Whether one of the schedules of this host runs virt-sanlock-cleanup.",
        "It removes the leases of disks that are gone; without it the lease directory fills up. One host"
        " of the lockspace is enough.",
        "Schedule it once a week on one of the hosts.",
    ),
}

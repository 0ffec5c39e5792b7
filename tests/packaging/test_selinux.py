# SPDX-License-Identifier: LGPL-2.1-or-later
"""The policy module in the whole policy of the distribution: what the helper may do, and that it is all.

Debian has the reference policy's interfaces, Fedora its own; the names that differ are chosen in the module.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.preconditions import need

from .packages import ROOT
from .policy import Policy, Rule, added, compile_module, link, missing

HELPER = "virt_sanlock_helper_t"
EXECUTABLE = "virt_sanlock_helper_exec_t"
RUNTIME = "virt_sanlock_helper_var_run_t"
SANLOCK = "sanlock_t"
SYSTEMD = "init_t"

FC = "packaging/selinux/virt_sanlock_helper.fc"

READ = {"open", "read", "getattr"}
CONNECT = {"connectto"}
WRITE = {"append", "create", "link", "rename", "setattr", "unlink", "write", "relabelto", "relabelfrom"}

# What the helper does, and what that takes.
NEEDS: dict[str, list[tuple[str, str, set[str]]]] = {
    "take sanlock's group": [(HELPER, "capability", {"setgid"})],
    "go before others": [(HELPER, "capability", {"sys_nice"}), (HELPER, "process", {"setsched"})],
    "end an agent that hangs": [
        (HELPER, "process", {"sigkill"}),
        # Which pid namespace its id counts in: stat(2) of /proc/self/ns/pid.
        (HELPER, "lnk_file", {"read"}),
        ("nsfs_t", "file", {"getattr"}),
    ],
    "distinguish a QEMU from a later one": [
        ("svirt_t", "file", READ),
        ("svirt_t", "dir", {"search"}),
        ("sysctl_kernel_t", "file", READ),
    ],
    "run Python": [
        (EXECUTABLE, "file", {"entrypoint", "read", "open", "execute", "map"}),
        ("bin_t", "file", {"read", "open", "execute", "map"}),
        ("bin_t", "lnk_file", {"read"}),
        ("lib_t", "file", {*READ, "execute", "map"}),
        ("usr_t", "file", READ),
    ],
    "become libvirt's helper": [
        (EXECUTABLE, "file", {"execute", "execute_no_trans"}),
        ("init_t", "lnk_file", {"read"}),
        ("init_t", "dir", {"search"}),
        ("init_t", "file", {"read"}),
    ],
    "keep requests and records": [
        (RUNTIME, "dir", {"add_name", "remove_name", "read", "search", "write"}),
        (RUNTIME, "file", {*READ, "create", "lock", "rename", "unlink", "write"}),
    ],
    "speak to libvirtd": [
        ("virtd_t", "unix_stream_socket", CONNECT),
        ("virt_runtime_t", "sock_file", {"write"}),
        (HELPER, "unix_stream_socket", {"create", "connect", "read", "write"}),
        ("virt_etc_t", "file", READ),
    ],
    "speak to sanlock": [
        (SANLOCK, "unix_stream_socket", CONNECT),
        ("sanlock_runtime_t", "sock_file", {"write"}),
        ("sanlock_runtime_t", "file", READ),
        (SANLOCK, "file", READ),
    ],
    "write to syslog and to journald": [
        ("devlog_t", "sock_file", {"write"}),
        ("syslogd_runtime_t", "dir", {"search"}),
        ("syslogd_t", "unix_dgram_socket", {"sendto"}),
        (HELPER, "unix_dgram_socket", {"create", "connect", "write"}),
    ],
    "read the time zone and /etc/passwd": [("locale_t", "file", READ), ("etc_t", "file", READ)],
    "wake its threads": [(HELPER, "fifo_file", {"read", "write"})],
    "stand, begun by systemd": [
        ("bin_t", "file", {"entrypoint"}),
        (SYSTEMD, "fd", {"use"}),
        (SYSTEMD, "process", {"sigchld"}),
        (RUNTIME, "dir", {"watch"}),
    ],
    "ask the executable what it opens": [(EXECUTABLE, "file", {"execute", "execute_no_trans"})],
    "keep files in memory": [
        (name, "file", {*READ, "map"})
        for name in (EXECUTABLE, "bin_t", "lib_t", "usr_t", "etc_t", "locale_t", "net_conf_t", "virt_etc_t")
    ],
    "notice that they change": [
        (name, "dir", {"read", "watch"})
        for name in ("root_t", "bin_t", "lib_t", "usr_t", "etc_t", "locale_t", "virt_etc_t")
    ],
}  # fmt: skip

# Names of types that Fedora has others for.
FEDORA = {
    "virt_runtime_t": "virt_var_run_t",
    "sanlock_runtime_t": "sanlock_var_run_t",
    "syslogd_runtime_t": "syslogd_var_run_t",
}


class Compiled(NamedTuple):
    """The module, and what it makes of the whole policy."""

    module: Path
    policy: Policy
    helper: set[Rule]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    need(missing(), "the policy module cannot be compiled and queried")
    folder = tmp_path_factory.mktemp("selinux")
    module = compile_module(folder)
    policy = Policy(link(folder, module))
    return Compiled(module, policy, policy.granted(HELPER))


@pytest.mark.parametrize("what", NEEDS)
def test_the_helper_may(compiled: Compiled, what: str) -> None:
    types = {rule.target for rule in compiled.helper}
    for name, tclass, permissions in NEEDS[what]:
        target = name if name in types else FEDORA.get(name, name)
        wanted = {Rule(HELPER, target, tclass, permission) for permission in permissions}
        assert wanted - compiled.helper == set()


# Libvirt's modular daemons as Fedora's policy names them; Debian's has none of them.
MODULAR = {"virtqemud_t": "virtqemud_var_run_t", "virtproxyd_t": "virtproxyd_var_run_t"}


@pytest.fixture(scope="module")
def on_fedora(compiled: Compiled, tmp_path_factory: pytest.TempPathFactory) -> set[Rule]:
    """What the helper may where the policy has these daemons, and the module's interfaces knew of none."""
    folder = tmp_path_factory.mktemp("fedora")
    return Policy(link(folder, compiled.module, (*MODULAR, *MODULAR.values()))).granted(HELPER)


@pytest.mark.parametrize("daemon", MODULAR)
def test_the_helper_reaches_the_modular_daemons(on_fedora: set[Rule], daemon: str) -> None:
    socket = MODULAR[daemon]
    wanted = {
        Rule(HELPER, daemon, "unix_stream_socket", "connectto"),
        Rule(HELPER, socket, "sock_file", "write"),
    }
    wanted |= {Rule(HELPER, socket, "file", permission) for permission in READ}
    wanted |= {Rule(HELPER, socket, "dir", permission) for permission in ("search", "getattr")}
    assert wanted - on_fedora == set()


def test_the_modular_daemons_are_reached_and_no_more(on_fedora: set[Rule]) -> None:
    targets = {*MODULAR, *MODULAR.values()}
    granted = {rule.permission for rule in on_fedora if rule.target in targets}
    assert granted & {*WRITE, "add_name", "remove_name", "execute", "sigkill", "ptrace"} == {
        "write",
        "append",
    }
    written = {rule for rule in on_fedora if rule.target in targets and rule.permission == "write"}
    assert {rule.tclass for rule in written} == {"sock_file"}


def test_sanlock_gets_in_and_nothing_else(compiled: Compiled) -> None:
    assert (EXECUTABLE, "process", HELPER) in compiled.policy.transitions(SANLOCK)
    # The kernel opens a script's interpreter as the caller; without execute_no_trans sanlock can run none.
    interpreter = {"execute", "getattr", "ioctl", "map", "open", "read"}
    grants = added(compiled.module, SANLOCK)
    assert grants.pop(("bin_t", "file")) == interpreter
    assert grants.pop((HELPER, "process")) == {"transition"}
    assert "execute_no_trans" not in grants[EXECUTABLE, "file"]
    assert set(grants) <= {
        ("bin_t", "dir"),
        ("bin_t", "lnk_file"),
        ("usr_t", "dir"),
        (EXECUTABLE, "file"),
        (HELPER, "fd"),
        (HELPER, "fifo_file"),
        (HELPER, "process"),
    }
    running = {rule for rule in compiled.policy.granted(SANLOCK) if rule.permission == "execute_no_trans"}
    assert {rule.target for rule in running} & {"bin_t", "shell_exec_t", EXECUTABLE} == set()


UNIT = (ROOT / "packaging/virt-sanlock-helper-agent.service").read_text().splitlines()


def setting(name: str) -> str:
    """The value of a setting of the agent's unit."""
    (line,) = (line for line in UNIT if line.startswith(f"{name}="))
    return line.partition("=")[2]


def test_systemd_begins_the_agent_in_the_helpers_domain(compiled: Compiled) -> None:
    assert setting("SELinuxContext") == f"-system_u:system_r:{HELPER}:s0"
    systemd = compiled.policy.granted(SYSTEMD)
    # NoNewPrivileges= and LimitMEMLOCK= of the unit ask for the last two.
    wanted = {
        *[
            Rule(SYSTEMD, HELPER, "process", name)
            for name in ("transition", "signal", "sigkill", "rlimitinh")
        ],
        Rule(SYSTEMD, HELPER, "process2", "nnp_transition"),
        Rule(SYSTEMD, SYSTEMD, "process", "setexec"),
        Rule(SYSTEMD, "bin_t", "file", "execute"),
    }
    assert wanted - systemd == set()
    # Recovery is the same executable, and stays where other services are.
    assert ("bin_t", "process", HELPER) not in compiled.policy.transitions(SYSTEMD)
    program = setting("ExecStart").split()[0]
    contexts = [line.split("\t")[0] for line in (ROOT / FC).read_text().splitlines() if line.startswith("/")]
    assert not [context for context in contexts if re.fullmatch(context, program)]


def test_none_but_sanlock_and_systemd_enters_the_domain(compiled: Compiled) -> None:
    assert compiled.policy.entering(HELPER) == {SANLOCK, SYSTEMD}
    # sanlock_t may map what is of bin_t, which is an entry now; but it cannot ask for this domain there.
    assert "setexec" not in {rule.permission for rule in compiled.policy.granted(SANLOCK)}
    assert ("bin_t", "process", HELPER) not in compiled.policy.transitions(SANLOCK)


def test_memory_is_locked_without_a_capability(compiled: Compiled) -> None:
    """Where the limit is none, mlock(2) asks for no CAP_IPC_LOCK."""
    assert setting("LimitMEMLOCK") == "infinity"
    assert not {rule for rule in compiled.helper if rule.permission == "ipc_lock"}


def test_no_capability_but_these_two(compiled: Compiled) -> None:
    capabilities = {
        rule.permission for rule in compiled.helper if rule.tclass.startswith(("capability", "cap_userns"))
    }
    assert capabilities == {"setgid", "sys_nice"}


def test_it_writes_its_runtime_directory_only(compiled: Compiled) -> None:
    written = {
        rule.target
        for rule in compiled.helper
        if rule.tclass in ("file", "lnk_file", "fifo_file", "blk_file") and rule.permission in WRITE
    }
    # Itself: its own entries under /proc.  sanlock's pipes are inherited.
    assert written - {RUNTIME, HELPER, SANLOCK} == set()
    folders = {
        rule.target
        for rule in compiled.helper
        if rule.tclass == "dir" and rule.permission in {"add_name", "remove_name", *WRITE}
    }
    assert folders <= {RUNTIME, "var_run_t", HELPER}
    for name in ("etc_t", "virt_etc_t", "virt_etc_rw_t", "passwd_file_t"):
        assert not {r for r in compiled.helper if r.target == name and r.permission in {*WRITE, "add_name"}}


def test_it_runs_nothing_but_the_two_helpers(compiled: Compiled) -> None:
    run = {rule.target for rule in compiled.helper if rule.permission == "execute_no_trans"}
    # Every domain may run the dynamic linker and libraries; see libs_use_ld_so().
    assert run - {EXECUTABLE, "ld_so_t", "lib_t", "textrel_shlib_t"} == set()
    executable = {
        rule.target for rule in compiled.helper if (rule.tclass, rule.permission) == ("file", "execute")
    }
    assert not {name for name in executable if name.startswith("shell") or name == "sanlock_exec_t"}
    assert not {rule for rule in compiled.helper if rule.permission in ("transition", "dyntransition")}


def test_no_network_no_disk_no_kill(compiled: Compiled) -> None:
    forbidden = {
        "name_connect",
        "name_bind",
        "ptrace",
        "execmem",
        "execstack",
        "execheap",
        "module_load",
    }
    assert {rule for rule in compiled.helper if rule.permission in forbidden} == set()
    assert {
        rule for rule in compiled.helper if rule.tclass == "blk_file" and rule.permission in READ
    } == set()
    sockets = {"tcp_socket", "udp_socket", "rawip_socket", "packet_socket", "netlink_route_socket"}
    assert {
        rule for rule in compiled.helper if rule.tclass in sockets and rule.permission == "create"
    } == set()


def test_it_ends_its_own_kind_only(compiled: Compiled) -> None:
    signals = {"sigkill", "signal", "sigstop"}
    assert {(rule.target, rule.permission) for rule in compiled.helper if rule.permission in signals} == {
        (HELPER, "sigkill")
    }


def test_it_serves_on_no_socket(compiled: Compiled) -> None:
    """It connects; none connects to it.  By this module's rules: Debian's own let every domain serve."""
    own = added(compiled.module, HELPER)
    assert not own[HELPER, "unix_stream_socket"] & {"listen", "accept"}


def test_processes_are_read_and_nothing_else_is_done_to_them(compiled: Compiled) -> None:
    own = added(compiled.module, HELPER)
    for target in ("virt_domain", SANLOCK):
        assert own.get((target, "process"), set()) <= {"sigchld"}, target
        assert not own.get((target, "file"), set()) & {*WRITE, "ioctl", "lock"}
        # Nor what its files and its working directory are.
        assert (target, "lnk_file") not in own


def test_the_files_get_their_labels() -> None:
    contexts = (ROOT / FC).read_text()
    lines = [line.split("\t") for line in contexts.splitlines() if line.startswith("/")]

    def label(path: str) -> str:
        (match,) = (line for line in lines if re.fullmatch(line[0], path))
        found = re.search(r"object_r:(\w+),", match[-1])
        assert found
        return found[1]

    for path in (
        "/usr/libexec/virt-sanlock-helper/libvirt_sanlock_helper",
        "/usr/libexec/libvirt_sanlock_helper",
        "/usr/libexec/libvirt_sanlock_helper.distrib",
        "/usr/lib/libvirt/libvirt_sanlock_helper",
    ):
        assert label(path) == EXECUTABLE
    assert label("/run/virt-sanlock-helper") == label("/run/virt-sanlock-helper/spool/a") == RUNTIME

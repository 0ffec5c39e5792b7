# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whatever a lease is called, and wherever it is: it is seen to be held, and it can be given up."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from typing import Any

import pytest

from .binding import HELPER, OURS, SELF, THEIRS, Call, Holder, answers, call
from .conftest import StackFactory
from .preconditions import need_fire_timeout, need_module, require_machine
from .stack import Stack
from .waiting import wait_for

SPACE = b"__LIBVIRT__DISKS__"

NAMES = [
    b"plain",
    b"pool:vm",
    b":leading",
    b"trailing:",
    b":",
    b"a:b:c:d:e:f",
    b"x" * 47,
    b"x" * 48,
    b":" * 48,
    b"pool:" + b"y" * 43,
    b"a blank",
    b" ",
    b" 1 2 ",
    b'it\'s "quoted"',
    b"back\\slash",
    b"back\\",
    b"\\:",
    b"\xff\xfe\x80",
    "\u0438\u043c\u044f".encode(),
    b"12345",
    b"0",
    b"SH",
    b"1:SH",
    b"/dev/sda",
    b"x:/p:5",
    b"x:/p:5:/q:6:7",
    b"x:1 p 1",
    b"line\nr __LIBVIRT__DISKS__:x:/x:0:1 p 1",
    b"\x1b[31m\x85",
]

PATHS = [
    "/run/odd/plain",
    "/run/odd/a blank",
    "/run/odd/ two  blanks ",
    "/run/odd/co:lon",
    "/run/odd/1:2:3",
    "/run/odd/back\\slash",
    "/run/odd/both\\:",
    "/run/odd/both\\ x",
    "/run/odd/end\\",
    "/run/odd/\u00fcml\u00e4ut",
    "/run/odd/bytes\udcff",
    "/run/odd/line\nbreak",
    "/run/odd/" + "d" * 200 + "/" + "e" * 200,
]

Disks = list[tuple[str, int]]


@pytest.fixture(scope="module")
def odd() -> Iterator[Stack]:
    """A stack; the tests of this module leave no lease behind."""
    require_machine()
    with Stack() as stack:
        yield stack


def take(lockspace: bytes, resource: bytes, disks: Disks, **keywords: Any) -> tuple[Call, Call]:
    """Make a lease and take it."""
    return (
        call("write_resource", lockspace, resource, disks),
        call("acquire", lockspace, resource, disks, slkfd=SELF, **keywords),
    )


def make_files(stack: Stack, disks: Disks) -> None:
    for path, _ in disks:
        stack.run("mkdir", "-p", os.path.dirname(path))
        stack.run("touch", path)


def ours(stack: Stack, code: str) -> Any:
    """What an expression gives inside; `leases` is the module."""
    program = (
        f"import sys; sys.path.insert(0, {str(HELPER)!r})\nfrom sanlock_helper.leases import held as leases\n"
    )
    show = (
        "def show(held):\n"
        "    return [(leases.raw(x.lockspace), leases.raw(x.resource), x.version, x.path, x.offset, x.shared)"
        " for x in held]\n"
    )
    result = stack.run("/usr/bin/python3", "-B", "-c", f"{program}{show}print(ascii({code}))")
    return ast.literal_eval(result.stdout)


def owners(stack: Stack, lockspace: bytes, resource: bytes, disks: Disks) -> list[int]:
    (found,) = answers(stack, OURS, call("read_resource_owners", lockspace, resource, disks))
    return [host["host_id"] for host in found]


def check(stack: Stack, lockspace: bytes, resource: bytes, disks: Disks) -> None:
    """A lease is seen as it is, and given up."""
    make_files(stack, disks)
    with Holder(stack, *take(lockspace, resource, disks)) as holder:
        assert holder.answers[1:] == [None, None]
        held = ours(stack, f"show(leases.held_by({holder.pid}))")
        assert held == [(lockspace, resource, 1, *disks[0], False)]
        (found,) = answers(stack, OURS, call("inquire", pid=holder.pid))
        assert found == [
            {"lockspace": lockspace, "resource": resource, "flags": 1, "version": 1, "disks": disks}
        ]
        assert owners(stack, lockspace, resource, disks) == [1]
        assert ours(stack, f"[leases.release({holder.pid}), leases.held_by({holder.pid})]") == [None, []]
        assert owners(stack, lockspace, resource, disks) == []


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_any_name(odd: Stack, name: bytes) -> None:
    check(odd, SPACE, name, [("/run/odd/lease", 0)])


@pytest.mark.parametrize("path", PATHS, ids=ascii)
def test_any_path(odd: Stack, path: str) -> None:
    check(odd, SPACE, b"lease", [(path, 1 << 20)])


@pytest.mark.parametrize("number", [2, 3, 4])
def test_several_disks(odd: Stack, number: int) -> None:
    resource, disks = b"po:ol", [(f"/run/odd/disk {n}", n << 20) for n in range(number)]
    if takes_disks(odd, number):
        check(odd, SPACE, resource, disks)
        return
    make_files(odd, disks)
    with Holder(odd, *take(SPACE, resource, disks)) as holder:
        assert holder.answers[1:] == [None, ("error", 1)]
        assert ours(odd, f"[leases.held_by({holder.pid}), leases.release({holder.pid})]") == [[], None]


def takes_disks(stack: Stack, number: int) -> bool:
    """Whether sanlock's own program gets a lease of NUMBER disks: 5.1.1 refuses with -1, 3.9.5 does not."""
    paths = [f"/run/odd/several{number}{letter}" for letter in "abcd"[:number]]
    make_files(stack, [(path, 0) for path in paths])
    resource = ":".join([SPACE.decode(), f"several{number}", *(f"{path}:0" for path in paths)])
    stack.run("sanlock", "direct", "init", "-r", resource)
    command = ("sanlock", "client", "command", "-r", resource, "-c", "/bin/true")
    taken = stack.run(*command, check=False, env=stack.sanlock.environment())
    assert taken.returncode == 0 or "acquire done -1" in taken.stdout + taken.stderr, taken
    return taken.returncode == 0


def test_any_lockspace(odd: Stack) -> None:
    names = [b"sp:ace", b"L" * 48, b":", b"a blank \xff\\"]
    disks = [(f"/run/odd/space{number}", 0) for number in range(len(names))]
    make_files(odd, disks)
    joins = []
    for name, (path, _) in zip(names, disks):
        joins += [
            call("write_lockspace", name, path, 0, 0, 1),
            call("add_lockspace", name, 1, path, 0, 1, wait=False),
        ]
    assert answers(odd, OURS, *joins) == [None] * len(joins)

    def joined() -> dict[bytes, Any]:
        (spaces,) = answers(odd, OURS, call("get_lockspaces"))
        return {space["lockspace"]: space["path"] for space in spaces if space["flags"] == 0}

    def live(name: bytes) -> bool:
        (found,) = answers(odd, OURS, call("get_hosts", name, 1))
        return isinstance(found, list) and [host["host_id"] for host in found] == [1]

    # None of these is joined before it is, whatever it is called.
    wait_for(lambda: len(joined()) == 1 + len(names), 30, "the lockspaces")
    for name, (path, _) in zip(names, disks):
        assert joined()[name] == path
        check(odd, name, b"pool:vm", [("/run/odd/other", 0)])
        # sanlock has read its own timestamp, and can report that the host lives.
        wait_for(lambda name=name: live(name), 20, f"host 1 of {name!r}")  # type: ignore[misc]
        with Holder(odd, *take(name, b"x:y", [("/run/odd/other", 0)])) as holder:
            spaces, held = ours(
                odd,
                "(lambda found: ([(leases.raw(s.name), s.host_id, s.path, s.io_timeout) for s in found[0]],"
                f" show(found[1])))(leases.CachedLeases().of({holder.pid}))",
            )
        assert spaces == [(name, 1, path, 1)]
        assert held == [(name, b"x:y", 1, "/run/odd/other", 0, False)]
    leaves = [call("rem_lockspace", name, 1, path) for name, (path, _) in zip(names, disks)]
    assert answers(odd, OURS, *leaves) == [None] * len(leaves)


def test_more_leases_than_one_release_takes(odd: Stack) -> None:
    """cmd_release() of sanlock has room for 8, and the daemon dies of SANLK_REL_ALL with so many."""
    resources = [b"many:%d" % number for number in range(64)]
    places = [[(f"/run/odd/many {number}", 0)] for number in range(64)]
    calls: list[Call] = []
    make_files(odd, [("/run/odd/first", 0)])
    odd.run("touch", *(disks[0][0] for disks in places))
    for resource, disks in zip(resources, places):
        calls += take(SPACE, resource, disks)
    with Holder(odd, *calls) as holder:
        held = ours(odd, f"show(leases.held_by({holder.pid}))")
        assert sorted(lease[1] for lease in held) == sorted(resources)
        assert ours(odd, f"[leases.release({holder.pid}), leases.held_by({holder.pid})]") == [None, []]


def test_another_program_s_odd_lease_spoils_nothing(odd: Stack) -> None:
    disks = [("/run/odd/a blank", 0)]
    make_files(odd, disks)
    domain = odd.domain("vm1").start()
    with Holder(odd, *take(SPACE, b"pool:v m", disks)):
        (lease,) = domain.leases()
        held = ours(odd, f"show(leases.held_by({domain.qemu_pid()}))")
    assert held == [(SPACE, lease.resource.encode(), 1, lease.path, 0, False)]
    domain.destroy()


def test_a_shared_lease(odd: Stack) -> None:
    for resource in (b"shared", b"sha:red"):
        disks = [("/run/odd/shared", 0)]
        make_files(odd, disks)
        with Holder(odd, *take(SPACE, resource, disks, shared=True)) as holder:
            held = ours(odd, f"show(leases.held_by({holder.pid}))")
            assert held == [(SPACE, resource, 0, *disks[0], True)]
            assert ours(odd, f"[leases.release({holder.pid}), leases.held_by({holder.pid})]") == [None, []]


def test_a_process_without_leases(odd: Stack) -> None:
    assert ours(odd, "[leases.held_by(1), leases.release(1), leases.CachedLeases().of(1)]") == [
        [],
        None,
        ((), ()),
    ]
    with Holder(odd) as holder:
        assert ours(odd, f"[leases.held_by({holder.pid}), leases.release({holder.pid})]") == [[], None]


def test_no_daemon_is_not_an_answer(odd: Stack) -> None:
    ask = (
        "import os; os.environ['SANLOCK_RUN_DIR'] = sys.argv[1]\n"
        "try: print(leases.held_by(1))\n"
        "except leases.LeasesUnknownError as error: print(error.absent, error)"
    )
    program = (
        f"import sys; sys.path.insert(0, {str(HELPER)!r})\n"
        f"from sanlock_helper.leases import held as leases\n{ask}"
    )

    def asked(run_dir: str) -> str:
        return odd.run("/usr/bin/python3", "-c", program, run_dir).stdout

    assert asked("/nowhere").startswith("True sanlock does not answer: ")
    # A daemon that was killed leaves its socket.
    odd.run("mkdir", "-p", "/run/dead")
    bind = "import socket; socket.socket(socket.AF_UNIX).bind('/run/dead/sanlock.sock')"
    odd.run("/usr/bin/python3", "-c", bind)
    assert asked("/run/dead").startswith("True sanlock does not answer: ")
    # One that runs, and whose socket was replaced, or removed.
    odd.run("cp", "/run/sanlock/sanlock.pid", "/run/dead")
    assert asked("/run/dead").startswith("False sanlock does not answer: ")
    odd.run("rm", "/run/dead/sanlock.sock")
    assert asked("/run/dead").startswith("False sanlock does not answer: ")
    # One that ends in the middle of an answer was there.
    odd.run("mkdir", "-p", "/run/rude")
    serve = (
        "import socket; s = socket.socket(socket.AF_UNIX); s.bind('/run/rude/sanlock.sock'); s.listen()\n"
        "print('ready', flush=True)\n"
        "while True: s.accept()[0].close()"
    )
    rude = odd.popen("/usr/bin/python3", "-c", serve)
    assert rude.stdout is not None
    rude.stdout.readline()
    assert asked("/run/rude").startswith("False sanlock does not answer: ")
    rude.kill()
    rude.communicate()


def test_both_bindings_answer_the_same(odd: Stack) -> None:
    need_module("sanlock")
    compare(odd)


def test_both_bindings_answer_the_same_of_a_newer_sanlock(stacks: StackFactory) -> None:
    need_module("sanlock")
    program = need_fire_timeout()
    stack = stacks()
    stack.libvirtd.stop()
    stack.sanlock.stop()
    stack.sanlock.program = program
    stack.sanlock.start()
    compare(stack)
    # The status that names are asked of, too.
    for name in (b"pool:vm", b"a blank", b"x" * 48):
        stack.run("touch", "/run/odd/own")
        own = [("/run/odd/own", 0)]
        join = (
            call("write_lockspace", b"o:wn", "/run/odd/samespace", 0, 0, 1),
            call("add_lockspace", b"o:wn", 1, "/run/odd/samespace", 0, 1),
        )
        assert answers(stack, OURS, *join) == [None, None]
        check(stack, b"o:wn", name, own)
        assert answers(stack, OURS, call("rem_lockspace", b"o:wn", 1, "/run/odd/samespace")) == [None]


def compare(stack: Stack) -> None:
    """sanlock-python and ours, on all that sanlock-python can do; see libsanlock.py for what it cannot."""
    disks = [("/run/odd/same", 1 << 20)]
    lock = [("/run/odd/samespace", 0)]
    make_files(stack, [*disks, *lock, ("/run/odd/empty", 0)])
    setup = [
        call("write_lockspace", b"same", lock[0][0], 0, 0, 1),
        call("add_lockspace", b"same", 1, lock[0][0], 0, 1),
        call("write_resource", b"same", b"lease", disks),
    ]
    asks = [
        call("get_lockspaces"),
        call("read_resource", *disks[0]),
        call("read_resource_owners", b"same", b"lease", disks),
        # All the errors.
        call("add_lockspace", b"same", 1, lock[0][0], 0, 1),
        call("add_lockspace", b"same", 2, lock[0][0]),
        call("add_lockspace", b"none", 1, "/nowhere"),
        call("add_lockspace", b"none", 1, "/run/odd/empty"),
        call("rem_lockspace", b"none", 1, "/nowhere"),
        call("get_hosts", b"none", 1),
        call("read_resource", "/nowhere"),
        call("read_resource", "/run/odd/empty"),
        call("read_resource", lock[0][0]),
        call("read_resource_owners", b"same", b"another", disks),
        call("read_resource_owners", b"another", b"lease", disks),
        call("read_resource_owners", b"same", b"lease", []),
        call("inquire", pid=1),
        call("inquire"),
        call("release", b"same", b"lease", disks, pid=1),
        call("acquire", b"same", b"lease", disks, pid=1),
        call("write_resource", b"same", b"lease", []),
    ]
    assert answers(stack, OURS, *setup) == [None] * 3

    def hosts(module: str) -> Any:
        """The host's own timestamp goes on."""
        (found,) = answers(stack, module, call("get_hosts", b"same", 1))
        return found if isinstance(found, tuple) else [{**host, "timestamp": 0} for host in found]

    wait_for(lambda: isinstance(hosts(OURS), list), 20, "sanlock to read its own timestamp")
    assert hosts(OURS) == hosts(THEIRS)
    acquire = call("acquire", b"same", b"lease", disks, slkfd=SELF)
    with Holder(stack, acquire) as holder:
        held = [call("inquire", pid=holder.pid), call("acquire", b"same", b"lease", disks, pid=holder.pid)]
        free = [call("release", b"same", b"nothing", disks, pid=holder.pid)]
        everything = [*asks, *held, *free]
        one, other = answers(stack, OURS, *everything), answers(stack, THEIRS, *everything)
        for question, mine, yours in zip(everything, one, other):
            assert mine == yours, question
        for module in (OURS, THEIRS):
            again = [
                call("release", b"same", b"lease", disks, pid=holder.pid),
                call("inquire", pid=holder.pid),
                call("read_resource_owners", b"same", b"lease", disks),
                call("acquire", b"same", b"lease", disks, pid=holder.pid, shared=True),
                call("inquire", pid=holder.pid),
                call("release", b"same", b"lease", disks, pid=holder.pid),
                call("acquire", b"same", b"lease", disks, pid=holder.pid, version=99),
                call("acquire", b"same", b"lease", disks, pid=holder.pid),
            ]
            found = answers(stack, module, *again)
            assert (found[:4], found[4][0]["flags"], found[5:]) == (
                [None, [], [], None],
                4,
                [None, ("error", -240), None],
            ), module
    assert answers(stack, THEIRS, call("rem_lockspace", b"same", 1, lock[0][0])) == [None]

# SPDX-License-Identifier: LGPL-2.1-or-later
"""One cell of the matrix: a virtual machine, an action, a fault at a stage of it, and what came of that."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, NamedTuple

from sanlock_helper.agent.kept_connections import KEPT
from tests.e2e import testdriver
from tests.e2e.journal import parse
from tests.e2e.lease_loss import HELPER, IDENTIFIER, RUNTIME_DIR
from tests.e2e.pair import Pair
from tests.e2e.recovery import COMMAND, STATE_RECORDS, leave_lockspace, recover
from tests.e2e.stack import Stack
from tests.e2e.standing import StandingAgent, connections
from tests.e2e.testdriver import TestDomains
from tests.e2e.unshared import children
from tests.e2e.waiting import wait_for

from .disk_faults import DISK
from .fault import BEFORE, CALL, DONE, FOUND, LOGIN, NO_AGENT, RECORD, RECOVERY, SLOT, STANDING, Fault
from .faults import FAULTS, LATE, MAX_CLIENTS
from .proxy import ANSWER, HOLD, PASS, REQUEST, Proxy, Rule
from .victims import KINDS, MigratingVm, QemuVm, Victim, outer_pid

STAGES = (BEFORE, LOGIN, FOUND, RECORD, SLOT, CALL, DONE, RECOVERY)
ACTIONS = ("poweroff", "restart", "pause")

OURS, STOCK = "ours", "C helper"

# What an agent that stands writes to its standard error.
STANDING_STDERR = "/run/stack/standing-stderr"

# Seconds from the call to sanlock's SIGKILL (a stack's kill_grace_seconds), less 5: what the helper takes.
BUDGET = 35.0
# How long recovery may take to bring a machine back, with a fault of 4 s in it.
RECOVERY_SECONDS = 45.0
# How long after that a verdict may come.
OVERTIME = 3.0
# How long a stage is waited for.
STAGE_SECONDS = 10.0

# Procedures of libvirt's src/remote/remote_protocol.x.
DESTROY, LOOKUP_BY_UUID, SUSPEND, AUTH_LIST = 12, 24, 34, 66
# What has to be under way so that the next call waits for a slot: poweroffs and restarts, or pauses.
SLOTS = {"poweroff": 24, "restart": 24, "pause": 25}

_OUTCOME = r"{action} .*{uuid}: ((done|NOT DONE|FAILED|powered off)\b.*{other})"

# Of no domain.
_UNKNOWN = "00000000-0000-4000-8000-000000000000"

_numbers = itertools.count()


class Verdict(NamedTuple):
    """What was seen from outside.

    agent: whether one stood before the call.
    reached: whether the helper came to the stage.  seconds: after how many the machine was safe, None when it
    was not in its budget.  lines: the outcomes that were logged.  unwanted: the lines that must not be there.
    """

    kind: str
    fault: str
    stage: str
    action: str
    helper: str
    agent: str
    reached: bool
    seconds: float | None
    lines: list[str]
    unwanted: list[str]

    @property
    def is_safe(self) -> bool:
        """Whether the machine was safe within its budget."""
        return self.seconds is not None

    @property
    def is_true(self) -> bool:
        """Whether exactly one outcome was logged, and it is true of the machine."""
        return len(self.lines) == 1 and (": FAILED" not in self.lines[0]) == self.is_safe


class Cell:
    """The things that a fault works on."""

    def __init__(
        self,
        stack: Stack,
        kind: str,
        fault: Fault,
        stage: str,
        action: str,
        helper: str,
        agent: str = NO_AGENT,
        pair: Pair | None = None,
    ) -> None:
        """STACK is the host; of a PAIR, for a fault of two hosts, it is the source."""
        self.stack = stack
        self._pair = pair
        self.agent = agent
        self.kind = kind
        self.fault = fault
        self.stage = stage
        self.action = action
        self.helper = helper
        self.prefix = ""
        self.environment: dict[str, str] = {}
        self.stderr = -1
        # Closed at the end.
        self.kept: list[socket.socket] = []
        # Of the helper alone: the folder that is on DISK.
        self.mounts = ""
        self.disk: subprocess.Popen[str] | None = None
        self.recovery: subprocess.Popen[str] | None = None
        self.is_held = False
        # The process that serves, by its pids inside and outside; 0 until it is started.
        self.helper_pid = 0
        self.outer_pid = 0
        self._name = f"vm{next(_numbers)}"
        self._stderr_file = ""
        self._pipe: list[int] = []
        self._threads: list[threading.Thread] = []
        self._calls: list[subprocess.Popen[str]] = []
        self._call: subprocess.Popen[str] | None = None
        self._agents: list[subprocess.Popen[str]] = []
        self._clear_lock = threading.Lock()
        self._is_cleared = True
        self._others: TestDomains | None = None
        self._journal_start = 0

    # For faults

    def beside(self, work: Callable[[], None]) -> None:
        """Do WORK in a thread of its own."""
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def open_pipe(self) -> None:
        """Make the helper's stderr a pipe that is not read."""
        reader, self.stderr = os.pipe()
        self._pipe = [reader]

    def call_for_others(self, number: int) -> None:
        """Start the helper for so many other domains."""
        assert self._others is not None
        for uuid in self._others.uuids[:number]:
            self._start(testdriver.URI, uuid, self.action, subprocess.DEVNULL)

    def call_for_none(self) -> None:
        """Call for a domain that libvirtd does not know, and wait for the end."""
        self._start(self.victim.uri, _UNKNOWN, self.action, subprocess.DEVNULL).wait(20)

    def end_helpers(self) -> None:
        """End what is left of the calls."""
        for process in self.stack.processes("libvirt_sanlock"):
            with contextlib.suppress(Exception):
                self.stack.signal(process.pid, 9)
        for started in (*self._calls, *self._agents):
            started.kill()
            started.communicate()
        self._calls.clear()
        self._agents.clear()

    def start_agent(self) -> StandingAgent:
        """Start the agent that stands, as its service does."""
        with open(self.stack.path(STANDING_STDERR), "ab") as stderr:
            process = self._popen([str(COMMAND), "agent", "-c", self.victim.uri], stderr.fileno())
        self._agents.append(process)
        return StandingAgent(self.stack, process=process)

    def _stand(self) -> None:
        """Have an agent stand; returns once it is at rest."""
        before = connections(self.stack)
        self.helper_pid = self.start_agent().wait_ready()
        self.outer_pid = outer_pid(self.stack, self.helper_pid)
        wait_for(lambda: connections(self.stack) >= before + KEPT, 10, "its connections")

    # The run

    def run(self) -> Verdict:
        """Make the machine, the fault and the call, and undo all of that."""
        with contextlib.ExitStack() as ends:
            self._prepare(ends)
            self.fault.prepare(self)
            ends.callback(self.clear)
            if self.agent == STANDING:
                ends.callback(self.end_helpers)
                self._stand()
            if self.stage == RECOVERY:
                return self._bring_back(ends)
            begin = time.monotonic()
            reached = self._to_the_stage()
            seconds = self._watch(begin)
            self.clear()
            # A machine that is safe for a moment only is not.
            if seconds is not None and not self.victim.is_safe(self.action):
                seconds = None
            return self._verdict(reached, seconds)

    def _bring_back(self, ends: contextlib.ExitStack) -> Verdict:
        """Make the machine safe, leave the lockspace, and have recovery bring it back through the fault."""
        stack, vm = self.stack, self.victim
        assert isinstance(vm, QemuVm)
        self._start_helper()
        wait_for(lambda: self._call is not None and self._call.poll() is not None, 20, "the helper's end")
        leave_lockspace(stack)
        ends.callback(self._end_recovery)
        self.recovery = recover(stack)
        wait_for(lambda: [space.state for space in stack.lockspaces()] == ["ADD"], 10, "the join to begin")
        begin = time.monotonic()
        self._inject()
        seconds = None
        while seconds is None and time.monotonic() - begin < RECOVERY_SECONDS:
            time.sleep(0.1)
            if vm.is_back() and self._lines("recover"):
                seconds = time.monotonic() - begin
        self.clear()
        return self._verdict(True, seconds, "recover")

    def _end_recovery(self) -> None:
        if self.recovery is not None:
            self.recovery.kill()
            self.recovery.communicate()
        if not self.stack.lockspaces():
            self.stack.join_lockspace()

    def _prepare(self, ends: contextlib.ExitStack) -> None:
        stack = self.stack
        stack.run("sh", "-c", f"rm -rf {RUNTIME_DIR} {STATE_RECORDS}/* {STANDING_STDERR}")
        self._journal_start = len(self._journal())
        ends.callback(self._wait_libvirtd)
        self.victim = self._make_victim()
        ends.callback(self.victim.close)
        if self.stage == SLOT or self.fault.others:
            self._others = TestDomains(stack, max(SLOTS.values()), "other")
            ends.callback(self._others.close)
        self.libvirt = Proxy(stack, stack.libvirtd.socket).start()
        ends.callback(self.libvirt.close)
        if isinstance(self.victim, QemuVm):
            self.victim.proxy = self.libvirt
        self.sanlock: Proxy | None = None
        if self.stage == RECORD:
            self.sanlock = Proxy(stack, stack.sanlock.socket, framed=False).start()
            ends.callback(self.sanlock.close)
        ends.callback(self._close_files)
        ends.callback(self.end_helpers)

    def _make_victim(self) -> Victim:
        if self._pair is not None:
            return MigratingVm(self._pair, self._name)
        return KINDS[self.kind](self.stack, self._name, self.fault.emulator)

    def _close_files(self) -> None:
        for thread in self._threads:
            thread.join(60)
        while self.kept:
            self.kept.pop().close()
        for descriptor in (*self._pipe, self.stderr):
            if descriptor >= 0:
                os.close(descriptor)

    def _wait_libvirtd(self) -> None:
        if not self.stack.libvirtd.is_running():
            self.stack.libvirtd.start()
        self.stack.libvirtd.wait_ready()

    def _to_the_stage(self) -> bool:
        """Start the helper and inject the fault at the stage; whether that was reached."""
        if self.stage == BEFORE:
            self._inject()
            self._start_helper()
            return True
        call = SUSPEND if self.action == "pause" else DESTROY
        proxy = self.sanlock or self.libvirt
        if self.stage == SLOT:
            proxy.rules(Rule(REQUEST, HOLD, call, lasts=True))
            self.call_for_others(SLOTS[self.action])
            for _ in range(SLOTS[self.action]):
                self.is_held = proxy.wait("held", STAGE_SECONDS) is not None
                if not self.is_held:
                    break
            self._start_helper()
            # The agent takes what is new many times a second.
            time.sleep(0.5)
        else:
            proxy.rules(
                {
                    LOGIN: Rule(REQUEST, procedure=AUTH_LIST),
                    FOUND: Rule(ANSWER, procedure=LOOKUP_BY_UUID),
                    RECORD: Rule(REQUEST),
                    CALL: Rule(REQUEST, procedure=call),
                    DONE: Rule(ANSWER, procedure=call),
                }[self.stage]
            )
            self._start_helper()
            self.is_held = self._wait_held(proxy)
        if proxy is self.libvirt:
            proxy.rules()
        self._inject()
        # Half a message, or none, to sanlock would stop all of sanlock, which reads it in its only loop.
        proxy.go(PASS if proxy is self.sanlock else self.fault.then, LATE)
        return self.is_held

    def _wait_held(self, proxy: Proxy) -> bool:
        """Whether the stage is reached, before the helper has ended without."""
        end = time.monotonic() + STAGE_SECONDS
        while time.monotonic() < end:
            if proxy.wait("held", 0.2) is not None:
                return True
            if self._is_served():
                return proxy.wait("held", 0.2) is not None
        return False

    def _is_served(self) -> bool:
        """Whether the helper will not come to another stage."""
        if self.agent == STANDING:
            return bool(self._lines())
        return self._call is None or self._call.poll() is not None

    def _inject(self) -> None:
        self._find_agent()
        self._is_cleared = False
        self.fault.inject(self)
        if self.fault.lasts:
            timer = threading.Timer(self.fault.lasts, self.clear)
            timer.daemon = True
            timer.start()
            self._threads.append(timer)

    def clear(self) -> None:
        """Undo the fault, once."""
        with self._clear_lock:
            if not self._is_cleared:
                self._is_cleared = True
                self.fault.clear(self)

    def _start_helper(self) -> None:
        self._stderr_file = str(self.stack.path("/run/stack/stderr"))
        stderr = self.stderr
        with contextlib.ExitStack() as files:
            if stderr < 0:
                stderr = files.enter_context(open(self._stderr_file, "wb")).fileno()
            call = self._start(self.victim.uri, self.victim.uuid, self.action, stderr)
        self._call = call
        wait_for(lambda: children(call.pid) or call.poll() is not None, 10, "the helper")

    def _find_agent(self) -> None:
        """The process that serves: of several it is the one with threads, and with the most of them."""
        if self.agent == STANDING:
            return
        outer = [pid for call in self._calls if call.poll() is None for pid in children(call.pid)]
        if not outer:
            return
        self.outer_pid = max(outer, key=_threads)
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{self.outer_pid}/status").read_text()
            self.helper_pid = int(status.partition("NSpid:")[2].split("\n")[0].split()[-1])

    def _start(self, uri: str, uuid: str, action: str, stderr: int) -> subprocess.Popen[str]:
        """As sanlock does: a bare environment, nothing on stdin and stdout."""
        program = str(HELPER) if self.helper == OURS else self.stack.stock_helper
        call = self._popen([program, uri, uuid, action], stderr)
        self._calls.append(call)
        return call

    def _popen(self, words: list[str], stderr: int) -> subprocess.Popen[str]:
        """Run one of our processes where the fault will be."""
        assignments = [f"{name}={value}" for name, value in self.environment.items()]
        command = ["env", *assignments, *words]
        if self.mounts:
            bind = 'mount --bind "$0" "$1" && shift && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", bind, DISK, self.mounts, *command]
        script = f"{self.prefix} exec {shlex.join(command)}"
        return self.stack.popen("sh", "-c", script, stdout=subprocess.DEVNULL, stderr=stderr)

    def _watch(self, begin: float) -> float | None:
        """After how many seconds the machine is safe; returns once the helper has said what it will."""
        safe_at, over_at = None, None
        while True:
            is_safe = safe_at is not None or self.victim.is_safe(self.action)
            if safe_at is None and is_safe:
                safe_at = time.monotonic()
            if over_at is None and self._is_over():
                over_at = time.monotonic()
            now = time.monotonic()
            # What is not known yet is no verdict: a stopped QEMU answers once it goes on.
            if over_at is not None and (safe_at is not None or (is_safe is not None and now - over_at > 1)):
                break
            if now - begin > BUDGET + OVERTIME:
                break
            time.sleep(0.05)
        if self.helper == OURS:
            # A second line may come as long as one of ours lives.
            with contextlib.suppress(AssertionError):
                wait_for(lambda: not self.stack.processes("libvirt_sanlock"), 3, "all helpers to end")
        return safe_at - begin if safe_at is not None and safe_at - begin < BUDGET else None

    def _is_over(self) -> bool:
        has_ended = self._call is not None and self._call.poll() is not None
        if self.helper == OURS:
            # Where libvirt's helper takes over, that is logged before.
            return bool(self._lines()) and (has_ended or not self.fault.outcome)
        return has_ended

    def _journal(self) -> list[str]:
        with open(self.stack.path("/run/stack/journal"), encoding="utf-8") as journal:
            # Not what is being written.
            return [line for line in journal.read().split("\n")[:-1] if line]

    def _lines(self, action: str = "") -> list[str]:
        other = f"|{self.fault.outcome}" if self.fault.outcome else ""
        text = _OUTCOME.format(action=action or self.action, uuid=self.victim.uuid, other=other)
        pattern = re.compile(text, re.DOTALL)
        return [line for line in self._messages() if pattern.fullmatch(line)]

    def _messages(self) -> list[str]:
        """What our processes have logged."""
        if self.fault.reads_stderr:
            files = [Path(self._stderr_file), self.stack.path(STANDING_STDERR)]
            text = [
                line
                for file in files
                if file.is_file()
                for line in file.read_text(errors="replace").splitlines()
            ]
            return [line.partition(f"{IDENTIFIER}: ")[2] for line in text]
        journal = map(parse, self._journal()[self._journal_start :])
        return [line.message for line in journal if line.ident == IDENTIFIER]

    def _verdict(self, reached: bool, seconds: float | None, action: str = "") -> Verdict:
        lines = self._lines(action) if self.helper == OURS else []
        text, remark = self.fault.unwanted, self.victim.remark()
        unwanted = [line for line in self._messages() if text and text in line]
        unwanted += [line for line in lines if remark not in line]
        return Verdict(
            *(self.kind, self.fault.name, self.stage, self.action, self.helper, self.agent),
            *(reached, seconds, lines, unwanted),
        )


def prepare_host(stack: Stack) -> None:
    """Make STACK one for cells."""
    # What our executable falls back to; a recorded call would be of a shell script.
    stack.use_stock_helper(record=False)
    with stack.path(stack.libvirtd.conf).open("a") as conf:
        conf.write(f"max_clients = {MAX_CLIENTS}\n")
    stack.libvirtd.restart()


def _threads(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def reason_to_leave_out(kind: str, fault: Fault, stage: str, helper: str, agent: str = NO_AGENT) -> str:
    """Why this cell is none; "" when it is one."""
    stages = fault.stages
    if stages and fault.at_rest and agent == STANDING:
        stages = (BEFORE, *stages)
    reasons = {
        "it is a fault of another kind of agent": agent not in fault.agents,
        "libvirt's helper has no agent": helper == STOCK and agent == STANDING,
        f"there is no such thing with libvirt's driver {kind}": kind not in fault.kinds,
        "the fault belongs to other stages": bool(stages) and stage not in stages,
        "an agent that stands has logged in, and has no part in recovery": (
            agent == STANDING and stage in (LOGIN, RECOVERY)
        ),
        "it is no fault of recovery": stage == RECOVERY and (kind != "qemu" or not fault.recovery),
        "a domain of the test driver has no process, and no record is written before libvirtd is asked": (
            stage == RECORD and kind != "qemu"
        ),
        "another process logs the outcome": fault.reads_stderr and stage == SLOT,
        "libvirt's helper has no such thing": helper == STOCK
        and (fault.is_ours or stage in (RECORD, SLOT, RECOVERY)),
    }
    return next((reason for reason, is_so in reasons.items() if is_so), "") or fault.missing()


def cells(quick: bool) -> Iterator[tuple[str, Fault, str, str, str]]:
    """Kind, fault, stage, action and agent of each; quick: most faults, once or twice, at the worst stage."""
    for fault in FAULTS:
        if quick:
            if NO_AGENT in fault.agents and fault.is_quick:
                yield fault.kinds[0], fault, fault.worst, fault.action, NO_AGENT
            if fault.is_quick_beside_it:
                yield fault.kinds[0], fault, fault.worst, fault.action, STANDING
            continue
        for kind, stage, action, agent in itertools.product(fault.kinds, STAGES, ACTIONS, fault.agents):
            if stage == RECOVERY and action not in fault.recovery:
                continue
            if not reason_to_leave_out(kind, fault, stage, OURS, agent):
                yield kind, fault, stage, action, agent

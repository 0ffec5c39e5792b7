# SPDX-License-Identifier: LGPL-2.1-or-later
"""install-check and activate on a folder that stands for a host; with systemd and rpm: tests/packaging."""

from __future__ import annotations

import io
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from sanlock_helper import __version__
from sanlock_helper.checks.facts import Facts, HostPaths
from sanlock_helper.checks.finding import Finding
from sanlock_helper.checks.plan import CHECKS, INSTALLATION
from sanlock_helper.cli import main as cli
from sanlock_helper.command import Answer
from sanlock_helper.errors import HelperError
from sanlock_helper.install import activation, host
from sanlock_helper.install import paths as killpath_file
from sanlock_helper.install.host import Host
from sanlock_helper.install.paths import our_executable

STOCK = "/usr/libexec/libvirt_sanlock_helper"
PID = 4711

# A killpath of this version.
OURS = f"#!/bin/sh\necho 'libvirt_sanlock_helper (virt-sanlock-helper) {__version__}'\n"


class FakeRun:
    """Answers commands by their first words; records them."""

    def __init__(self) -> None:
        self.properties = {"MainPID": "0", "NeedDaemonReload": "no", "BindReadOnlyPaths": ""}
        self.status: dict[str, int] = {"rpm": 0}
        self.calls: list[list[str]] = []

    def __call__(self, command: Sequence[str]) -> Answer:
        self.calls.append(list(command))
        stdout = ""
        if command[:2] == ["systemctl", "show"]:
            stdout = self.properties[command[2].partition("=")[2]] + "\n"
        return Answer(self.status.get(command[0], 0), stdout.encode(), b"no\n")

    def called(self, program: str, verb: str = "") -> list[list[str]]:
        return [call for call in self.calls if call[0] == program and (not verb or verb in call)]


@pytest.fixture
def run() -> FakeRun:
    return FakeRun()


@pytest.fixture
def here(tmp_path: Path, run: FakeRun) -> Host:
    """A host with both helpers, where sanlock does not run."""
    ours = tmp_path / "ours"
    ours.write_text(OURS)
    ours.chmod(0o755)
    stock = tmp_path / "root" / STOCK[1:]
    stock.parent.mkdir(parents=True)
    stock.write_text("stock")
    (tmp_path / "root/run/virt-sanlock-helper").mkdir(mode=0o700, parents=True)
    run.properties["BindReadOnlyPaths"] = f"-{ours}:{STOCK}:rbind"
    return Host(tmp_path / "root", run, ours, tmp_path / "proc")


def start_sanlock(here: Host, run: FakeRun, helper: str, own_mounts: bool = True) -> None:
    """Have sanlock run, with this text at libvirt's path as it sees it."""
    run.properties["MainPID"] = str(PID)
    for pid, mounts in ((PID, "sanlocks" if own_mounts else "hosts"), (1, "hosts")):
        (here.proc / str(pid) / "ns").mkdir(parents=True)
        (here.proc / str(pid) / "ns/mnt").symlink_to(mounts)
    seen = here.proc / f"{PID}/root{STOCK}"
    seen.parent.mkdir(parents=True)
    seen.write_text(helper)
    seen.chmod(0o755)
    (here.proc / f"{PID}/mountinfo").write_text("1 1 0:1 / /run rw - tmpfs tmpfs rw\n")


def facts_of(here: Host) -> Facts:
    """With the directories of the machine, where they are not part of the installation."""
    paths = HostPaths(proc=here.proc, run=here.run_dir, sys=here.path("/sys"))
    facts = Facts(paths, installation=here)
    facts.__dict__["mountinfo"] = f"1 1 0:1 / {here.run_dir} rw - tmpfs tmpfs rw\n"
    return facts


def find_all(here: Host) -> list[Finding]:
    """What install-check reports, by the names of that verb."""
    return [replace(check.run(facts_of(here)), name=check.what) for check in INSTALLATION]


def find(here: Host, what: str) -> Finding:
    (check,) = (check for check in INSTALLATION if check.what == what)
    return check.run(facts_of(here))


def test_install_check_is_the_first_section_of_check() -> None:
    assert [check.what for check in INSTALLATION] == [
        "program", "bindings", "now", "next start", "label", "runtime directory",
    ]  # fmt: skip
    names = [check.name for check in CHECKS]
    assert names[:5] == ["user", "program", "python", "killpath", "next start"]
    assert len(set(names)) == len(names)


def test_the_executable_of_each_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    assert our_executable() == Path(__file__).parents[3] / "helper/libvirt_sanlock_helper"
    monkeypatch.setattr(
        killpath_file, "__file__", "/opt/x/share/virt-sanlock-helper/sanlock_helper/install/x.py"
    )
    assert str(our_executable()) == "/opt/x/libexec/virt-sanlock-helper/libvirt_sanlock_helper"


def test_a_command_that_is_not_there() -> None:
    assert host.run_command(["/nonexistent/program"]).status == 127


def test_without_libvirts_plugin_there_is_nothing_to_check(
    here: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here.path(STOCK).unlink()
    assert {find(here, what).verdict for what in ("now", "next start")} == {"fail"}
    monkeypatch.setattr("sanlock_helper.cli.verbs.install_check.Host", lambda: here)
    assert cli.main(["install-check"]) == 1
    assert "install libvirt-daemon-plugin-sanlock" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="the runtime directory is root's")
def test_all_good(here: Host, run: FakeRun) -> None:
    start_sanlock(here, run, OURS)
    findings = find_all(here)
    bad = [finding for finding in findings if finding.verdict != "pass"]
    assert bad == []
    assert not any(finding.remedy for finding in findings)


@pytest.mark.parametrize(
    ("own_mounts", "step"),
    [(True, "systemctl bind --read-only sanlock.service"), (False, "move the VMs off this host")],
)
def test_sanlock_runs_another_helper(here: Host, run: FakeRun, own_mounts: bool, step: str) -> None:
    start_sanlock(here, run, "stock", own_mounts)
    finding = find(here, "now")
    assert finding.verdict != "pass"
    assert finding.remedy.startswith(step)


@pytest.mark.skipif(os.geteuid() != 0, reason="the modes are root's to change")
@pytest.mark.parametrize("how", ["bound", "link", "copy"])
def test_ours_that_is_not_executable_is_made_so(here: Host, run: FakeRun, how: str) -> None:
    """Another helper would be named as the cause, and none is there."""
    start_sanlock(here, run, OURS, how == "bound")
    path, seen = here.path(STOCK), Path(here.seen_by(PID))
    for file in (path, seen):
        file.unlink()
        if how == "copy":
            file.write_text(OURS)
        else:
            file.symlink_to(here.ours)
    assert find(here, "now").verdict == "pass" or how == "copy"
    for file in (here.ours, path, seen):
        file.chmod(0o644)
    found = find(here, "now")
    assert "is not executable; it is this program's file" in found.found
    subprocess.run(["sh", "-ec", found.remedy], check=True)
    # What stands for sanlock's view of a copy is no file of the host's here.
    seen.chmod(path.stat().st_mode)
    assert find(here, "now").verdict == "pass"


def test_sanlock_outside_systemd_is_found_by_its_pid_file(here: Host, run: FakeRun) -> None:
    start_sanlock(here, run, "stock", own_mounts=False)
    run.properties["MainPID"] = "0"
    pid_file = here.path("/run/sanlock/sanlock.pid")
    pid_file.parent.mkdir(parents=True)
    pid_file.write_text(f"{PID}\n")
    comm = here.proc / f"{PID}/comm"
    comm.write_text("another\n")
    assert find(here, "now").found == "sanlock does not run"
    comm.write_text("sanlock\n")
    assert f"(pid {PID})" in find(here, "now").found


@pytest.mark.parametrize(
    ("properties", "step"),
    [
        ({"BindReadOnlyPaths": "/elsewhere:/usr/lib/x"}, "systemctl daemon-reload, or reinstall"),
        ({"NeedDaemonReload": "yes"}, "systemctl daemon-reload"),
    ],
)
def test_the_drop_in_is_not_in_force(here: Host, run: FakeRun, properties: dict[str, str], step: str) -> None:
    run.properties.update(properties)
    finding = find(here, "next start")
    assert finding.verdict != "pass"
    assert finding.remedy.startswith(step)


@pytest.mark.parametrize(
    ("bind", "verdict"),
    [
        ("-{link}/ours:{stock}:rbind", "pass"),
        ("/a:/b:rbind {link}/ours:{stock}", "pass"),
        ("{link}/ours:{stock}.other:rbind", "fail"),
        ("{link}/other:{stock}:rbind", "fail"),
        ("{link}/ours", "fail"),
    ],
)
def test_a_prefix_that_is_a_link(here: Host, run: FakeRun, bind: str, verdict: str) -> None:
    """As /usr/local on another filesystem: the drop-in has the name that was given to `make install`."""
    link = here.ours.parent / "link"
    link.symlink_to(here.ours.parent)
    run.properties["BindReadOnlyPaths"] = bind.format(link=link, stock=STOCK)
    assert find(here, "next start").verdict == verdict


def test_a_broken_program_is_found(here: Host) -> None:
    here.ours.write_text("#!/bin/sh\nexit 1\n")
    finding = find(here, "program")
    assert (finding.verdict, finding.remedy) == ("fail", "reinstall virt-sanlock-helper")


@pytest.mark.parametrize(
    ("label", "ok"),
    [
        (b"system_u:object_r:virt_sanlock_helper_exec_t:s0\0", True),
        (b"system_u:object_r:bin_t:s0\0", False),
        (None, False),
    ],
)
def test_the_label(here: Host, monkeypatch: pytest.MonkeyPatch, label: bytes | None, ok: bool) -> None:
    assert find(here, "label").found == "SELinux is off"
    enforce = here.path("/sys/fs/selinux/enforce")
    enforce.parent.mkdir(parents=True)
    enforce.write_text("1")

    def getxattr(path: str, name: str) -> bytes:
        assert (path, name) == (str(here.ours), "security.selinux")
        if label is None:
            raise OSError(61, "No data available")
        return label

    monkeypatch.setattr(os, "getxattr", getxattr)
    finding = find(here, "label")
    assert (finding.verdict == "pass") is ok
    assert label is None or "enforcing" in finding.found
    assert ("restorecon" in finding.remedy) is not ok


@pytest.mark.skipif(os.geteuid() != 0, reason="the runtime directory is root's")
@pytest.mark.parametrize(
    ("damage", "step"),
    [
        ("chmod 755 .", "chmod 0700"),
        ("chmod 777 .", "chmod 0700"),
        ("chown 65534 .", "chown root:root"),
        ("rmdir .", "systemd-tmpfiles --create"),
        ("rmdir . && ln -s /tmp .", "; systemd-tmpfiles --create"),
        ("rmdir . && mkdir -m 700 .x && ln -s .x .", "; systemd-tmpfiles --create"),
        ("rmdir . && touch .", "; systemd-tmpfiles --create"),
    ],
)
def test_the_runtime_directory(here: Host, damage: str, step: str) -> None:
    path = here.path("/run/virt-sanlock-helper")
    subprocess.run(["sh", "-c", damage.replace(" .", f" {path}")], check=True)
    finding = find(here, "runtime directory")
    assert finding.verdict != "pass"
    assert step in finding.remedy
    if step.startswith("ch"):
        subprocess.run(["sh", "-c", finding.remedy], check=True)
        assert find(here, "runtime directory").verdict == "pass"


@pytest.mark.parametrize("damage", ["rm -r .; touch .", "rm -r .; ln -s /x .", "chmod 0777 .", "rm -r ."])
def test_no_step_deletes_what_may_hold_records(here: Host, damage: str) -> None:
    path = here.run_dir / "virt-sanlock-helper"
    subprocess.run(["sh", "-c", damage.replace(" .", f" {path}")], check=True)
    step = find(here, "runtime directory").remedy
    assert step
    assert not re.search(r"\b(?:rm|rmdir|unlink|find|truncate)\b", step)


def test_activate_and_back(here: Host) -> None:
    path = here.path(STOCK)
    assert "is now a link" in activation.activate(here)
    assert os.readlink(path) == str(here.ours)
    assert path.with_name(f"{path.name}.distrib").read_text() == "stock"
    assert find(here, "next start").found.startswith("ours")
    assert "already" in activation.activate(here)
    assert "is libvirt's own helper again" in activation.undo(here)
    assert path.read_text() == "stock"
    assert [name.name for name in path.parent.iterdir()] == [path.name]
    assert "nothing to undo" in activation.undo(here)


def test_an_update_undid_it(here: Host, run: FakeRun) -> None:
    path = here.path(STOCK)
    assert activation.after_update(here) == []
    activation.activate(here)
    path.unlink()
    path.write_text("newer")
    (line,) = activation.after_update(here)
    assert "is now a link" in line
    assert path.with_name(f"{path.name}.distrib").read_text() == "newer"
    assert run.called("systemctl", "bind") == []


def test_undo_keeps_what_an_update_brought(here: Host) -> None:
    path = here.path(STOCK)
    activation.activate(here)
    path.unlink()
    path.write_text("newer")
    activation.undo(here)
    assert path.read_text() == "newer"
    assert not path.with_name(f"{path.name}.distrib").exists()


def test_after_an_update_the_bind_is_put_back_once(here: Host, run: FakeRun) -> None:
    start_sanlock(here, run, "stock")
    (line,) = activation.after_update(here)
    assert line.startswith("bound ")
    assert run.called("systemctl", "bind") == [here.bind_command()]
    (here.proc / f"{PID}/root{STOCK}").write_text(OURS)
    assert activation.after_update(here) == []
    run.status["systemctl"] = 1
    (here.proc / f"{PID}/root{STOCK}").write_text("stock")
    with pytest.raises(HelperError, match="restart sanlock when no VM runs"):
        activation.after_update(here)


def test_a_sanlock_without_mounts_of_its_own_takes_no_bind(here: Host, run: FakeRun) -> None:
    start_sanlock(here, run, "stock", own_mounts=False)
    assert activation.after_update(here) == []
    assert run.called("systemctl", "bind") == []


def test_dpkg_is_called_and_its_refusal_changes_nothing(here: Host, run: FakeRun) -> None:
    run.status["rpm"] = 127
    activation.activate(here)
    (call,) = run.called("dpkg-divert")
    assert call[-2:] == ["--add", STOCK]
    activation.undo(here)
    assert run.called("dpkg-divert")[-1][-2:] == ["--remove", STOCK]
    run.status["dpkg-divert"] = 2
    with pytest.raises(HelperError, match="dpkg-divert"):
        activation.activate(here)
    assert [name.name for name in here.path(STOCK).parent.iterdir()] == [here.path(STOCK).name]
    assert here.path(STOCK).read_text() == "stock"


def test_ours_must_be_an_executable(here: Host) -> None:
    here.ours.chmod(0o644)
    with pytest.raises(HelperError, match="not an executable"):
        activation.activate(here)
    assert not here.path(STOCK).is_symlink()


def test_what_the_system_refuses_is_one_line(here: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: bool) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(HelperError, match=r"Read-only file system \(see findmnt -T /"):
        activation.activate(here)
    assert here.path(STOCK).read_text() == "stock"


@pytest.mark.parametrize(
    ("answer", "status", "replaced"),
    # The last is an end of file: Ctrl-D.
    [("y\n", 0, True), ("n\n", 1, False), ("\n", 1, False), ("yes\n", 0, True), ("", 1, False)],
)
def test_activate_asks(
    here: Host,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: str,
    status: int,
    replaced: bool,
) -> None:
    monkeypatch.setattr("sanlock_helper.cli.verbs.activate.Host", lambda: here)
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    assert cli.main(["activate"]) == 2
    assert "activate: there is no terminal to ask at (use --yes)" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert cli.main(["activate"]) == status
    assert here.path(STOCK).is_symlink() is replaced
    question = capsys.readouterr().err
    assert STOCK in question
    assert question.endswith("activate? [y/N] ")


def test_the_verb_prints_what_check_prints(
    here: Host, run: FakeRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start_sanlock(here, run, "stock")
    monkeypatch.setattr("sanlock_helper.cli.verbs.install_check.Host", lambda: here)
    assert cli.main(["install-check"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if not line.startswith(" ")]) == len(INSTALLATION)
    assert re.match(r"program +pass  ", lines[0])
    (line,) = (line for line in lines if line.startswith("now "))
    assert line.startswith("now                fail  the running sanlock")
    assert lines[lines.index(line) + 2].strip() == f"remedy: {' '.join(here.bind_command())}"
    assert cli.main(["install-check", "--json"]) == 1
    found = pytest.importorskip("tests.schemas").validated(capsys.readouterr().out, "install-check")[
        "findings"
    ]
    (now,) = (finding for finding in found if finding["what"] == "now")
    assert (now["ok"], now["step"]) == (False, " ".join(here.bind_command()))
    assert [finding for finding in found if finding["ok"] is bool(finding["step"])] == []


def test_what_root_alone_may_read_is_no_pass(
    here: Host, run: FakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_sanlock(here, run, OURS)
    (here.proc / f"{PID}/root{STOCK}").unlink()
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    finding = find(here, "now")
    assert (finding.verdict, finding.remedy) == ("warn", "run this as root")


ANOTHER = "/opt/x/libexec/virt-sanlock-helper/libvirt_sanlock_helper"


def diverted(run: FakeRun, here: Host) -> Host:
    """HERE as a Debian where a diversion of the path is noted."""
    run.status["rpm"] = 127

    def answer(command: Sequence[str]) -> Answer:
        found = run(command)
        return Answer(0, b"LOCAL\n") if "--listpackage" in command else found

    here.run = answer
    return here


def test_the_link_of_another_installation_is_taken_over(here: Host) -> None:
    """It may lead nowhere by now; behind it libvirt's helper is put aside already."""
    path, aside = here.path(STOCK), here.path(f"{STOCK}.distrib")
    path.rename(aside)
    path.symlink_to(ANOTHER)
    activation.activate(here)
    assert os.readlink(path) == str(here.ours)
    assert aside.read_text() == "stock"
    activation.undo(here)
    assert path.read_text() == "stock"


def test_the_link_of_another_installation_can_be_undone(here: Host) -> None:
    path = here.path(STOCK)
    path.rename(here.path(f"{STOCK}.distrib"))
    path.symlink_to(ANOTHER)
    assert "is libvirt's own helper again" in activation.undo(here)
    assert path.read_text() == "stock"


def test_another_link_is_left_alone(here: Host) -> None:
    path, aside = here.path(STOCK), here.path(f"{STOCK}.distrib")
    path.rename(aside)
    path.symlink_to("/opt/wrapper")
    assert "nothing to undo" in activation.undo(here)
    assert (os.readlink(path), aside.read_text()) == ("/opt/wrapper", "stock")


@pytest.mark.parametrize("target", ["elsewhere/helper", "/proc/self/exe", "gone"])
def test_a_link_in_the_place_of_libvirts_helper_comes_back(here: Host, run: FakeRun, target: str) -> None:
    """Relative, to another filesystem, or to nowhere."""
    path = here.path(STOCK)
    (path.parent / "elsewhere").mkdir()
    path.rename(path.parent / "elsewhere/helper")
    path.symlink_to(target)
    for _ in range(2):
        activation.activate(here)
        assert os.readlink(path) == str(here.ours)
        assert os.readlink(f"{path}.distrib") == target
        assert activation.is_active(here)
    for _ in range(2):
        activation.undo(here)
        assert os.readlink(path) == target
        assert not os.path.lexists(f"{path}.distrib")
    assert (path.parent / "elsewhere/helper").read_text() == "stock"


def test_a_directory_in_the_place_of_libvirts_helper(here: Host) -> None:
    here.path(STOCK).unlink()
    here.path(STOCK).mkdir()
    with pytest.raises(HelperError, match=r"it is a directory \(rmdir"):
        activation.activate(here)
    assert list(here.path(STOCK).parent.iterdir()) == [here.path(STOCK)]


def test_without_libvirts_package_no_link_is_left(here: Host, run: FakeRun) -> None:
    activation.activate(here)
    here.path(f"{STOCK}.distrib").unlink()
    diverted(run, here)
    run.status["dpkg-query"] = 1
    activation.undo(here)
    assert list(here.path(STOCK).parent.iterdir()) == []
    assert run.called("dpkg-divert", "--remove")


def test_anothers_diversion_is_left_alone(here: Host, run: FakeRun) -> None:
    diverted(run, here)
    path, aside = here.path(STOCK), here.path(f"{STOCK}.distrib")
    path.rename(aside)
    path.write_text("wrapper")
    with pytest.raises(HelperError, match=r"is there already: it was diverted .*see dpkg-divert --list"):
        activation.activate(here)
    assert "nothing to undo" in activation.undo(here)
    assert activation.after_update(here) == []
    assert (path.read_text(), aside.read_text()) == ("wrapper", "stock")
    assert run.called("dpkg-divert", "--add") == run.called("dpkg-divert", "--remove") == []


def test_an_undo_that_dpkg_refuses_can_be_done_again(here: Host, run: FakeRun) -> None:
    run.status["rpm"] = 127
    activation.activate(here)
    run.status["dpkg-divert"] = 2
    with pytest.raises(HelperError, match="dpkg-divert"):
        activation.undo(here)
    assert os.readlink(here.path(STOCK)) == str(here.ours)
    run.status["dpkg-divert"] = 0
    activation.undo(here)
    assert here.path(STOCK).read_text() == "stock"


def test_an_activation_that_was_killed_can_be_done_again(here: Host, run: FakeRun) -> None:
    os.link(here.path(STOCK), here.path(f"{STOCK}.distrib"))
    activation.activate(diverted(run, here))
    assert run.called("dpkg-divert", "--add")
    assert os.readlink(here.path(STOCK)) == str(here.ours)
    assert here.path(f"{STOCK}.distrib").read_text() == "stock"
    assert len(list(here.path(STOCK).parent.iterdir())) == 2

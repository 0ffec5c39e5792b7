# SPDX-License-Identifier: LGPL-2.1-or-later
"""Numbers and paths that more than one part of the program uses have one home, or agree where they cannot."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

pytest.importorskip("libvirt")

import sanlock_helper
from sanlock_helper import call, spool, virt
from sanlock_helper.checks import killpath as checks_killpath
from sanlock_helper.checks import libvirtd
from sanlock_helper.checks.facts import HostPaths
from sanlock_helper.cli.verbs import VERBS
from sanlock_helper.leases import grace, sanlock_daemon
from sanlock_helper.leases.sanlock_status import JoinedLockspace, SanlockStatus
from sanlock_helper.leases.timeline import Timeline, timeline_of
from sanlock_helper.records import directory

from .layers import modules

ROOT = Path(__file__).parents[2]
HELPER = ROOT / "helper" / "sanlock_helper"


def homes(name: str) -> set[str]:
    """The modules that give NAME, as one of their own, a value."""
    return {
        str(path.relative_to(HELPER))
        for path, tree in modules(HELPER, rf"^.*\b{name}\b.*=")
        for node in tree.body
        for target in (node.targets if isinstance(node, ast.Assign) else [])
        if isinstance(target, ast.Name) and target.id == name
    }


@pytest.mark.parametrize(
    ("name", "home"),
    [
        ("IN_FLIGHT", "virt/__init__.py"),
        ("AHEAD", "virt/__init__.py"),
        ("SYSTEM_URI", "virt/__init__.py"),
        ("RUNTIME_DIR", "__init__.py"),
        ("EXIT_DONE", "invocation.py"),
        ("EXIT_FAILED", "invocation.py"),
        ("EXIT_USAGE", "invocation.py"),
        ("EXIT_INTERRUPTED", "invocation.py"),
        ("DEFAULT_IO_TIMEOUT", "leases/sanlock_daemon.py"),
        ("DEFAULT_GRACE", "leases/grace.py"),
        ("DEFAULT_FIRE_TIMEOUT", "leases/grace.py"),
        ("RUN_AS_ROOT", "errors.py"),
        ("LAST_TIME", "timestamps.py"),
    ],
)
def test_a_constant_has_one_home(name: str, home: str) -> None:
    assert homes(name) == {home}


def test_the_limits_of_libvirtd_are_checked_for_what_the_agent_does() -> None:
    most = virt.IN_FLIGHT + virt.AHEAD
    enough = most // 2 + 1
    assert libvirtd.check_limits({"max_anonymous_clients": enough}, 1000, 600).verdict == "pass"
    low = libvirtd.check_limits({"max_anonymous_clients": enough - 1, "max_clients": 5000}, 1000, 600)
    assert f"max_anonymous_clients to {enough}" in low.remedy


def test_libvirts_own_helper_gets_no_request_that_is_out_of_time() -> None:
    assert call._STOCK_SECONDS == grace.DEFAULT_GRACE - grace.MARGIN


def test_the_runtime_directory_is_one_path() -> None:
    where = sanlock_helper.RUNTIME_DIR
    assert spool.RUNTIME_DIR == where == str(HostPaths().runtime_dir)
    assert directory.RUN_DIR.startswith(f"{where}/")
    assert directory.INSTANCE_LOCK.startswith(f"{where}/")
    for name in (
        "tmpfiles.conf",
        "virt-sanlock-helper-recover.path",
        "virt-sanlock-helper-recover.service",
        "selinux/virt_sanlock_helper.fc",
    ):
        paths = set(re.findall(r"/run/[\w-]+", (ROOT / "packaging" / name).read_text()))
        assert paths == {where}, name
    in_code = [
        str(path.relative_to(HELPER))
        for path in HELPER.rglob("*.py")
        if re.search(rf'"{where}', path.read_text(encoding="utf-8"))
    ]
    assert in_code == ["__init__.py"]


def test_one_reader_of_the_pid_file() -> None:
    readers = [
        str(path.relative_to(HELPER))
        for path in HELPER.rglob("*.py")
        if sanlock_daemon.PID_FILE in path.read_text(encoding="utf-8")
    ]
    assert readers == ["leases/sanlock_daemon.py"]


def test_the_check_of_the_modules_searches_where_the_agent_does() -> None:
    """A program of its own, run in sanlock's environment: it cannot import the function of the agent."""
    tree = ast.parse((HELPER / "agent/service.py").read_text(encoding="utf-8"))
    (found,) = (
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "_find_modules"
    )
    # Behind the docstring and the import of site.
    probe = {ast.dump(node) for node in ast.parse(checks_killpath._PROBE).body}
    assert [ast.unparse(node) for node in found.body[2:] if ast.dump(node) not in probe] == []
    assert len(found.body) == 6


def test_one_reader_of_the_timeline() -> None:
    makers = {
        str(path.relative_to(HELPER))
        for path, tree in modules(HELPER, r"\bTimeline\b")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Timeline"
    }
    assert makers == {"leases/timeline.py"}


def test_the_timeline_is_that_of_the_lockspace_which_is_lost_first() -> None:
    spaces = tuple(
        JoinedLockspace(name, 1, f"/{name}", 0, {"io_timeout": seconds})
        for name, seconds in (("a", "10"), ("b", "3"))
    )
    status = SanlockStatus({"kill_grace_seconds": "7"}, spaces, ())
    assert timeline_of(status, ["a", "b"]) == Timeline(3, 7, 60)
    assert timeline_of(status, ["a"], 20) == Timeline(10, 7, 60)
    assert timeline_of(status, ["c"], 20) == Timeline(20, 7, 60)
    assert timeline_of(SanlockStatus({}, (), ()), ["c"]) == Timeline(10, 40, 60)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("activate", "agent")])
def test_each_verb_that_prints_json_names_the_version_of_its_schema(verb: str) -> None:
    module = verb.replace("-", "_")
    text = (HELPER / "cli" / "verbs" / f"{module}.py").read_text(encoding="utf-8")
    assert re.search(r"^SCHEMA = \d+$", text, re.MULTILINE)
    assert not re.search(r"print_json\(\s*\"[\w-]+\", \d", text)
    schemas = [path for path in (ROOT / "packaging/schema").glob(f"{verb}*.json")]
    assert schemas
    (version,) = set(re.findall(r"^SCHEMA = (\d+)$", text, re.MULTILINE))
    for path in schemas:
        assert json.loads(path.read_text())["$id"].endswith(f":{version}")

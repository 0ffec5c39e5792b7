# SPDX-License-Identifier: LGPL-2.1-or-later
"""Our SELinux module, linked with the whole policy of the distribution, and questions to the result."""

from __future__ import annotations

import bz2
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from .packages import ROOT

MODULE = "virt_sanlock_helper"
MAKEFILE = Path("/usr/share/selinux/devel/Makefile")
# Debian ships packages of modules, Fedora a store of them in CIL.
PACKAGES = Path("/usr/share/selinux/default")
STORES = tuple(Path(f"/var/lib/selinux/targeted/active/modules/{priority}") for priority in (100, 200, 400))
PP_TO_CIL = Path("/usr/libexec/selinux/hll/pp")


class Rule(NamedTuple):
    """One permission: of which domain, on what type, of which class, which."""

    source: str
    target: str
    tclass: str
    permission: str


def missing() -> tuple[str, ...]:
    """What is missing to compile and link, one line each."""
    found = [name for name in ("checkmodule", "secilc", "make", "m4") if shutil.which(name) is None]
    found += [str(path) for path in (MAKEFILE, PP_TO_CIL) if not path.exists()]
    if not PACKAGES.exists() and not any(store.exists() for store in STORES):
        found.append("the distribution's policy (selinux-policy-default, selinux-policy-targeted)")
    try:
        import setools  # noqa: F401
    except ImportError:
        found.append("python3-setools")
    return tuple(found)


def compile_module(folder: Path) -> Path:
    """Compile our module in a copy; returns it in CIL."""
    copy = folder / "module"
    shutil.copytree(ROOT / "packaging/selinux", copy)
    command = ["make", "-f", str(MAKEFILE), "NAME=targeted", f"{MODULE}.pp"]
    result = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert not re.search(r"warning|error", result.stdout + result.stderr, re.I), result.stdout + result.stderr
    return _to_cil(copy / f"{MODULE}.pp", folder)


def _to_cil(package: Path, folder: Path) -> Path:
    data = bz2.decompress(package.read_bytes()) if package.suffix == ".bz2" else package.read_bytes()
    cil = folder / f"{package.name.split('.')[0]}.cil"
    cil.write_bytes(subprocess.run([str(PP_TO_CIL)], input=data, capture_output=True, check=True).stdout)
    return cil


def _distribution(folder: Path) -> Iterator[Path]:
    if PACKAGES.exists():
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            yield from pool.map(lambda package: _to_cil(package, folder), sorted(PACKAGES.glob("*.pp.bz2")))
        return
    for module in (module for store in STORES for module in sorted(store.glob("*/cil"))):
        if module.parent.name == MODULE:
            continue
        data = module.read_bytes()
        cil = folder / f"{module.parent.name}.cil"
        cil.write_bytes(bz2.decompress(data) if data.startswith(b"BZh") else data)
        yield cil


def link(folder: Path, module: Path, types: Iterable[str] = ()) -> Path:
    """Link MODULE with the distribution's policy; returns the policy that a kernel would load.

    TYPES are declared where the distribution's policy has none of that name: another distribution's has.
    """
    policy = folder / "policy"
    parts = folder / "parts"
    parts.mkdir(exist_ok=True)
    modules = [*_distribution(parts), module]
    declared = set(re.findall(r"\((?:type|typealias) (\w+)\)", "".join(path.read_text() for path in modules)))
    missing = "".join(f"(type {name})\n(roletype object_r {name})\n" for name in set(types) - declared)
    (folder / "types.cil").write_text(missing)
    # -m: Debian 13 declares a role twice, as semodule allows.
    command = ["secilc", "-m", "-N", "-M", "true", "-o", str(policy), "-f", "/dev/null"]
    words = [*command, *map(str, modules), str(folder / "types.cil")]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return policy


class Policy:
    """The linked policy, with attributes expanded."""

    def __init__(self, path: Path) -> None:
        import setools

        self._setools = setools
        self._policy = setools.SELinuxPolicy(str(path))

    def granted(self, source: str) -> set[Rule]:
        """All that SOURCE may do, by rules of whatever module; conditional rules count."""
        query = self._setools.TERuleQuery(self._policy, ruletype=["allow"], source=source)
        found = set()
        for rule in query.results():
            for one in rule.expand():
                if str(one.source) == source:
                    target, tclass = str(one.target), str(one.tclass)
                    found |= {Rule(source, target, tclass, str(name)) for name in one.perms}
        return found

    def entering(self, domain: str) -> set[str]:
        """The domains whose processes may become ones of DOMAIN."""
        query = self._setools.TERuleQuery(
            self._policy, ruletype=["allow"], target=domain, tclass=["process"], perms=["transition"]
        )
        return {str(one.source) for rule in query.results() for one in rule.expand()} - {domain}

    def transitions(self, source: str) -> set[tuple[str, str, str]]:
        """What a process or a file of SOURCE becomes: (target, class, default)."""
        query = self._setools.TERuleQuery(self._policy, ruletype=["type_transition"], source=source)
        return {(str(rule.target), str(rule.tclass), str(rule.default)) for rule in query.results()}


def added(module: Path, source: str) -> dict[tuple[str, str], set[str]]:
    """What the MODULE itself grants to SOURCE: permissions by target and class."""
    found: dict[tuple[str, str], set[str]] = {}
    for match in re.finditer(r"\(allow (\S+) (\S+) \((\S+) \(([^)]*)\)\)\)", module.read_text()):
        if match[1] == source:
            target = source if match[2] == "self" else match[2]
            found.setdefault((target, match[3]), set()).update(match[4].split())
    return found

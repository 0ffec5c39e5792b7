# SPDX-License-Identifier: LGPL-2.1-or-later
"""The errors: one base, names that end alike, and a remedy that is written in one place."""

from __future__ import annotations

import ast

import pytest

from sanlock_helper.errors import RUN_AS_ROOT, HelperError, PermanentError, hint_for, needs_root

from .layers import TOP, modules, statements

pytestmark = pytest.mark.pure

# spool.py does not load errors.py; the binding has the names of python3-sanlock; the last three never leave
# recovery's visit to a domain.
WITHOUT_BASE = {
    "SpoolError",
    "SanlockException",
    "RefusalError",
    "DropError",
    "UnusableError",
    "WouldActError",
}


def test_errors_have_one_base_and_names_that_end_alike() -> None:
    bases = {}
    for _, tree in modules(TOP, r"(?:Error|Exception)\b[^()]*\):"):
        for node in statements(tree):
            names = [base.id for base in getattr(node, "bases", ()) if isinstance(base, ast.Name)]
            if isinstance(node, ast.ClassDef) and any(
                name.endswith(("Error", "Exception")) for name in names
            ):
                bases[node.name] = names
    assert {name for name in bases if not name.endswith("Error")} == {"SanlockException"}
    plain = {name for name, names in bases.items() if "Exception" in names}
    assert plain - {"SanlockHelperError"} <= WITHOUT_BASE


def test_what_root_alone_may_do_has_one_remedy() -> None:
    error = needs_root("read x", "Permission denied")
    assert isinstance(error, (HelperError, PermanentError))
    assert str(error) == "read x: Permission denied (run this as root)"
    assert hint_for(PermissionError(13, "Permission denied")) == RUN_AS_ROOT
    assert hint_for(OSError(30, "Read-only file system")) == ""
    written = [path.name for path in TOP.rglob("*.py") if 'as root"' in path.read_text(encoding="utf-8")]
    assert written == ["errors.py"]

# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an import of libvirt_auth costs, and that preload() leaves nothing for later."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import libvirt_auth

AUTH = Path(__file__).resolve().parents[3] / "auth"

HEAVY = {
    "configparser", "re", "enum", "typing", "dataclasses", "logging", "json", "urllib", "urllib.parse",
    "collections", "functools", "libvirt", "libvirtmod", "importlib.metadata",
}  # fmt: skip

START = f"import sys; sys.path.insert(0, {str(AUTH)!r}); before = set(sys.modules); "


def run(code: str, *options: str) -> list[str]:
    command = [sys.executable, "-B", *options, "-c", START + code]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.split()


@pytest.mark.pure
@pytest.mark.parametrize(
    "code",
    [
        "import libvirt_auth",
        "from libvirt_auth import open_auth",
        "from libvirt_auth import AuthConfigError, find_auth_file; find_auth_file('qemu:///system?a=%20')",
    ],
)
def test_cheap(code: str) -> None:
    loaded = set(run(f"{code}; print(*set(sys.modules) - before)", "-IS"))
    assert "libvirt_auth.files" in loaded
    assert not loaded & HEAVY
    own = {name for name in loaded if name.startswith("libvirt_auth.")}
    assert own == {f"libvirt_auth.{name}" for name in ("connection", "errors", "files", "uri")}


@pytest.mark.pure
def test_public_names() -> None:
    """Each name is there, lazily or not, and a wrong one is an AttributeError."""
    for name in set(libvirt_auth.__all__) - {"Secret"}:  # Secret's module needs libvirt
        if name not in ("CredentialSource", "describe_source"):
            assert getattr(libvirt_auth, name).__name__ == name
    assert libvirt_auth.describe_source.__module__ == "libvirt_auth.source"
    with pytest.raises(AttributeError, match="no_such_name"):
        libvirt_auth.no_such_name  # noqa: B018


def test_preload(tmp_path: Path) -> None:
    """After preload() a connection that fails, and the explanation why, import nothing."""
    pytest.importorskip("libvirt")
    (tmp_path / "test.xml").write_text("<node><auth><user password='x'>login</user></auth></node>")
    (tmp_path / "auth.conf").write_text("[auth-test-default]\ncredentials=a\n[credentials-a]\n")
    late = run(f"""
import os, libvirt_auth
libvirt_auth.preload()
import libvirt
libvirt.registerErrorHandler(lambda *_: None, None)
os.environ.pop("HOME", None)
before = set(sys.modules)
for file in ("/no/such/file", "{tmp_path}/auth.conf"):
    try:
        libvirt_auth.open_auth("test://{tmp_path}/test.xml?authfile=" + file)
    except libvirt_auth.AuthError as err:
        str(err)
    else:
        raise SystemExit("connected")
print(*set(sys.modules) - before)
""")
    assert late == []

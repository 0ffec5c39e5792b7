# SPDX-License-Identifier: LGPL-2.1-or-later
"""AuthConfig: groups, references, files."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from libvirt_auth import AuthConfig, AuthConfigError, AuthFileError, AuthReferenceError

pytestmark = pytest.mark.pure

DATA = b"""\
[auth-libvirt-h]
credentials=one
[auth-libvirt-default]
credentials=two
[auth-libvirt-localhost]
credentials=three
[auth-libvirt-bare]
[auth-libvirt-dangling]
credentials=four
[auth-libvirt-binary]
credentials=\xff
[auth-esx-default]
credentials=with\\sblank
[credentials-one]
authname=1
[credentials-two]
authname=2
[credentials-three]
authname=3
[credentials-with blank]
authname=4
[credentials-\xff]
authname=5
"""


@pytest.fixture
def config() -> AuthConfig:
    return AuthConfig.from_bytes(DATA, path="/x/auth.conf")


@pytest.mark.parametrize(
    ("service", "host", "value"),
    [
        ("libvirt", "h", "1"),
        ("libvirt", "H", "2"),  # no such host: the default group
        ("libvirt", "", "2"),
        ("libvirt", None, "3"),  # no host is localhost
        ("libvirt", "localhost", "3"),
        ("esx", "h", "4"),  # escapes count in a reference too
        ("ssh", "h", None),  # no group at all
    ],
)
def test_lookup(config: AuthConfig, service: str, host: str | None, value: str | None) -> None:
    assert config.lookup(service, host, "authname") == value
    assert config.lookup(service, host, "password") is None


def test_groups(config: AuthConfig) -> None:
    assert config.auth_group("libvirt", "x") == "auth-libvirt-default"
    assert config.credentials_group("libvirt", "x") == "credentials-two"
    assert config.auth_group("ssh") is None
    assert config.credentials_group("ssh") is None


@pytest.mark.parametrize(
    ("host", "line", "text"),
    [("bare", 7, "no item 'credentials'"), ("binary", 10, "no item"), ("dangling", 8, "[credentials-four]")],
)
def test_reference_error(config: AuthConfig, host: str, line: int, text: str) -> None:
    """A matching group that leads nowhere is an error; the default group is no way out."""
    with pytest.raises(AuthReferenceError) as caught:
        config.lookup("libvirt", host, "authname")
    error = caught.value
    assert isinstance(error, AuthConfigError)
    assert (error.path, error.line, error.group) == ("/x/auth.conf", line, f"auth-libvirt-{host}")
    assert text in str(error)
    assert error.hint
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.hint) == (str(error), error.hint)


def test_unknown_name(config: AuthConfig) -> None:
    with pytest.raises(ValueError, match="passwd"):
        config.lookup("libvirt", "h", "passwd")


def test_from_file(tmp_path: Path) -> None:
    file = tmp_path / "auth.conf"
    file.write_bytes(DATA)
    assert AuthConfig.from_file(str(file)).lookup("libvirt", "h", "authname") == "1"


@pytest.mark.parametrize("name", ["missing", "directory", "fifo", "device", "loop", "large"])
def test_unusable_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "directory":
        path.mkdir()
    elif name == "fifo":
        os.mkfifo(path)  # libvirt would wait for a writer
    elif name == "device":
        path = Path("/dev/zero")
    elif name == "loop":
        path.symlink_to(path)
    elif name == "large":
        path.write_bytes(b"#" * ((1 << 20) + 1))
    before = os.listdir("/proc/self/fd")
    with pytest.raises(AuthFileError) as caught:
        AuthConfig.from_file(str(path))
    assert caught.value.path == str(path)
    assert str(path) in str(caught.value)
    assert os.listdir("/proc/self/fd") == before


def test_just_not_too_large() -> None:
    AuthConfig.from_bytes(b"#" * (1 << 20))


def test_message_is_one_line() -> None:
    with pytest.raises(AuthFileError) as caught:
        AuthConfig.from_file("/no/such\n\x1bfile")
    assert str(caught.value).isprintable()
    with pytest.raises(AuthReferenceError) as dangling:
        AuthConfig.from_bytes(b"[auth-libvirt-default]\ncredentials=a\\nb\n").lookup("libvirt", None, "realm")
    assert "[credentials-a\\nb]" in str(dangling.value)

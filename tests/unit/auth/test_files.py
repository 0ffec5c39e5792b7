# SPDX-License-Identifier: LGPL-2.1-or-later
"""find_auth_file(): the order, and what the environment does to it."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from libvirt_auth import files, find_auth_file
from libvirt_auth.uri import URI

if TYPE_CHECKING:
    from pytest_mock import MockerFixture

pytestmark = pytest.mark.pure

URI_WITH_FILE = "qemu:///system?no_verify=1&authfile=/from%20the/uri"


@pytest.fixture
def system_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    path = tmp_path / "etc-auth.conf"
    path.touch()
    monkeypatch.setattr(files, "SYSTEM_FILE", str(path))
    return str(path)


def test_system_file() -> None:
    assert files.SYSTEM_FILE == "/etc/libvirt/auth.conf"


@pytest.mark.parametrize("value", ["/no/such/file", ""])
def test_variable_first(value: str) -> None:
    assert find_auth_file(URI_WITH_FILE, {"LIBVIRT_AUTH_FILE": value}) == value


@pytest.mark.usefixtures("system_file")
def test_uri_second() -> None:
    assert find_auth_file(URI_WITH_FILE, {}) == "/from the/uri"
    assert find_auth_file("qemu:///system?authfile", {}) == ""


@pytest.mark.parametrize(
    ("environ", "directory"),
    [
        ({"XDG_CONFIG_HOME": "@/xdg", "HOME": "@/home"}, "xdg/libvirt"),
        ({"XDG_CONFIG_HOME": "@/xdg//"}, "xdg/libvirt"),
        ({"XDG_CONFIG_HOME": "", "HOME": "@/home"}, "home/.config/libvirt"),
        ({"HOME": "@/home/"}, "home/.config/libvirt"),
        ({"XDG_CONFIG_HOME": "@/empty", "HOME": "@/home"}, None),  # nothing is merged
        ({"HOME": "@/empty"}, None),
    ],
)
def test_user_directory(
    tmp_path: Path, system_file: str, environ: dict[str, str], directory: str | None
) -> None:
    for name in ("xdg/libvirt", "home/.config/libvirt"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "auth.conf").touch()
    environ = {name: value.replace("@", str(tmp_path)) for name, value in environ.items()}
    expected = system_file if directory is None else f"{tmp_path}/{directory}/auth.conf"
    assert find_auth_file("qemu:///system", environ) == expected


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HOME": ""}, ".config/libvirt/auth.conf"),  # relative, as in GLib
        ({"XDG_CONFIG_HOME": "x"}, "x/libvirt/auth.conf"),
        ({"XDG_CONFIG_HOME": "/"}, "/libvirt/auth.conf"),
        ({"HOME": "/"}, "/.config/libvirt/auth.conf"),
    ],
)
def test_odd_directory(mocker: MockerFixture, environ: dict[str, str], expected: str) -> None:
    mocker.patch("os.access", autospec=True, return_value=True)
    assert find_auth_file("qemu:///system", environ) == expected


@pytest.mark.parametrize(
    ("logname", "expected"),
    [
        (None, "/by-uid"),
        ("second", "/by-name"),  # another account of the same uid
        ("stranger", "/by-uid"),
        ("missing", "/by-uid"),
    ],
)
def test_without_home(mocker: MockerFixture, logname: str | None, expected: str) -> None:
    def account(name: str, uid: int, home: str) -> pwd.struct_passwd:
        return pwd.struct_passwd((name, "x", uid, 0, "", home, "/bin/sh"))

    by_name = {"second": account("second", 7, "/by-name"), "stranger": account("stranger", 8, "/no")}
    mocker.patch("os.getuid", autospec=True, return_value=7)
    mocker.patch("pwd.getpwnam", autospec=True, side_effect=by_name.__getitem__)
    mocker.patch("pwd.getpwuid", autospec=True, return_value=account("first", 7, "/by-uid"))
    mocker.patch("os.access", autospec=True, return_value=True)
    environ = {} if logname is None else {"LOGNAME": logname}
    assert find_auth_file("qemu:///system", environ) == f"{expected}/.config/libvirt/auth.conf"


def test_without_account(mocker: MockerFixture) -> None:
    mocker.patch("pwd.getpwnam", autospec=True, side_effect=KeyError)
    mocker.patch("pwd.getpwuid", autospec=True, side_effect=KeyError)
    mocker.patch("os.access", autospec=True, return_value=True)
    assert find_auth_file("qemu:///system", {}) == "/.config/libvirt/auth.conf"


def test_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SYSTEM_FILE", str(tmp_path / "missing"))
    assert find_auth_file("qemu:///system", {"HOME": str(tmp_path)}) is None


def test_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBVIRT_AUTH_FILE", "/now")
    assert find_auth_file("qemu:///system") == "/now"


@pytest.mark.parametrize(
    ("text", "scheme", "transport", "server"),
    [
        ("qemu:///system", "qemu", "", None),
        ("qemu+libssh2://root@h:22/system", "qemu", "libssh2", "h"),
        ("esx://[fe80::1%25eth0]:443/?no_verify=1", "esx", "", "fe80::1%eth0"),
        ("xen", "xen", "", None),
        ("", "", "", None),
    ],
)
def test_uri(text: str, scheme: str, transport: str, server: str | None) -> None:
    uri = URI(text)
    assert (uri.scheme, uri.transport, uri.server) == (scheme, transport, server)


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        ("a=1&b=2", [("a", "1"), ("b", "2")]),
        ("a=1;b=2", [("a", "1"), ("b", "2")]),
        ("a=1;b=2&c=3", [("a", "1;b=2"), ("c", "3")]),  # ";" only where no "&" follows
        ("a&=1&&b=", [("a", ""), ("b", "")]),
        ("%61=%2Fx%20y+z", [("a", "/x y+z")]),
        ("a=%41%00b", [("a", "A")]),  # a C string
        ("a=%ff", [("a", os.fsdecode(b"\xff"))]),
        ("a=100%&b=%zz", [("a", "100"), ("b", "%zz")]),  # libvirt refuses these; we do not fail
        ("a=1#&b=2", [("a", "1")]),
    ],
)
def test_query(query: str, parameters: list[tuple[str, str]]) -> None:
    assert URI(f"qemu:///system?{query}").parameters == parameters

# SPDX-License-Identifier: LGPL-2.1-or-later
"""open_auth() on libvirt's test driver, which asks for a user name and a password."""

from __future__ import annotations

import errno
import os
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

libvirt = pytest.importorskip("libvirt")

from libvirt_auth import (  # noqa: E402
    AuthError,
    AuthFileError,
    AuthMissingError,
    AuthReferenceError,
    AuthRefusedError,
    AuthSyntaxError,
    Secret,
    describe_source,
    open_auth,
)
from libvirt_auth.connection import explain  # noqa: E402
from libvirt_auth.credentials import TYPES, Answers  # noqa: E402

if TYPE_CHECKING:
    from pytest_mock import MockerFixture

PASSWORD = "s€cret pass"

GOOD = f"""\
[credentials-prod]
username=login
authname=sasl-login
password={PASSWORD}
realm=example.org
[auth-test-default]
credentials=prod
[auth-libvirt-localhost]
credentials=prod
[auth-ssh-h]
credentials=prod
"""


@pytest.fixture(autouse=True)
def quiet() -> None:
    libvirt.registerErrorHandler(lambda *_: None, None)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "auth.conf"
    path.write_text(GOOD, encoding="utf-8")
    monkeypatch.setenv("LIBVIRT_AUTH_FILE", str(path))
    return path


@pytest.fixture
def uri(tmp_path: Path) -> str:
    user = f"<user password='{PASSWORD}'>login</user>"
    (tmp_path / "test.xml").write_text(f"<node><auth>{user}</auth></node>", encoding="utf-8")
    return f"test://{tmp_path}/test.xml"


@pytest.mark.usefixtures("file")
def test_connects(uri: str) -> None:
    with open_auth(uri) as connection:
        assert connection.getType() == "TEST"


def test_needs_no_file() -> None:
    with open_auth("test:///default") as connection:
        assert connection.getType() == "TEST"


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ((PASSWORD, "wrong"), AuthRefusedError, "[credentials-prod] for [auth-test-default]"),
        (("username=login", "username=x"), AuthRefusedError, "[credentials-prod] for [auth-test-default]"),
        (("username=login", ""), AuthMissingError, "group [credentials-prod] has no field 'username'"),
        ((f"password={PASSWORD}", ""), AuthMissingError, "group [credentials-prod] has no field 'password'"),
        (("test-default", "x-default"), AuthMissingError, "no group [auth-test-localhost]"),
        (("credentials-prod", "credentials-x"), AuthReferenceError, "[credentials-prod], which is not there"),
        (("username=login", "username"), AuthSyntaxError, ":2: "),
    ],
)
def test_fails(file: Path, uri: str, change: tuple[str, str], kind: type[AuthError], text: str) -> None:
    file.write_text(GOOD.replace(*change), encoding="utf-8")
    with pytest.raises(kind) as caught:
        open_auth(uri)
    error = caught.value
    assert text in str(error)
    assert str(error).startswith(str(file))
    assert isinstance(error.libvirt_error, libvirt.libvirtError)
    assert error.__cause__ is error.libvirt_error
    assert error.hint
    assert PASSWORD not in "".join(traceback.format_exception(type(error), error, error.__traceback__))
    if isinstance(error, AuthMissingError):
        assert error.field
        assert error.field in str(error)


def test_no_file(uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIBVIRT_AUTH_FILE", str(tmp_path / "missing"))
    with pytest.raises(AuthFileError, match=os.strerror(errno.ENOENT)):
        open_auth(uri)


def test_other_errors_are_libvirts_own() -> None:
    with pytest.raises(libvirt.libvirtError):
        open_auth("test:///no/such/file.xml")
    with pytest.raises(libvirt.libvirtError):
        open_auth("test:///default?authfile=%zz")


def test_nothing_is_swallowed(file: Path, uri: str, mocker: MockerFixture) -> None:
    """What goes wrong in the callback reaches the caller, whatever it is."""
    file.write_text("")
    mocker.patch.object(Answers, "_answer", autospec=True, side_effect=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        open_auth(uri)


def test_connected_all_the_same(mocker: MockerFixture) -> None:
    """ssh tries its methods in turn: the one that needed nothing wins; but a bug is a bug."""
    connection = mocker.Mock(spec=libvirt.virConnect)

    def connect(_uri: str, auth: list[object], _flags: int) -> object:
        callback = auth[1]
        assert callable(callback)
        assert callback([[libvirt.VIR_CRED_NOECHOPROMPT, "Password", None, None, None]], None) == -1
        return connection

    mocker.patch.object(libvirt, "openAuth", autospec=True, side_effect=connect)
    assert open_auth("qemu+libssh2://h/system?authfile=/dev/null") is connection  # an AuthFileError
    mocker.patch.object(Answers, "_answer", autospec=True, side_effect=ZeroDivisionError)
    mocker.patch("libvirt_auth.config.AuthConfig.from_file", autospec=True)
    with pytest.raises(ZeroDivisionError):
        open_auth("qemu+libssh2://h/system?authfile=/x")
    connection.close.assert_called_once_with()


def ask(uri: str, kind: int, challenge: str | None = None, default: str | None = None) -> object:
    """Return the answer to one credential, or the error."""
    answers = Answers(uri)
    credential = [kind, "Prompt", challenge, default, None]
    status = answers.callback([credential], None)
    assert (status, answers.error is None) in [(0, True), (-1, False)]
    return answers.error or credential[4]


def test_every_type_is_offered() -> None:
    offered = {getattr(libvirt, name) for name in dir(libvirt) if name.startswith("VIR_CRED_")}
    assert set(TYPES) == offered


@pytest.mark.parametrize(
    ("kind", "full", "default", "empty"),
    [
        ("USERNAME", "login", "d", ""),
        ("AUTHNAME", "sasl-login", "d", "authname"),
        ("LANGUAGE", "", "d", ""),
        ("PASSPHRASE", PASSWORD, "d", "password"),
        ("ECHOPROMPT", None, "d", None),
        ("NOECHOPROMPT", PASSWORD, "d", "password"),
        ("REALM", "example.org", "d", ""),
        ("EXTERNAL", "", "d", ""),
    ],
)
def test_types(file: Path, kind: str, full: str | None, default: str, empty: str | None) -> None:
    """From the file; without it, the default; without that, empty or an error that names the field."""
    number, uri = getattr(libvirt, f"VIR_CRED_{kind}"), "qemu:///system"
    answer = ask(uri, number)
    assert isinstance(answer, AuthMissingError) if full is None else answer == full
    file.write_text("[auth-libvirt-default]\ncredentials=prod\n[credentials-prod]\n")
    assert ask(uri, number, default="d") == default
    answer = ask(uri, number)
    if empty == "":
        assert answer == ""
    else:
        assert isinstance(answer, AuthMissingError)
        assert (answer.path, answer.group, answer.field) == (str(file), "credentials-prod", empty)


@pytest.mark.usefixtures("file")
def test_nonce() -> None:
    first, second = (ask("qemu:///system", libvirt.VIR_CRED_CNONCE) for _ in range(2))
    assert first != second


@pytest.mark.parametrize(
    ("uri", "challenge", "answered"),
    [
        ("qemu+libssh2://h/system", None, True),  # keyboard-interactive
        ("qemu+libssh2://h/system", "h", True),  # virAuthGetPasswordPath()
        ("qemu+libssh://h/system", "h", True),
        ("qemu+libssh2://h/system", "Password", False),  # SASL, after ssh
        ("qemu+ssh://h/system", None, False),  # the ssh program asks the user itself
    ],
)
@pytest.mark.usefixtures("file")
def test_ssh(uri: str, challenge: str | None, answered: bool) -> None:
    answer = ask(uri, libvirt.VIR_CRED_PASSPHRASE, challenge)
    assert answer == PASSWORD if answered else isinstance(answer, AuthMissingError)
    if answered:
        assert ask(uri, libvirt.VIR_CRED_AUTHNAME, "h") == "login"


@pytest.mark.usefixtures("file")
def test_unknown_type() -> None:
    """A type of a newer libvirt."""
    assert isinstance(ask("qemu:///system", 99), AuthMissingError)


@pytest.mark.parametrize(
    ("uri", "service"),
    [
        ("qemu:///system", "libvirt"),
        ("qemu+tls://h/system", "libvirt"),
        ("test:///default", "test"),
        ("test+unix:///default", "libvirt"),
        ("test://h/default", "libvirt"),
        ("esx://h/", "esx"),
        ("vpx://h/dc/host", "esx"),
        ("hyperv://h/", "hyperv"),
    ],
)
def test_service(file: Path, uri: str, service: str) -> None:
    file.write_text(f"[auth-{service}-default]\ncredentials=a\n[credentials-a]\nrealm=r\npassword=p\n")
    expected = (str(file), f"auth-{service}-default", "credentials-a", ("password", "realm"))
    assert describe_source(uri) == expected


def test_describe_nothing(file: Path, mocker: MockerFixture) -> None:
    source = describe_source("esx://h/")
    assert source == (str(file), None, None, ())
    assert str(source) == f"no group for it in {file}"
    mocker.patch("libvirt_auth.source.find_auth_file", autospec=True, return_value=None)
    assert str(describe_source("esx://h/")) == "no authentication file"
    error = mocker.Mock(spec=libvirt.libvirtError)
    error.get_error_code.return_value = libvirt.VIR_ERR_AUTH_FAILED
    error.get_error_message.return_value = "authentication failed"
    explained = explain("qemu:///system", error)
    assert str(explained).startswith("no authentication file: authentication failed")


def test_secret() -> None:
    secret = Secret(PASSWORD)
    assert [str(secret), repr(secret), f"{secret}", f"{secret!r:>8}"] == ["********"] * 4
    assert str([secret]) == "[********]"
    assert secret.reveal() == PASSWORD
    assert not hasattr(secret, "__dict__")


@pytest.mark.parametrize(
    ("value", "hint"), [("Pa\\dss", "write each backslash"), ("a\\", "write each backslash")]
)
def test_a_password_that_glib_takes_for_none_is_explained(
    uri: str, file: Path, monkeypatch: pytest.MonkeyPatch, value: str, hint: str
) -> None:
    monkeypatch.setattr("libvirt_auth.glib.loaded_version", lambda: (2, 84, 4))
    file.write_text(f"[auth-test-default]\ncredentials=a\n[credentials-a]\nusername=x\npassword={value}\n")
    answers = Answers(uri)
    credential = [libvirt.VIR_CRED_PASSPHRASE, "", None, None, None]
    assert answers.callback([credential], None) == -1
    assert isinstance(answers.error, AuthMissingError)
    assert "has no value that libvirt can use" in str(answers.error)
    assert "GLib 2.84.4 takes that for no value" in str(answers.error)
    assert answers.error.hint.startswith(hint)
    assert value not in f"{answers.error} {answers.error!r}"

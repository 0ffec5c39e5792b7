# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which of libvirt's errors are worth another try."""

from __future__ import annotations

import pytest
from pytest_mock import MockerFixture

libvirt = pytest.importorskip("libvirt")

import libvirt_auth  # noqa: E402
from sanlock_helper.errors import AuthenticationError, PermanentError, TransientError  # noqa: E402
from sanlock_helper.virt import connection  # noqa: E402

from ..libvirt_errors import libvirt_error  # noqa: E402


@pytest.mark.parametrize(
    ("code", "domain"),
    [
        (libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_RPC),  # the socket is not there, or refuses
        (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_RPC),  # the connection broke in a call
        (libvirt.VIR_ERR_RPC, libvirt.VIR_FROM_RPC),
        (libvirt.VIR_ERR_OPERATION_TIMEOUT, libvirt.VIR_FROM_QEMU),  # a job holds the domain
        (libvirt.VIR_ERR_RESOURCE_BUSY, libvirt.VIR_FROM_QEMU),
        (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_FROM_QEMU),
        (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_QEMU),
    ],
)
def test_passing(code: int, domain: int) -> None:
    assert isinstance(connection.failure("try", libvirt_error(code, domain)), TransientError)


@pytest.mark.parametrize(
    ("code", "domain"),
    [
        (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_FROM_QEMU),
        (libvirt.VIR_ERR_ACCESS_DENIED, libvirt.VIR_FROM_ACCESS),
        (libvirt.VIR_ERR_NO_CONNECT, libvirt.VIR_FROM_NONE),
        (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_URI),
    ],
)
def test_final(code: int, domain: int) -> None:
    assert isinstance(connection.failure("try", libvirt_error(code, domain)), PermanentError)


@pytest.mark.parametrize(
    ("code", "domain"),
    [
        (libvirt.VIR_ERR_AUTH_FAILED, libvirt.VIR_FROM_AUTH),
        (libvirt.VIR_ERR_AUTH_FAILED, libvirt.VIR_FROM_RPC),  # SASL
        (libvirt.VIR_ERR_AUTH_CANCELLED, libvirt.VIR_FROM_AUTH),
        (libvirt.VIR_ERR_AUTH_UNAVAILABLE, libvirt.VIR_FROM_AUTH),  # polkit has no agent to ask
        (libvirt.VIR_ERR_CONF_SYNTAX, libvirt.VIR_FROM_CONF),  # auth.conf, as the C library reads it
    ],
)
def test_a_login_that_failed(code: int, domain: int) -> None:
    # Final, but for the agent, which tries it again.
    assert isinstance(connection.failure("try", libvirt_error(code, domain)), AuthenticationError)


def test_an_event_is_one_line() -> None:
    error = libvirt_error(libvirt.VIR_ERR_INTERNAL_ERROR, message="QEMU said:\nmuch\n")
    assert str(connection.failure("start", error)) == "start: QEMU said:"


@pytest.mark.parametrize("uri", ["::bad::", "nodriver"])
def test_bad_uri_is_final(uri: str) -> None:
    with pytest.raises(PermanentError, match=f"connect to {uri}"):
        connection.connect(uri)


def test_refused_credentials_are_final(mocker: MockerFixture) -> None:
    mocker.patch.object(libvirt_auth, "open_auth", side_effect=libvirt_auth.AuthError("/auth.conf", "no"))
    with pytest.raises(PermanentError, match=r"/auth\.conf: no"):
        connection.connect("qemu:///system")


def test_connect() -> None:
    assert connection.connect("test:///default").getURI() == "test:///default"


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("qemu:///system", True),
        ("QEMU:///system", True),
        ("qemu+unix:///system?socket=/run/x", True),
        ("qemu:///session", True),
        ("qemu:///embed?root=/tmp/a", True),
        ("qemu:/system", True),
        ("qemu+ssh://root@host/system", False),
        ("qemu+ssh:///system", False),
        ("qemu://localhost/system", False),
        ("test:///default", False),
        ("test+unix:///default", False),
        ("xen:///system", False),
        ("", False),
        ("qemu", True),
    ],
)
def test_whose_domains_are_processes_of_this_host(uri: str, expected: bool) -> None:
    assert connection.is_local(uri) == expected

# SPDX-License-Identifier: LGPL-2.1-or-later
"""A login that waits for root's home, where libvirt's client searches for credentials first."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

pytest.importorskip("libvirt")

import libvirt_auth
from libvirt_auth import auth_file_candidates
from sanlock_helper.virt import connection

URI = "qemu:///system"
IN_ETC = f"{URI}?authfile=/etc/libvirt/auth.conf"


class Home:
    """Root's home, and libvirt's client, which searches it for auth.conf unless another file is named."""

    def __init__(self) -> None:
        self.hangs = True
        self.answers = threading.Event()
        self.begun = threading.Event()
        # What each login opened.
        self.logins: list[str] = []
        self.searches = 0

    def open_auth(self, uri: str) -> str:
        self.logins.append(uri)
        self.begun.set()
        self.read(uri)
        return "connected"

    def find_auth_file(self, uri: str) -> str | None:
        self.searches += 1
        self.read(uri)
        return None

    def read(self, uri: str) -> None:
        is_named = any(candidate.forced for candidate in auth_file_candidates(uri))
        if self.hangs and not is_named:
            self.answers.wait(20)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    home = Home()
    monkeypatch.delenv("LIBVIRT_AUTH_FILE", raising=False)
    monkeypatch.setattr(libvirt_auth, "open_auth", home.open_auth)
    monkeypatch.setattr(libvirt_auth, "find_auth_file", home.find_auth_file)
    monkeypatch.setattr(connection, "SLOW_SECONDS", 0.0)
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(connection, "OPENING", type(connection.OPENING)())
    yield home
    home.answers.set()


def begin_to_connect(home: Home) -> threading.Thread:
    """A login that does not come back."""
    first = threading.Thread(target=connection.connect, args=(URI,))
    first.start()
    assert home.begun.wait(20)
    return first


def answer(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the home answers; on a machine that is busy that may take a while."""
    home.hangs = False
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 20.0)


def test_a_home_that_hangs_is_passed_by_until_it_answers(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    first = begin_to_connect(home)
    connection.connect(URI)
    connection.connect(URI)
    assert home.logins == [URI, IN_ETC, IN_ETC]
    # The first search has not come back: to begin another one would leave one more thread waiting.
    assert home.searches == 1
    answer(home, monkeypatch)
    home.answers.set()
    first.join(20)
    connection.connect(URI)
    assert home.logins[3:] == [URI]


def test_a_libvirtd_that_hangs_is_no_reason_to_pass_the_home_by(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = begin_to_connect(home)
    answer(home, monkeypatch)
    connection.connect(URI)
    assert home.logins == [URI, URI]
    home.answers.set()
    first.join(20)


def test_a_file_that_is_named_stays(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    named = f"{URI}?authfile=/run/mine"
    first = begin_to_connect(home)
    connection.connect(named)
    monkeypatch.setenv("LIBVIRT_AUTH_FILE", "/run/mine")
    connection.connect(URI)
    assert home.logins == [URI, named, URI]
    home.answers.set()
    first.join(20)


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("qemu:///system", "qemu:///system?authfile=/a"),
        ("qemu+unix:///system?socket=/run/b", "qemu+unix:///system?socket=/run/b&authfile=/a"),
        ("test:///default#c?d", "test:///default?authfile=/a#c?d"),
    ],
)
def test_the_file_is_named_in_the_query(uri: str, named: str) -> None:
    assert connection.with_auth_file(uri, "/a") == named
    assert [each.path for each in auth_file_candidates(named, {}) if each.forced] == ["/a"]

# SPDX-License-Identifier: LGPL-2.1-or-later
"""The pool of connections: one for each try, and no more than are worth their opening."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any, Callable

import pytest

from sanlock_helper.agent.connection_pool import FEW, LOGIN_SECONDS, QUICK_SECONDS, Connection, Connections
from sanlock_helper.errors import AuthenticationError, PermanentError, TransientError

pytestmark = pytest.mark.pure

URI = "qemu:///system"
MOST = 25


class Handle:
    """A virConnect."""

    closed = False
    alive = 1

    def isAlive(self) -> int:
        return self.alive

    def close(self) -> None:
        self.closed = True


class Pool:
    """Connections with a clock that stands still, to a libvirtd that refuses when there is an error."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.error: Exception | None = None
        # How a connection is opened; a test may put its own way here.
        self.opens: Callable[[str], Any] = self.connect
        self.connections = Connections(self.open, MOST, lambda: self.now)

    def open(self, uri: str) -> Any:
        return self.opens(uri)

    def connect(self, _uri: str) -> Any:
        if self.error is not None:
            raise self.error
        return Handle()

    def borrow(self, uri: str = URI, action: str = "poweroff") -> Connection:
        connection = self.connections.borrow(uri, action)
        assert connection is not None
        return connection

    def borrow_open(self, number: int) -> list[Connection]:
        """NUMBER connections, each opened before the next is asked for, by calls that take long."""
        borrowed = []
        for _ in range(number):
            borrowed.append(self.borrow())
            self.connections.handle(borrowed[-1])
        return borrowed


def handle_of(connection: Connection) -> Handle:
    assert isinstance(connection.handle, Handle)
    return connection.handle


@pytest.fixture
def pool() -> Pool:
    return Pool()


def test_no_two_tries_share_one(pool: Pool) -> None:
    borrowed = pool.borrow_open(MOST)
    assert len(set(map(id, borrowed))) == MOST
    pool.connections.give_back(borrowed[7])
    assert pool.borrow() is borrowed[7]


def test_no_more_are_opened_at_a_time_than_are_open(pool: Pool) -> None:
    opened = 0
    for at_once in (2, 2, 4, 8):
        opening = [pool.borrow() for _ in range(at_once)]
        assert pool.connections.borrow(URI, "poweroff") is None
        for connection in opening:
            pool.connections.handle(connection)
        opened += at_once
    assert opened == 16


def test_the_first_login_is_alone_and_its_refusal_is_the_others(pool: Pool) -> None:
    logins: list[str] = []
    begun, go_on = Event(), Event()

    def connect(uri: str) -> Any:
        logins.append(uri)
        begun.set()
        assert go_on.wait(10)
        raise AuthenticationError("connect", "authentication failed")

    pool.opens = connect
    with ThreadPoolExecutor(2) as threads:
        tries = [threads.submit(pool.connections.handle, pool.borrow()) for _ in range(2)]
        assert begun.wait(10)
        go_on.set()
        assert [type(one.exception(10)) for one in tries] == [AuthenticationError] * 2
    assert logins == [URI]


def test_a_login_that_hangs_does_not_keep_the_next_one_for_long(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sanlock_helper.agent.connection_pool.ONE_LOGIN_SECONDS", 0.05)
    begun, go_on = Event(), Event()

    def hang(_uri: str) -> Any:
        begun.set()
        assert go_on.wait(10)
        return Handle()

    pool.opens = hang
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(pool.connections.handle, pool.borrow())
        assert begun.wait(10)
        pool.opens = pool.connect
        assert pool.connections.handle(pool.borrow())
        go_on.set()
        assert first.result(10)


def refuse(pool: Pool) -> None:
    """One login, which is refused."""
    connection = pool.borrow()
    with pytest.raises(AuthenticationError):
        pool.connections.handle(connection)
    pool.connections.retire(connection)
    pool.connections.give_back(connection)


def test_one_login_every_few_seconds_while_they_are_refused(pool: Pool) -> None:
    pool.error = AuthenticationError("connect", "authentication failed")
    assert pool.connections.refusal(URI) is None
    for _ in range(3):
        refuse(pool)
        assert pool.connections.borrow(URI, "poweroff") is None
        pool.now += LOGIN_SECONDS - 0.1
        assert pool.connections.borrow(URI, "poweroff") is None
        refused = pool.connections.refusal(URI)
        assert refused is not None
        assert refused[0] == pytest.approx(pool.now + 0.1)
        pool.now += 0.2
    pool.error = None
    first = pool.borrow()
    # It is not known yet whether this one is let in.
    assert pool.connections.borrow(URI, "poweroff") is None
    pool.connections.handle(first)
    assert pool.connections.borrow(URI, "poweroff") is not None


def test_what_is_open_serves_on_while_a_login_is_refused(pool: Pool) -> None:
    opened = pool.borrow_open(6)
    pool.error = AuthenticationError("connect", "authentication failed")
    refuse(pool)
    assert pool.connections.ahead(URI) is None
    assert pool.connections.borrow(URI, "poweroff") is None
    pool.connections.give_back(opened[0])
    assert pool.connections.borrow(URI, "poweroff") is opened[0]


def test_another_uri_does_not_wait(pool: Pool) -> None:
    pool.borrow()
    pool.borrow()
    assert pool.connections.borrow(URI, "poweroff") is None
    assert pool.connections.borrow("test:///default", "poweroff") is not None


def end_one(pool: Pool, action: str, seconds: float, login: float = 0.0) -> None:
    """A try of ACTION has taken SECONDS after its LOGIN, and ends, with FEW others under way."""
    pool.borrow_open(FEW)
    last = pool.borrow(action=action)
    pool.now += login
    pool.connections.handle(last)
    pool.now += seconds
    pool.connections.give_back(last)
    pool.borrow()


def test_few_serve_quick_tries(pool: Pool) -> None:
    # Many times as long as on a host whose processors are idle.
    end_one(pool, "poweroff", 0.8 * QUICK_SECONDS)
    pool.now += 0.8 * QUICK_SECONDS
    assert pool.connections.borrow(URI, "poweroff") is None
    # Now they hang.
    pool.now += 0.4 * QUICK_SECONDS
    assert pool.connections.borrow(URI, "poweroff") is not None


def test_tries_that_take_long_wait_for_no_other(pool: Pool) -> None:
    end_one(pool, "poweroff", 2 * QUICK_SECONDS)
    assert pool.connections.borrow(URI, "poweroff") is not None


def test_a_login_that_takes_long_makes_no_try_long(pool: Pool) -> None:
    end_one(pool, "poweroff", 0.5 * QUICK_SECONDS, login=2 * QUICK_SECONDS)
    assert pool.connections.borrow(URI, "poweroff") is None


def test_one_that_takes_long_among_quick_ones(pool: Pool) -> None:
    """It had to wait for a processor."""
    quick, late = pool.borrow_open(FEW)[:2]
    pool.now += 0.8 * QUICK_SECONDS
    pool.connections.give_back(quick)
    pool.borrow()
    pool.now += 0.4 * QUICK_SECONDS
    pool.connections.give_back(late)
    pool.borrow()
    assert pool.connections.borrow(URI, "poweroff") is None


def test_a_quick_pause_holds_up_no_poweroff(pool: Pool) -> None:
    end_one(pool, "pause", 0.5 * QUICK_SECONDS)
    assert pool.connections.borrow(URI, "pause") is None
    assert pool.connections.borrow(URI, "poweroff") is not None


def test_some_are_opened_ahead_once_calls_are_slow(pool: Pool) -> None:
    pool.borrow_open(FEW)
    assert pool.connections.ahead(URI) is None
    pool.borrow_open(4)
    ahead = [pool.connections.ahead(URI) for _ in range(5)]
    assert [connection is not None for connection in ahead] == [True] * 4 + [False]
    first, second = ahead[:2]
    assert first is not None
    assert second is not None
    pool.connections.handle(second)
    # The one that is open already comes first.
    assert pool.borrow() is second
    assert pool.borrow() is first


def test_never_more_than_the_bound_ahead(pool: Pool) -> None:
    pool.borrow_open(MOST - 1)
    assert pool.connections.ahead(URI) is not None
    assert pool.connections.ahead(URI) is None


def test_one_that_failed_is_not_handed_out_again(pool: Pool) -> None:
    pool.error = TransientError("connect", "refused")
    connection = pool.borrow()
    with pytest.raises(TransientError):
        pool.connections.handle(connection)
    pool.connections.retire(connection)
    pool.connections.give_back(connection)
    pool.error = None
    again = pool.borrow()
    assert again is not connection
    assert pool.connections.handle(again)


def test_a_refusal_for_good_answers_every_further_try(pool: Pool) -> None:
    pool.error = PermanentError("connect", "wrong password")
    connection = pool.borrow()
    for _ in range(3):
        with pytest.raises(PermanentError):
            pool.connections.handle(connection)
        pool.connections.retire(connection)
        pool.connections.give_back(connection)
        assert pool.borrow() is connection


def test_the_idle_ones_go_with_one_that_libvirtd_ended(pool: Pool) -> None:
    lost, idle, busy = pool.borrow_open(3)
    pool.connections.give_back(idle)
    pool.connections.lost(lost)
    pool.connections.give_back(lost)
    assert pool.borrow() not in (lost, idle, busy)
    # The busy one hears of it by itself; to hear twice does no harm.
    pool.connections.lost(busy)
    pool.connections.lost(busy)


def test_idle_ones_to_other_uris_make_room(pool: Pool) -> None:
    idle, busy = pool.borrow_open(2)
    pool.connections.give_back(idle)
    mine = pool.borrow("qemu:///session")
    pool.connections.handle(mine)
    pool.connections.give_back(mine)
    pool.connections.make_room(mine.uri)
    assert handle_of(idle).closed
    assert not handle_of(busy).closed
    assert not handle_of(mine).closed
    assert pool.borrow(mine.uri) is mine


def test_one_that_cannot_be_closed_does_not_keep_the_others_open(pool: Pool) -> None:
    first, second = pool.borrow_open(2)
    for connection in (first, second):
        pool.connections.give_back(connection)

    def fail() -> None:
        raise RuntimeError("the connection is broken")

    handle_of(first).close = fail  # type: ignore[method-assign]
    start = time.monotonic()
    pool.connections.close()
    assert handle_of(second).closed
    assert time.monotonic() - start < 1


def test_the_end_closes_what_is_open_and_idle(pool: Pool) -> None:
    idle, busy = pool.borrow_open(2)
    pool.connections.give_back(idle)
    pool.connections.close()
    assert handle_of(idle).closed
    assert not handle_of(busy).closed

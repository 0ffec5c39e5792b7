# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's events of guests that stop by an I/O error and go on, over a connection of its own.

What they ask for is done in one thread, which hangs as long as libvirtd does.  What happened while there was
no connection is found in the list of the domains.
"""

from __future__ import annotations

from _queue import Empty, SimpleQueue
from typing import Any, Callable

import libvirt

from ..errors import HelperError
from ..events import Event
from ..threads import NoAnswerError, call_with_timeout
from ..virt import event_loop
from ..virt.connection import failure
from ..virt.domain_state import IO_ERROR_STOP
from .io_errors import NO_SPACE, WRITE_RETRY, IOErrors
from .kept_connections import retry_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..virt.api import VirConnect, VirDomain

# A libvirtd that is away is logged by kept_connections.py: this is for one that takes other connections.
_LOGGED_TRY = 8

# How long QEMU may take to name the disks with an error.
DISK_ERRORS_SECONDS = 5.0

_SUSPENDED = (libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_IOERROR)


class DomainEvents:
    """Listens, and has an IOErrors see to what has happened, in a thread of its own."""

    def __init__(
        self,
        uri: str,
        connect: Callable[[str], VirConnect],
        io_errors: IOErrors,
        report: Callable[[Event], None],
        clock: Callable[[], float],
        start_thread: Callable[[Callable[..., object], tuple[Any, ...]], object],
        on_close: Callable[[], None],
    ) -> None:
        """CONNECT opens URI; ON_CLOSE is called, in another thread, when libvirtd has ended the connection.

        CLOCK is monotonic, in seconds.  START_THREAD starts the one that does the work; raises RuntimeError
        where it cannot be started.
        """
        self._uri = uri
        self._connect = connect
        self._io_errors = io_errors
        self._report = report
        self._clock = clock
        self._on_close = on_close
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._connection: VirConnect | None = None
        self._callbacks: list[int] = []
        self._tries = 0
        # When it connects again, by the clock; None where it need not.
        self.next_try: float | None = None
        self._has_listed = False
        start_thread(self._run, (self._work,))

    def libvirtd_answers(self) -> None:
        """Other connections are open: have one for the events, too; never waits."""
        self._work.put(self._open)

    def _run(self, work: SimpleQueue[Callable[[], None]]) -> None:
        """The thread: does what comes with WORK."""
        while True:
            try:
                call = work.get(timeout=self.seconds_left())
            except Empty:
                call = self.try_again_what_failed
            try:
                call()
            except Exception as error:
                # A defect of ours costs one event.
                self._report(Event("io-errors-not-noted", note=f"internal error: {error!r}"))

    def seconds_left(self) -> float | None:
        """Seconds until something that failed is tried again; None where nothing has."""
        retry = WRITE_RETRY if self._io_errors.retries else None
        if self.next_try is None:
            return retry
        left = max(0.0, self.next_try - self._clock())
        return left if retry is None else min(left, retry)

    def try_again_what_failed(self) -> None:
        """What the thread does once seconds_left() have passed without work."""
        if self.next_try is not None and self._clock() >= self.next_try:
            self._open()
        self._io_errors.try_again()

    # The connection

    def _open(self) -> None:
        """Connect, if there is no connection, and see to what has happened while there was none."""
        if self._connection is not None:
            return
        try:
            connection = self._connection = self._connect(self._uri)
            event_loop.keep(connection, lambda: self._closed(connection))
            self._register(connection)
            self._list(connection)
            self._tries, self.next_try = 0, None
        except (HelperError, libvirt.libvirtError) as error:
            self._close(self._connection)
            self._try_again(error)

    def _try_again(self, error: HelperError | libvirt.libvirtError) -> None:
        self._tries += 1
        seconds = retry_seconds(error, self._tries)
        self.next_try = self._clock() + seconds
        if self._tries == _LOGGED_TRY:
            why = failure("listen", error) if isinstance(error, libvirt.libvirtError) else error
            self._report(Event("io-errors-not-noted", note=why, every=f"{seconds:.0f}"))

    def _closed(self, connection: VirConnect) -> None:
        """libvirtd has ended CONNECTION; in the thread of libvirt's event loop."""
        self._work.put(lambda: self._close(connection))
        self._on_close()

    def _close(self, connection: VirConnect | None) -> None:
        if connection is None or connection is not self._connection:
            return  # it was closed already
        self._connection = None
        # A callback refers to the connection, and would keep it open.
        for number in self._callbacks:
            try:
                connection.domainEventDeregisterAny(number)
            except libvirt.libvirtError:
                pass  # libvirtd has ended the connection; the callback is gone all the same
        self._callbacks = []
        try:
            event_loop.close(connection)
        except libvirt.libvirtError:
            pass

    def _register(self, connection: VirConnect) -> None:
        register = connection.domainEventRegisterAny
        self._callbacks = [
            register(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle, None),
            register(None, libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON, self._io_error, None),
        ]

    def _list(self, connection: VirConnect) -> None:
        flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
        found = connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE, flags)
        is_first, self._has_listed = not self._has_listed, True
        self._io_errors.keep_only({domain.UUIDString() for domain, _ in found})
        for domain, values in found:
            if (values.get("state.state"), values.get("state.reason")) == IO_ERROR_STOP:
                uuid = domain.UUIDString()
                if _lacks_space(domain):
                    self._io_errors.failed(uuid, "", NO_SPACE)
                run = domain.ID()
                self._io_errors.stopped(uuid, domain.name(), run, self._is_still(uuid, run), not is_first)

    def _is_still(self, uuid: str, run: int) -> Callable[[], bool]:
        """What asks libvirtd whether run RUN of domain UUID has still stopped.

        False where it does not answer: the domain is listed once there is a connection again.
        """

        def is_still() -> bool:
            if self._connection is None:
                return False
            try:
                domain = self._connection.lookupByUUIDString(uuid)
                return domain.ID() == run and tuple(domain.state()) == IO_ERROR_STOP
            except libvirt.libvirtError:
                return False

        return is_still

    # Events, in the thread of libvirt's event loop: nothing is asked of libvirtd here

    def _lifecycle(self, _: object, domain: VirDomain, event: int, detail: int, _opaque: object) -> None:
        uuid, name, run = domain.UUIDString(), domain.name(), domain.ID()
        if (event, detail) == _SUSPENDED:
            self._work.put(lambda: self._io_errors.stopped(uuid, name, run, self._is_still(uuid, run)))
        elif event == libvirt.VIR_DOMAIN_EVENT_STOPPED:
            self._work.put(lambda: self._io_errors.forget(uuid))
        elif event == libvirt.VIR_DOMAIN_EVENT_RESUMED:
            self._work.put(lambda: self._io_errors.resumed(uuid))

    def _io_error(
        self, _: object, domain: VirDomain, path: str, alias: str, action: int, reason: str, _opaque: object
    ) -> None:
        """It comes before the domain is reported to be paused."""
        if action == libvirt.VIR_DOMAIN_EVENT_IO_ERROR_PAUSE:
            uuid, disk = domain.UUIDString(), path or alias or ""
            self._work.put(lambda: self._io_errors.failed(uuid, disk, reason or ""))


def _lacks_space(domain: VirDomain) -> bool:
    """Whether a disk of a domain that has stopped has no space left; False where QEMU does not answer."""
    try:
        found = call_with_timeout(domain.diskErrors, DISK_ERRORS_SECONDS)
    except (NoAnswerError, libvirt.libvirtError):
        return False
    return libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE in found.values()

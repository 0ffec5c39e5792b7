# SPDX-License-Identifier: LGPL-2.1-or-later
"""One try of an action on one domain: what it reads, what it changes, and what the tries before have learned.

Success is a state that was read after the call; a state that cannot be read is never "off", and leases that
cannot be read are never "given up".  Where the domain is a QEMU process of this host, that process counts
too: a domain that libvirtd reports as off is off only when its process has ended or holds no lease.
"""

from __future__ import annotations

import libvirt

from ..errors import GivenUpError, HelperError, LeasesUnknownError, TransientError
from ..virt.connection import failure, is_no_domain
from .outcomes import OFF, Outcome
from .requests import Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    # Loaded only for a domain that is a process of this host: see service.make_host().
    from _thread import LockType
    from typing import Any, Callable

    from ..records.record import Record
    from ..virt.api import VirConnect, VirDomain
    from ..virt.local_domains import LocalDomains
    from ..virt.processes import Process
    from .recorder import RecoveryRecorder


# For so long a state is valid that was read while the domain was being prepared.
STATE_SECONDS = 0.5


class Progress:
    """What the tries for one request have learned so far; a later try starts from it.

    A domain's id changes at every start.  The id at first sight names the run that lost its leases: another
    run, started since, holds leases of its own and is not touched.
    """

    __slots__ = (
        "another",
        "calling",
        "did",
        "found",
        "held_before",
        "migrates",
        "moved",
        "name",
        "process",
        "record",
        "record_tried",
        "recorded",
        "run",
        "safe",
        "save_run",
        "start_error",
        "xml",
        "xml_missing",
    )

    def __init__(self, run: int | None = None, save_run: Callable[[int], None] | None = None) -> None:
        """RUN is the id at first sight, where an agent that died since saw it; else SAVE_RUN gets it."""
        self.name = ""
        self.run = run
        # The id of a run that is known to have begun after the request.
        self.another: int | None = None
        self.save_run = save_run
        # The process of the run that lost its leases, where it is proven.
        self.process: Process | None = None
        self.found = ""
        self.did = "nothing to do"
        # Set once the run that lost its leases was found to be over.
        self.safe = False
        # XML of a transient domain, with its secrets: never to be logged.
        self.xml: str | None = None
        # Why there is none, where one is needed.
        self.xml_missing = ""
        # Whether recovery's record was made, or tried to be; the record, and whether it was written.
        self.record_tried = False
        self.record: Record | None = None
        self.recorded = False
        # Whether an earlier try found it paused with its leases still held.
        self.held_before = False
        # Whether an earlier try found it on its way to another host.
        self.migrates = False
        # Whether another host runs it now: then it is neither to be ended nor to be started here.
        self.moved = False
        # Why the one try to start again failed, should the domain not run after it.
        self.start_error = ""
        # The tries that are inside a call which changes the domain.
        self.calling: set[Attempt] = set()

    def is_over(self) -> bool:
        """Whether the run that lost its leases is over, as libvirtd reports it or by its process."""
        try:
            return self.safe or (self.process is not None and self.process.is_over())
        except OSError:
            return False

    @property
    def next(self) -> str:
        """What comes next for a domain that is to be restarted and is not, as the end of a sentence."""
        return "; recovery (virt-sanlock-helper recover) starts it once its leases can be had" * self.recorded

    def set_run(self, run: int) -> None:
        """RUN is the one that lost its leases, unless that is known already."""
        if self.run is None:
            self.run = run
            if self.save_run:
                self.save_run(run)

    def follow(self, earlier: Progress) -> None:
        """Take over what EARLIER, of another action on the same domain, has learned of the same run."""
        if self.run is None and earlier.run is not None:
            self.name, self.process = earlier.name, earlier.process
            self.record_tried, self.record, self.recorded = (
                earlier.record_tried,
                earlier.record,
                earlier.recorded,
            )
            self.set_run(earlier.run)

    def set_ended(self) -> None:
        """The run is over before this try: it was so at first, or an earlier try had no answer."""
        if not self.found:
            self.found = "off"
        elif self.found != "off" and self.did == "nothing to do":
            self.did = "it ended meanwhile"


class Attempt:
    """One try of an action on one domain, over one connection."""

    def __init__(
        self,
        connection: VirConnect,
        request: Request,
        progress: Progress,
        given_up: Callable[[], bool],
        local: LocalDomains | None = None,
        recorder: RecoveryRecorder | None = None,
        await_slot: Callable[[], bool] = lambda: False,
        preparation: LockType | None = None,
    ) -> None:
        """GIVEN_UP returns whether this try is waited for no more.

        LOCAL is what the host knows of its domains, None for a domain that is no QEMU process of this host.
        RECORDER writes what recovery needs.  AWAIT_SLOT returns when the domain may be destroyed, True when
        it has to be read again since that took so long.  PREPARATION is locked while PROGRESS is being
        prepared.
        """
        self.connection = connection
        self.request = request
        self.progress = progress
        self.local = local
        self.recorder = recorder
        self.await_slot = await_slot
        self._given_up = given_up
        self._preparation = preparation
        self._domain: VirDomain | None = None
        # The state as it was read while the domain was being prepared.
        self._state_ahead: tuple[int, int] | None = None

    @property
    def is_known(self) -> bool:
        """Whether lookup() has found the domain."""
        return self._domain is not None

    @property
    def domain(self) -> VirDomain:
        """The domain as lookup() has found it.  Raises ValueError when it has not."""
        if self._domain is None:
            raise ValueError("libvirtd has not been asked for the domain, or does not know it")
        return self._domain

    def lookup(self) -> int | None:
        """Look the domain up.

        Returns its id, -1 when it is not active, None when libvirtd does not know it (any more).  Raises
        PermanentError when libvirtd never knew it and the host does not know it either, TransientError when
        libvirtd does not answer.
        """
        progress, request = self.progress, self.request
        is_first = not self.is_known
        lacking: libvirt.libvirtError | None = None
        try:
            self._domain = self.connection.lookupByUUIDString(request.uuid)
        except libvirt.libvirtError as error:
            lacking = error
        self._await_preparation()
        if lacking is not None:
            if is_no_domain(lacking) and (progress.run is not None or self.local is not None):
                return None
            raise failure("look up the domain", lacking) from lacking
        run: int = self.domain.ID()
        progress.name = progress.name or self.domain.name()
        if run != OFF:
            since = request.deadline.start
            if is_first and self.local and self.local.is_another_run(request.uuid, run, since):
                progress.another = run
            progress.set_run(OFF if run == progress.another else run)
        return run

    def _await_preparation(self) -> None:
        """Return once PROGRESS is prepared, with the state of the domain read meanwhile."""
        preparation = self._preparation
        if preparation is None or not preparation.locked():
            return
        state = None
        if self.is_known:
            try:
                state = self.state()
            except HelperError:
                pass  # read again when it is needed
        if preparation.acquire(timeout=STATE_SECONDS):
            self._state_ahead = state
        else:
            preparation.acquire()
        preparation.release()

    def state(self) -> tuple[int, int]:
        """The domain's virDomainState now and its reason; shut off when libvirtd no longer knows it."""
        if self._state_ahead is not None:
            found, self._state_ahead = self._state_ahead, None
            return found
        try:
            state, reason = self.domain.state()
        except libvirt.libvirtError as error:
            if is_no_domain(error):
                return libvirt.VIR_DOMAIN_SHUTOFF, 0
            raise failure("read the domain's state", error) from error
        return int(state), int(reason)

    def change(self, what: str, did: str, call: Callable[[], Any]) -> None:
        """Make one CALL that changes the domain; DID is the word for it in the journal.

        Raises GivenUpError instead of calling when this try is waited for no more; TransientError or
        PermanentError when the call fails.
        """
        if self._given_up():
            raise GivenUpError(what, "this try was given up")
        self.progress.calling.add(self)
        try:
            call()
        except libvirt.libvirtError as error:
            raise failure(what, error) from error
        finally:
            self.progress.calling.discard(self)
        self.progress.did = did

    def processes(self) -> list[Process]:
        """What may be the process of the run that lost its leases: the proven one, else all that may be."""
        if self.local is None:
            return []
        if self.progress.process is not None:
            return [self.progress.process]
        return self.local.processes(self.request.uuid, self.request.deadline.start)

    def verify_over(self) -> None:
        """Raise TransientError when a process of the run lives on, and does not hold no lease."""
        local = self.local
        for process in self.processes():
            if local is None or process.is_over():
                continue
            what = f"verify that it is off: process {process.pid} of it is still there"
            try:
                held = local.held_by(process)
            except LeasesUnknownError as error:
                raise TransientError(what, f"its leases cannot be read: {error}") from error
            if held:
                raise TransientError(
                    what, f"it holds {', '.join(map(str, held))}, and libvirtd has it as off"
                )

    def outcome(self, verified: str, remark: str = "", reached: bool = True) -> Outcome:
        """The Outcome of a domain that is safe."""
        self.progress.safe = True
        return Outcome(self.progress.found, self.progress.did, verified, remark, reached)

    def lookup_again(self, error: HelperError) -> int | None:
        """Look the domain up again after ERROR; raises ERROR when that fails as well."""
        try:
            return self.lookup()
        except HelperError:
            raise error from None

    def still_runs(self, run: int | None) -> bool:
        """Whether the run that lost its leases is active."""
        progress = self.progress
        return run not in (None, OFF, progress.another) and run == progress.run

    def over(self, run: int | None) -> str:
        """What was verified of a run that is over, by libvirtd's word and by its process.

        Raises TransientError when it is not, or that cannot be verified.
        """
        self.verify_over()
        self.progress.set_run(OFF)
        if run is None and self.progress.name:
            return "off, libvirt no longer knows it"
        if run is None:
            return "off, libvirt does not know it, and no process of this host runs it"
        return "off" if run == OFF else "over, another run was started since"

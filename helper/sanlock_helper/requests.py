# SPDX-License-Identifier: LGPL-2.1-or-later
"""A request: an invocation, and the clock that runs since it came."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .grace import Deadline
    from .invocation import Invocation


class Request:
    """What has to be done to which domain, and until when."""

    __slots__ = ("action", "deadline", "pid", "uri", "uuid")

    def __init__(self, invocation: Invocation, deadline: Deadline) -> None:
        self.uri = invocation.uri
        self.uuid = invocation.uuid
        self.action = invocation.action
        self.pid = invocation.pid
        self.deadline = deadline

    def __str__(self) -> str:
        return f"{self.action} {self.uuid}"

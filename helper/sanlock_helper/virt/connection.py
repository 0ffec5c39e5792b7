# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt with credentials, and its errors sorted: is it worth another try?

Errors are sorted by code and domain, never by text.  What is not listed as permanent is transient: a further
attempt costs nothing while there is time.
"""

from __future__ import annotations

import _thread
import time

import libvirt

import libvirt_auth
from libvirt_auth.files import SYSTEM_FILE

from ..errors import AuthenticationError, HelperError, PermanentError, TransientError
from ..threads import NoAnswerError, call_with_timeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .api import VirConnect

# Another try would meet the same answer.  Codes that an older libvirt-python lacks are left out.
_FINAL_CODES = frozenset(
    getattr(libvirt, name, None)
    for name in (
        "VIR_ERR_NO_SUPPORT",
        "VIR_ERR_NO_CONNECT",
        "VIR_ERR_INVALID_ARG",
        "VIR_ERR_OPERATION_DENIED",
        "VIR_ERR_OPERATION_UNSUPPORTED",
        "VIR_ERR_XML_ERROR",
        "VIR_ERR_NO_DOMAIN",
        "VIR_ERR_ACCESS_DENIED",
        "VIR_ERR_CONFIG_UNSUPPORTED",
        "VIR_ERR_ARGUMENT_UNSUPPORTED",
    )
)
# The login did not work: because of the credentials, of what checks them (SASL's password database, polkit),
# or of the client's files that name them.
_AUTHENTICATION_CODES = frozenset(
    (
        libvirt.VIR_ERR_AUTH_FAILED,
        libvirt.VIR_ERR_AUTH_CANCELLED,
        libvirt.VIR_ERR_AUTH_UNAVAILABLE,
        libvirt.VIR_ERR_CONF_SYNTAX,
    )
)
# A malformed URI is reported as VIR_ERR_INTERNAL_ERROR by libvirt's URI parser (src/util/viruri.c).
_FINAL_DOMAINS = frozenset((libvirt.VIR_FROM_URI,))

_HINTS = {
    libvirt.VIR_ERR_NO_DOMAIN: "see virsh list --all --uuid",
    libvirt.VIR_ERR_NO_CONNECT: "a URI is for example qemu:///system",
    libvirt.VIR_ERR_ACCESS_DENIED: "see access_drivers in virtqemud.conf or libvirtd.conf",
}

# A connection that takes longer to be opened may wait for root's home; and how long that may take to answer.
SLOW_SECONDS = 0.5
ANSWER_SECONDS = 1.0


class _Opening:
    """The connections of this process that are being opened.

    libvirt's client searches for credentials in root's home first, in each login, and waits for as long as
    the disk of that hangs.
    """

    def __init__(self) -> None:
        # When each was begun, by CLOCK_MONOTONIC.
        self._begun: list[float] = []
        self._passes_by_home = False
        # Held by a search in the home that has not come back: there is one at a time.
        self._search = _thread.allocate_lock()

    def begin(self, uri: str, now: float) -> str:
        """One to URI begins NOW: what to open for it.

        Where root's home does not answer that names the file in /etc, in the URI: the environment belongs to
        all threads, and libvirt's client reads it at any time.
        """
        is_doubtful = self._passes_by_home or any(now - begun > SLOW_SECONDS for begun in self._begun)
        self._passes_by_home = passes_by = is_doubtful and not self._answers(uri)
        self._begun.append(now)
        return with_auth_file(uri, SYSTEM_FILE) if passes_by else uri

    def end(self, begun: float) -> None:
        """The one that has BEGUN then is open, or was refused."""
        self._begun.remove(begun)

    def _answers(self, uri: str) -> bool:
        """Whether what libvirt's client searches for its file comes back, and with that the home."""

        def search() -> None:
            try:
                libvirt_auth.find_auth_file(uri)
            finally:
                self._search.release()

        if not self._search.acquire(timeout=ANSWER_SECONDS):
            return False
        try:
            call_with_timeout(search, ANSWER_SECONDS)
        except NoAnswerError:
            return False
        return True


def with_auth_file(uri: str, path: str) -> str:
    """URI with PATH as the file of credentials, which libvirt's client does not pass on.

    Source: virAuthGetConfigFilePathURI() in libvirt src/util/virauth.c, doRemoteOpen() in
    src/remote/remote_driver.c.
    """
    before, mark, fragment = uri.partition("#")
    return f"{before}{'&' if '?' in before else '?'}authfile={path}{mark}{fragment}"


OPENING = _Opening()


def _silent(_context: object, _error: object) -> None:
    """libvirt prints each error to stderr unless a handler is there; this program logs its own."""


libvirt.registerErrorHandler(_silent, None)


def is_local(uri: str) -> bool:
    """Whether the domains of a libvirt URI are QEMU processes of this host."""
    scheme, _, rest = uri.partition(":")
    driver, _, transport = scheme.lower().partition("+")
    server = rest[2:].partition("/")[0] if rest.startswith("//") else ""
    return driver == "qemu" and transport in ("", "unix") and server == ""


def is_embedded(uri: str) -> bool:
    """Whether a libvirt URI is that of the test driver in this process: no daemon, no login, no process."""
    return uri.startswith("test:///")


def is_no_domain(error: libvirt.libvirtError) -> bool:
    """Whether libvirtd knows no domain of that UUID."""
    return bool(error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN)


def is_unsupported(error: libvirt.libvirtError) -> bool:
    """Whether libvirtd cannot do that for this domain as it is now."""
    return bool(error.get_error_code() == libvirt.VIR_ERR_OPERATION_UNSUPPORTED)


def failure(what: str, error: libvirt.libvirtError) -> HelperError:
    """ERROR, met while doing WHAT, as a TransientError, a PermanentError, or its kind AuthenticationError."""
    final = error.get_error_code() in _FINAL_CODES or error.get_error_domain() in _FINAL_DOMAINS
    # The first line only: libvirt quotes QEMU's output, and an event is one line.
    why = (error.get_error_message() or str(error)).strip().split("\n", 1)[0]
    hint = _HINTS.get(error.get_error_code(), "")
    if error.get_error_code() in _AUTHENTICATION_CODES:
        return AuthenticationError(what, why, hint)
    return PermanentError(what, why, hint) if final else TransientError(what, why, hint)


def connect(uri: str) -> VirConnect:
    """Open URI read-write, with credentials from libvirt's auth.conf.  Returns a virConnect.

    Raises PermanentError when the URI is wrong, AuthenticationError when the credentials are refused or
    cannot be had, TransientError when libvirtd does not answer now.  Blocks for as long as libvirtd does.
    """
    what = f"connect to {uri}"
    begun = time.monotonic()
    opened = OPENING.begin(uri, begun)
    try:
        connection: VirConnect = libvirt_auth.open_auth(opened)
    except libvirt_auth.AuthError as error:
        raise AuthenticationError(what, str(error), error.hint) from error
    except libvirt.libvirtError as error:
        raise failure(what, error) from error
    finally:
        OPENING.end(begun)
    return connection

# SPDX-License-Identifier: LGPL-2.1-or-later
"""The parts of a connection URI that choose an authentication file and a group in it.

urllib.parse is not used: it reads query strings differently from libvirt, and its import
costs more than the rest of this package.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


# Drivers inside the client library that ask for credentials themselves, and the service they
# ask for: testConnectAuthenticate(), esxConnectToHost(), hypervConnectOpen(). Their URIs
# have no transport. Everything else is the remote driver's, whose SASL service is "libvirt".
_DRIVERS = {"test": "test", "esx": "esx", "gsx": "esx", "vpx": "esx", "hyperv": "hyperv"}


class URI:
    """A connection URI, split as libvirt's virURIParse() splits it.

    text is trusted to be valid: libvirt itself refuses to connect if it is not.

    scheme      the scheme without its transport: qemu, test, esx
    transport   what follows "+" in the scheme: unix, tls, libssh2; else ""
    server      the host, or None
    parameters  the query string, a list of (name, value)

    Source: src/util/viruri.c and, for the generic syntax, libxml2's xmlParseURI().
    """

    __slots__ = ("parameters", "scheme", "server", "transport")

    def __init__(self, text: str) -> None:
        rest, _, query = text.partition("#")[0].partition("?")
        scheme, _, rest = rest.partition(":")
        self.scheme, _, self.transport = scheme.partition("+")
        authority = rest[2:].partition("/")[0] if rest.startswith("//") else ""
        self.server = _server(authority)
        self.parameters = list(_parameters(query))


def _server(authority: str) -> str | None:
    """Return the host of "[USER@]HOST[:PORT]", without the brackets of an IPv6 address."""
    host = authority.rpartition("@")[2]
    if host.startswith("["):
        return _unescape(host[1:].partition("]")[0])
    return _unescape(host.partition(":")[0]) or None


def _parameters(query: str) -> Iterator[tuple[str, str]]:
    """Yield (name, value) for each parameter, as virURIParseParams() does.

    ";" separates parameters too, but only where no "&" follows.
    """
    *parts, last = query.split("&")
    for part in (*parts, *last.split(";")):
        name, _, value = part.partition("=")
        if name:
            yield _unescape(name), _unescape(value)


def _unescape(text: str) -> str:
    """Decode %XX into file system text; a "%00" ends it, for it becomes a C string."""
    first, *rest = os.fsencode(text).split(b"%")
    found = [first]
    for part in rest:
        try:
            found += (bytes.fromhex(part[:2].decode("ascii")), part[2:])
        except ValueError:
            found += (b"%", part)
    return os.fsdecode(b"".join(found).partition(b"\0")[0])


def service_of(uri: URI) -> str:
    """Return the service whose group applies to uri."""
    # The test driver leaves a URI with a server to the remote driver (localOnly, libvirt.c).
    if uri.transport or (uri.scheme == "test" and uri.server):
        return "libvirt"
    return _DRIVERS.get(uri.scheme, "libvirt")

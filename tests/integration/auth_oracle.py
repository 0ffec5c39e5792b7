# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's own C code for the authentication file, called with ctypes.

The functions are private to libvirt (symbol version LIBVIRT_PRIVATE_*), but exported.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

SYNTAX_ERROR = "syntax error"
REFERENCE_ERROR = "reference error"


class _Uri(ctypes.Structure):
    """The head of struct _virURI in src/util/viruri.h."""

    _fields_ = (
        ("scheme", ctypes.c_char_p),
        ("server", ctypes.c_char_p),
    )


@functools.cache
def library() -> Any:
    """Return libvirt's C library; raises OSError if it, or a function in it, is not there."""
    lib: Any = ctypes.CDLL("libvirt.so.0")
    pointer, string = ctypes.c_void_p, ctypes.c_char_p
    try:
        for name, result, arguments in (
            ("virAuthConfigNewData", pointer, [string, string, ctypes.c_size_t]),
            ("virAuthConfigNew", pointer, [string]),
            (
                "virAuthConfigLookup",
                ctypes.c_int,
                [pointer, string, string, string, ctypes.POINTER(pointer)],
            ),
            ("virAuthConfigFree", None, [pointer]),
            ("virURIParse", ctypes.POINTER(_Uri), [string]),
            ("virURIFree", None, [ctypes.POINTER(_Uri)]),
            (
                "virAuthGetConfigFilePathURI",
                ctypes.c_int,
                [ctypes.POINTER(_Uri), ctypes.POINTER(pointer)],
            ),
            ("virSetErrorFunc", None, [pointer, pointer]),
            ("virInitialize", ctypes.c_int, []),
        ):
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as err:
        raise OSError(str(err)) from err
    assert lib.virInitialize() == 0
    # Errors are expected by the thousand; do not print them.
    lib.quiet = ctypes.CFUNCTYPE(None, pointer, pointer)(lambda _data, _error: None)
    lib.virSetErrorFunc(None, ctypes.cast(lib.quiet, pointer))
    lib.free = ctypes.CDLL(None).free  # g_free() is free() since GLib 2.46
    lib.free.argtypes = [pointer]
    return lib


def _take(lib: Any, value: ctypes.c_void_p) -> bytes | None:
    if value.value is None:
        return None
    data = ctypes.string_at(value)
    lib.free(value)
    return data


def lookups(data: bytes, questions: list[tuple[str, str | None, str]]) -> str | list[object]:
    """Return SYNTAX_ERROR, or for each question REFERENCE_ERROR, None or the value's bytes."""
    lib = library()
    config = lib.virAuthConfigNewData(b"auth.conf", data, len(data))
    if not config:
        return SYNTAX_ERROR
    answers: list[object] = []
    for service, host, name in questions:
        value = ctypes.c_void_p()
        asked = (service.encode(), host if host is None else host.encode(), name.encode())
        if lib.virAuthConfigLookup(config, *asked, ctypes.byref(value)) < 0:
            answers.append(REFERENCE_ERROR)
        else:
            answers.append(_take(lib, value))
    lib.virAuthConfigFree(config)
    return answers


def can_load(path: str) -> bool:
    """Return whether libvirt reads the file path without complaint."""
    lib = library()
    config = lib.virAuthConfigNew(path.encode())
    lib.virAuthConfigFree(config)
    return bool(config)


def find_auth_file(uri: str) -> tuple[str, str | None, str | None] | None:
    """Return (scheme, server, path) for uri in this process's environment, None if invalid."""
    lib = library()
    parsed = lib.virURIParse(uri.encode("utf-8", "surrogateescape"))
    if not parsed:
        return None
    value = ctypes.c_void_p()
    assert lib.virAuthGetConfigFilePathURI(parsed, ctypes.byref(value)) == 0
    path = _take(lib, value)
    scheme, server = parsed.contents.scheme, parsed.contents.server
    lib.virURIFree(parsed)
    return (
        (scheme or b"").decode(),
        None if server is None else server.decode("utf-8", "surrogateescape"),
        None if path is None else path.decode("utf-8", "surrogateescape"),
    )

# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's own parser of its configuration files, called with ctypes.

The functions are private to libvirt (symbol version LIBVIRT_PRIVATE_*), but exported.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterable
from typing import Any, Union

from tests.integration import auth_oracle

REFUSED = "refused"

# A number with its sign's type, as libvirt keeps it: -0 is not 0.
Value = Union[int, bytes, list["Value"]]

_LLONG, _ULLONG, _STRING, _LIST = 1, 2, 3, 4


class _Value(ctypes.Structure):
    """struct _virConfValue in src/util/virconf.h."""


_Value._fields_ = [
    ("type", ctypes.c_int),
    ("next", ctypes.POINTER(_Value)),
    ("number", ctypes.c_longlong),
    ("text", ctypes.c_char_p),
    ("items", ctypes.POINTER(_Value)),
]


@functools.cache
def library() -> Any:
    """libvirt's C library; raises OSError if it, or a function in it, is not there."""
    lib = auth_oracle.library()
    pointer, string = ctypes.c_void_p, ctypes.c_char_p
    try:
        for name, result, arguments in (
            ("virConfReadFile", pointer, [string, ctypes.c_uint]),
            ("virConfGetValue", ctypes.POINTER(_Value), [pointer, string]),
            ("virConfFree", ctypes.c_int, [pointer]),
        ):
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        raise OSError(str(error)) from error
    return lib


def settings(path: str, names: Iterable[str]) -> str | dict[str, Value]:
    """REFUSED, or the value of each of NAMES that the file PATH has."""
    lib = library()
    conf = lib.virConfReadFile(path.encode(), 0)
    if not conf:
        return REFUSED
    found = {}
    for name in names:
        value = lib.virConfGetValue(conf, name.encode())
        if value:
            found[name] = _python(value.contents)
    lib.virConfFree(conf)
    return found


def _python(value: _Value) -> Value:
    if value.type == _STRING:
        return bytes(value.text)
    if value.type != _LIST:
        assert value.type in (_LLONG, _ULLONG)
        return int(value.number)
    items: list[Value] = []
    item = value.items
    while item:
        items.append(_python(item.contents))
        item = item.contents.next
    return items

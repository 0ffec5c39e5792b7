# SPDX-License-Identifier: LGPL-2.1-or-later
"""The GLib that libvirt reads its authentication file with: what it makes of escapes changed.

An invalid escape, such as "\\d", was kept as it is, and a lone backslash at the end of a value dropped. GLib
2.77.3 began to take such a value for none; 2.78 took that back for invalid escapes, and 2.79 did it for good.

Source: g_key_file_parse_value_as_string() in glib/gkeyfile.c, commits 71b7efd0, 4a967276 and 76d77cf6.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# Where no GLib is found, one of today: no value is taken that libvirt would not take.
NEWEST = (2, 99, 0)

_LIBRARY = b"/libglib-2.0.so.0"


class Version:
    """A version of GLib, found out when it is asked for: most files never need it."""

    def __init__(self, read: Callable[[], tuple[int, int, int]] | None = None) -> None:
        self._read = read or loaded_version
        self._found: tuple[int, int, int] | None = None

    def number(self) -> tuple[int, int, int]:
        """Return major, minor and micro."""
        if self._found is None:
            self._found = self._read()
        return self._found

    def keeps_invalid_escapes(self) -> bool:
        """Return whether a backslash with another character than it knows stays as it is."""
        return self.number() < (2, 77, 3) or self.number()[:2] == (2, 78)

    def drops_last_backslash(self) -> bool:
        """Return whether a value may end with a lone backslash, which is dropped."""
        return self.number() < (2, 77, 3)

    def __str__(self) -> str:
        return f"GLib {'.'.join(map(str, self.number()))}"


def loaded_version(maps: str = "/proc/self/maps") -> tuple[int, int, int]:
    """Return the version of the GLib in this process, else of the one that would be loaded.

    The name of the mapped file has it, so that no disk is read: 0.7400.6 is 2.74.6, since libtool's
    version is made of 100 * minor + micro (soversion in glib's meson.build).
    """
    try:
        with open(maps, "rb") as file:
            for line in file:
                _, found, numbers = line.rstrip().partition(_LIBRARY)
                parts = numbers.split(b".")
                # The first part is empty: the name goes on with a dot.
                if found and len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit():
                    return _from_libtool(int(parts[1]), int(parts[2]))
    except OSError:
        pass
    return _asked_version()


def _from_libtool(current: int, age: int) -> tuple[int, int, int]:
    """Return the version whose library is named 0.current.age."""
    minor, micro = divmod(current + age, 100)
    return 2, minor, micro


def _asked_version() -> tuple[int, int, int]:
    # Expensive, and perhaps on a disk that hangs: only for libraries that are named in another way.
    import ctypes

    try:
        library = ctypes.CDLL("libglib-2.0.so.0")
        names = ("glib_major_version", "glib_minor_version", "glib_micro_version")
        major, minor, micro = (ctypes.c_uint.in_dll(library, name).value for name in names)
    except (OSError, ValueError):
        return NEWEST
    return major, minor, micro

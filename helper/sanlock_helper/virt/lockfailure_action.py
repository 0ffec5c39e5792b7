# SPDX-License-Identifier: LGPL-2.1-or-later
"""The on_lockfailure of a domain by its XML, without the modules that read all of that.

The agent that stands reads it of hundreds of domains at a time; inventory.py has the rest of a definition.
"""

from __future__ import annotations

from pyexpat import ExpatError, ParserCreate

# What libvirt takes the want of it for.
DEFAULT = "default"

_TAG, _END = "<on_lockfailure>", "</on_lockfailure>"


def lockfailure_action(xml: str) -> str:
    """One of poweroff, restart, pause, ignore, or DEFAULT where XML, a domain's, has none.

    In a definition as libvirt writes it the element stands before the devices, at its own place: an element
    of that name elsewhere, as in the metadata, is none.
    """
    if _TAG not in xml:
        return DEFAULT
    return _Reader().read(xml[: xml.rfind(_END) + len(_END)])


class _Reader:
    def __init__(self) -> None:
        self._depth = 0
        self._found = ""
        self._parser = parser = ParserCreate("utf-8")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._stop

    def read(self, xml: str) -> str:
        try:
            self._parser.Parse(xml.encode("utf-8", "surrogatepass"), False)
        except ExpatError:
            return DEFAULT
        return self._found or DEFAULT

    def _start(self, name: str, _attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth == 2 and name == "on_lockfailure" and not self._found:
            self._parser.CharacterDataHandler = self._text

    def _text(self, text: str) -> None:
        self._found = text

    def _stop(self, _name: str) -> None:
        self._depth -= 1
        self._parser.CharacterDataHandler = None

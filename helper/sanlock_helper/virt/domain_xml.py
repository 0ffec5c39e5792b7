# SPDX-License-Identifier: LGPL-2.1-or-later
"""The XML of a domain as elements, whatever stands in it: its owner chooses names, texts and metadata.

libvirt's XML is UTF-8, declares no document type, and is no deeper than what libxml2 reads (xmlParserMaxDepth
in its parserInternals.h).  What other programs keep in a domain's metadata is left out but for its outermost
element, so a domain costs what its devices cost.
"""

from __future__ import annotations

from pyexpat import ExpatError, ParserCreate, errors
from xml.etree.ElementTree import Element, TreeBuilder

MAX_DEPTH = 256

# Why what has an attribute twice is none.
TWICE = "no XML: an attribute is there twice"
_TWICE_CODE = errors.codes[errors.XML_ERROR_DUPLICATE_ATTRIBUTE]

_METADATA = "metadata"
# The depth of <metadata> below <domain>, and of an element in it.
_DEPTH, _INSIDE = 2, 3


class XMLError(ValueError):
    """A text is no XML of libvirt's; the message has the reason, and nothing of the text."""


def parse_xml(xml: str | bytes) -> Element:
    """The root element of XML, with namespaces as xml.etree has them.  Raises XMLError."""
    try:
        # Surrogates are bytes that were no UTF-8 before: expat refuses them with their place.
        data = xml.encode("utf-8", "surrogatepass") if isinstance(xml, str) else xml
        return _Reader().read(data)
    except ExpatError as error:
        if error.code == _TWICE_CODE:
            raise XMLError(TWICE) from None
        # Not its own text: that may quote.
        raise XMLError(f"no XML: error {error.code} of expat in line {error.lineno}") from None


class _Reader:
    def __init__(self) -> None:
        # The encoding overrides what the text declares: a codec by another name would be loaded, or fail.
        self._parser = parser = ParserCreate("utf-8", "}")
        self._builder = TreeBuilder()
        self._depth = 0
        self._is_metadata = False
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = _refuse_doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text

    def read(self, data: bytes) -> Element:
        self._parser.Parse(data, True)
        return self._builder.close()

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise XMLError(f"more than {MAX_DEPTH} elements in one another")
        if self._depth == _DEPTH:
            self._is_metadata = name == _METADATA
        if not self._is_left_out():
            found = {_qualified(key): value for key, value in attributes.items()}
            self._builder.start(_qualified(name), found)

    def _end(self, name: str) -> None:
        if not self._is_left_out():
            self._builder.end(_qualified(name))
        self._depth -= 1
        self._is_metadata = self._is_metadata and self._depth >= _DEPTH

    def _text(self, text: str) -> None:
        if not self._is_metadata:
            self._builder.data(text)

    def _is_left_out(self) -> bool:
        return self._is_metadata and self._depth > _INSIDE


def _refuse_doctype(*_: object) -> None:
    # The entities of one may expand without end.
    raise XMLError("it declares a document type")


def _qualified(name: str) -> str:
    return f"{{{name}" if "}" in name else name

# SPDX-License-Identifier: LGPL-2.1-or-later
"""JSON output against the schema that it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

FOLDER = Path(__file__).parents[1] / "packaging/schema"


def validated(text: str, kind: str) -> dict[str, Any]:
    """The document in TEXT, which must be valid for packaging/schema/KIND.json and name that schema."""
    document: dict[str, Any] = json.loads(text)
    schema = json.loads((FOLDER / f"{kind}.json").read_text())
    assert document["schema"] == schema["$id"]
    jsonschema.validate(document, schema, jsonschema.Draft202012Validator)
    return document

"""The JSON Schema of a configuration file, for editors: `python -m gateway.config.jsonschema PATH` writes it.

Generated from the schema that reads the files, so that it cannot say anything else; a test compares the published file with what
comes out here. Patterns let `${VAR}` through anywhere, since an editor cannot know what it will hold.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from gateway.config import schema
from gateway.config.planned import NOT_BUILT
from gateway.config.schema import REQUIRED
from gateway.config.values import DURATION

SHORT_FORMS: Final[dict[str, dict[str, Any]]] = {
    "RateLimit": {"type": "string", "description": "An amount per period, e.g. 600/min."},
    "Target": {"type": "string", "description": "A provider's name; the client's model name is kept."},
    "LearnedLimit": DURATION | {"description": "A limit that stays as it is."},
    "Hedge": {"enum": [False, "off"], "description": "No hedging."},
}
"""What may stand for the mapping of a section."""


def generate() -> dict[str, Any]:
    """Return the schema as plain data."""
    document = schema.Configuration.model_json_schema()
    sections: dict[str, dict[str, Any]] = document["$defs"] | {"Configuration": document}
    for section, keys in REQUIRED.items():
        sections[section.__name__]["required"] = list(keys)
        for key in keys:
            sections[section.__name__]["properties"][key].pop("default", None)
    for section, key in NOT_BUILT:
        described = sections[section.__name__]["properties"][key]
        described["description"] = f"Planned, not built yet: {described['description']}"
    sections["Provider"]["properties"]["base_url"].pop("default", None)
    for described in sections.values():
        described["properties"] = {key: _plain(value) for key, value in described["properties"].items()}
    for name, said in SHORT_FORMS.items():
        whole = dict(sections[name])
        sections[name].clear()
        sections[name]["anyOf"] = [said, whole]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Gateway configuration",
        "description": schema.Configuration.__doc__,
        **{key: value for key, value in document.items() if key not in {"title", "description"}},
    }


def _plain(described: dict[str, Any]) -> dict[str, Any]:
    """Return a key's schema without the title that repeats the key, and without `null`, which no key accepts."""
    plain = {key: value for key, value in described.items() if key != "title" and (key, value) != ("default", None)}
    if {"type": "null"} in plain.get("anyOf", ()):
        choices = [choice for choice in plain.pop("anyOf") if choice != {"type": "null"}]
        plain |= choices[0] if len(choices) == 1 else {"anyOf": choices}
    return plain


def render() -> str:
    """Return the schema as the text of its file."""
    return json.dumps(generate(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m gateway.config.jsonschema PATH")
    Path(sys.argv[1]).write_text(render(), encoding="utf-8")

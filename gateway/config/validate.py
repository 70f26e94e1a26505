"""From plain data to a `Configuration`, every mistake reported in our own words.

pydantic reads the sections and names the place of what it refuses, but its sentences are for programmers and repeat the input,
which may be a secret. So only error types and places are taken from it. What is refused is cut out and the rest is read again,
until it fits: then checks that need a whole configuration can run too, and an operator sees all mistakes in one go.
"""

from __future__ import annotations

import types
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from gateway.config.document import Findings, Path, unknown_key
from gateway.config.schema import REQUIRED, Configuration
from gateway.config.section import sections
from gateway.config.units import Mistake, kind

_EXPECTED: Final = {
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
}


_NOTHING: Final = object()


def _holds(value: Any, step: str | int) -> bool:
    return step in value if isinstance(value, dict) else isinstance(value, list) and isinstance(step, int) and step < len(value)


class Remainder:
    """What is left of the data after cutting, and where each piece of it stood."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self._kept: dict[Path, list[int]] = {}

    def origin(self, path: Path) -> Path:
        """Return where a path of what is left stood in the file."""
        found: Path = ()
        for step in self._written(path):
            found = (*found, self._kept[found][step] if isinstance(step, int) and found in self._kept else step)
        return found

    def there(self, path: Path) -> Path:
        """Return the longest part of the path that leads to something."""
        at: Any = self.data
        written = self._written(path)
        for depth, step in enumerate(written):
            if not _holds(at, step):
                return written[:depth]
            at = at[step]
        return written

    def _written(self, path: Path) -> Path:
        """Return the path without the indexes of lists that were not written: a lone value may stand for the list of it."""
        found: Path = ()
        at: Any = self.data
        for step in path:
            if isinstance(step, int) and at is not _NOTHING and not isinstance(at, list):
                continue
            found = (*found, step)
            at = at[step] if _holds(at, step) else _NOTHING
        return found

    def cut(self, paths: set[Path]) -> None:
        """Take out what stands at these paths, all given as they are before the cut."""
        for path in sorted(paths, reverse=True):  # last first, so that indexes before it stay true
            at: Any = self.data
            for step in path[:-1]:
                at = at[step]
            last = path[-1]
            if isinstance(last, int):
                self._kept.setdefault(self.origin(path[:-1]), list(range(len(at)))).pop(last)
            del at[last]


def validate(data: dict[str, Any], findings: Findings) -> tuple[Configuration, Remainder]:
    """Return what can be read of the configuration; it may be used only if `findings` has no problems in the end."""
    rest = Remainder(data)
    _report_empty(data, (), findings)
    rest.cut({path for path in findings.broken if path and rest.there(path) == path})
    while True:
        configuration, errors = _attempt(rest.data)
        if configuration is not None:
            break
        cut: set[Path] = set()
        for loc, error in errors:
            path = rest.there(loc)
            if error["type"] == "too_short" and error["input"]:
                continue  # said of a list whose elements were refused
            _report(rest, loc, path, error, findings)
            cut.add(path)
        if not cut:
            raise AssertionError([error["type"] for _, error in errors])  # or this would go on for ever
        rest.cut({path for path in cut if not any(path[:depth] in cut for depth in range(len(path)))})
    for path, section in sections(configuration):
        origin = rest.origin(path)
        spot = findings.spots.get(origin)
        if spot is None or spot.raw is not None:  # said by default, or by a bare string
            continue
        for key in REQUIRED.get(type(section), ()):
            if not findings.has((*origin, key)):
                findings.add(origin, f"{key} is missing" + _example(key))
    return configuration, rest


def _example(key: str) -> str:
    return {
        "match": "; `match: {}` takes everything",
        "providers": "; name at least one, e.g. openai: {dialect: openai, base_url: https://api.openai.com/v1}",
    }.get(key, "")


def _report_empty(value: Any, path: Path, findings: Findings) -> None:
    if value is None and findings.sound(path):
        findings.add(path, "is empty: give it a value, or remove the key", at_key=True)
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        _report_empty(item, (*path, key), findings)


def _attempt(data: dict[str, Any]) -> tuple[Configuration | None, list[tuple[Path, dict[str, Any]]]]:
    """Read the data once; errors come as pairs of place and type, so that no exception holding the input survives this call."""
    try:
        return Configuration.model_validate(data), []
    except ValidationError as error:
        return None, [(item["loc"], dict(item)) for item in error.errors(include_url=False, include_input=True)]


def _report(rest: Remainder, loc: Path, path: Path, error: dict[str, Any], findings: Findings) -> None:
    origin = rest.origin(path)
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, Mistake):
        findings.add_mistake(origin, cause)
    elif error["type"] == "extra_forbidden":
        section = _section(Configuration, loc[:-1])
        findings.add(origin, unknown_key(str(loc[-1]), list(section.model_fields)), at_key=True)
    elif error["type"] == "too_short":
        if not findings.filled(origin):
            findings.add(origin, "is empty: name at least one, or remove the key")
    elif expected := _EXPECTED.get(error["type"]):
        findings.add(origin, f"{expected} is expected, not {kind(error['input'])}")
    else:
        findings.add(origin, "is not understood")


def _section(annotation: Any, loc: Path) -> type[BaseModel]:
    """Return the section that a place belongs to, by following the annotations of the schema."""
    while get_origin(annotation) is Annotated or get_origin(annotation) in {Union, types.UnionType}:
        annotation = next(item for item in get_args(annotation) if item is not type(None))
    if not loc:
        found: type[BaseModel] = annotation
        return found
    if get_origin(annotation) is tuple:
        return _section(get_args(annotation)[0], loc[1:])
    if get_origin(annotation) is dict:
        return _section(get_args(annotation)[1], loc[1:])
    return _section(annotation.model_fields[loc[0]].annotation, loc[1:])

"""YAML text to plain data, with the line and column of every value and key.

Separate from the schema because it knows nothing of the gateway: it composes the node tree, builds the data itself and remembers
where each piece stood. That also closes YAML's quiet traps: duplicate keys (the last would win), keys that are not strings (`on:`
is True), unknown tags, several documents, aliases that contain themselves or multiply without end. A date stays the text it was
written as, since nothing here is a date. Everything found wrong is reported at once; only a syntax error ends the reading.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import yaml

from gateway.config.units import Mistake, did_you_mean
from gateway.errors import Problem

Path = tuple[str | int, ...]
"""Where a value stands: keys and list indexes from the top."""

MAX_BYTES: Final = 1024 * 1024
MAX_NODES: Final = 50_000
"""With aliases written out. A real file has some hundred; nine lines of nested aliases make a billion."""
MAX_DEPTH: Final = 32

_SAFE_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CONSTRUCTOR: Final = yaml.constructor.SafeConstructor()
_TAG: Final = "tag:yaml.org,2002:"
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_SENSITIVE: Final = frozenset({"api_key", "key", "token", "headers", "proxy", "base_url"})
"""Values below these keys are never repeated in a message, whatever is wrong with them."""

_NAMING: Final = frozenset({"providers", "policies"})
"""What stands right below these is a name of the operator's choice."""
_LONGEST_NAME: Final = 64
_AFTER_KEY: Final = re.compile(r"[\s:]")


class Spot(NamedTuple):
    """Where one value stands; lines and columns count from 1."""

    line: int
    column: int
    key_line: int
    key_column: int
    raw: str | None
    """The text of a scalar as written, before anything was interpolated."""


class Findings:
    """Everything found wrong in one file, with the means to say where."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.spots: dict[Path, Spot] = {}
        self._problems: dict[tuple[int, int, str, str], Problem] = {}
        self.broken: set[Path] = set()

    def add(self, path: Path, message: str, *, at_key: bool = False) -> None:
        """Report a problem with the value at `path`, or with its key; a path that is not in the file is cut until it is."""
        path = self.known(path)
        spot = self.spots.get(path, Spot(1, 1, 1, 1, None))
        line, column = (spot.key_line, spot.key_column) if at_key else (spot.line, spot.column)
        self.add_at(line, column, message, path)
        self.broken.add(path)

    def add_mistake(self, path: Path, mistake: Mistake) -> None:
        """Report what a reader of `units` and kin refused, in front of it the file's own text where that may be shown."""
        spot = self.spots.get(self.known(path))
        raw = spot.raw if spot else None
        shown = mistake.quote and raw is not None and 0 < len(raw) <= 24 and _SENSITIVE.isdisjoint(path)
        self.add(path, f"{raw}: {mistake.message}" if shown else mistake.message)

    def add_at(self, line: int, column: int, message: str, path: Path = ()) -> None:
        """Report a problem at a place in the text; the same one twice counts once."""
        problem = Problem(self.file, line, column, render(path), message)
        self._problems.setdefault((line, column, problem.path, message), problem)

    def has(self, path: Path) -> bool:
        """Whether the file says something at this path."""
        return path in self.spots

    def filled(self, path: Path) -> bool:
        """Whether the file says something below this path."""
        return any(len(at) > len(path) and at[: len(path)] == path for at in self.spots)

    def sound(self, *paths: Path) -> bool:
        """Whether nothing was found wrong with any of these values, so that conclusions may be drawn from them."""
        return not any(bad[: len(path)] == path for path in paths for bad in self.broken)

    def known(self, path: Path) -> Path:
        """Return the longest part of the path that stands in the file."""
        while path and path not in self.spots:
            path = path[:-1]
        return path

    def line(self, path: Path) -> int:
        """Return the line of the value at this path, or of what contains it."""
        spot = self.spots.get(self.known(path))
        return spot.line if spot else 1

    @property
    def problems(self) -> list[Problem]:
        """All problems in file order."""
        return sorted(self._problems.values(), key=lambda problem: (problem.line, problem.column))


def render(path: Path) -> str:
    """Write a path as people do: `routes[0].targets[1].provider`, without any secret that came to stand where a key belongs.

    To YAML `{api_key:sk-1}` and `{api_key sk-1}` are keys without a value, and so is what stands in braces where a string is meant.
    """
    out = ""
    secret = False
    above: str | int = ""
    for step in path:
        if isinstance(step, int):
            out += f"[{step}]"
        else:
            named = above in _NAMING
            shown = step if named else _AFTER_KEY.split(step, maxsplit=1)[0]
            name = "" if secret else shown[:_LONGEST_NAME]
            out += ("." if out else "") + name + ("…" if name != step else "")
            secret = secret or (step in _SENSITIVE and not named)
        above = step
    return out


def decode(raw: bytes, findings: Findings) -> str | None:
    """Return the text of a file, or None after reporting that it has none."""
    if len(raw) > MAX_BYTES:
        findings.add_at(1, 1, "larger than 1 MiB: this is not a configuration")
        return None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line = before.count(b"\n") + 1
        findings.add_at(line, error.start - before.rfind(b"\n"), "not UTF-8")
        return None


def read(text: str, findings: Findings) -> dict[str, Any] | None:
    """Return the top-level mapping and fill `findings.spots`, or None where there is nothing to go on with."""
    if bad := _CONTROL.search(text):
        before = text[: bad.start()]
        findings.add_at(before.count("\n") + 1, bad.start() - before.rfind("\n"), "a control character does not belong here")
        return None
    try:
        node = yaml.compose(text, Loader=_SAFE_LOADER)
    except yaml.MarkedYAMLError as error:
        _report_syntax(error, text, findings)
        return None
    except (yaml.YAMLError, RecursionError):
        findings.add_at(1, 1, "not readable as YAML")
        return None
    if node is None or (isinstance(node, yaml.ScalarNode) and node.tag == f"{_TAG}null"):
        findings.add_at(1, 1, "the file is empty; `gateway init` writes one to start from")
        return None
    if not isinstance(node, yaml.MappingNode):
        findings.add_at(*_place(node), "the file must hold a mapping, with keys such as `providers:` and `routes:`")
        return None
    try:
        data = _Builder(findings).value(node, (), None, ())
    except _TooMuchError as error:
        findings.add_at(*_place(error.node), error.message)
        return None
    return data if isinstance(data, dict) else None


def _place(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _report_syntax(error: yaml.MarkedYAMLError, text: str, findings: Findings) -> None:
    """Say what the parser says, without the piece of the text it would show."""
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    lines = text.splitlines()
    here = lines[line - 1][column - 1 :] if line <= len(lines) else ""
    if here.startswith("\t"):
        message = "a tab cannot indent in YAML: use spaces"
    elif here[:1] in {"@", "`", "%"}:
        message = f"a value cannot begin with {here[0]}: put it in quotes"
    elif "another document" in (error.problem or ""):
        message = "only one YAML document per file"
    else:
        message = f"not valid YAML: {error.problem or 'unreadable'}"
        if error.context and error.context_mark:
            message += f" {error.context}, begun in line {error.context_mark.line + 1}"
    findings.add_at(line, column, message)


class _TooMuchError(Exception):
    def __init__(self, node: yaml.Node, message: str) -> None:
        super().__init__(message)
        self.node = node
        self.message = message


_SCALARS: Final[dict[str, Callable[[yaml.ScalarNode], Any]]] = {
    f"{_TAG}str": lambda node: node.value,
    f"{_TAG}value": lambda node: node.value,
    f"{_TAG}timestamp": lambda node: node.value,
    f"{_TAG}null": lambda _: None,
    f"{_TAG}bool": _CONSTRUCTOR.construct_yaml_bool,
    f"{_TAG}int": _CONSTRUCTOR.construct_yaml_int,
    f"{_TAG}float": _CONSTRUCTOR.construct_yaml_float,
}


class _Builder:
    """Walks the node tree once, aliases written out."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._nodes = 0

    def value(self, node: yaml.Node, path: Path, key: yaml.Node | None, above: tuple[int, ...]) -> Any:
        """Build the value of a node, noting where it stands; `above` are the ids of the nodes it is inside of."""
        self._count(node)
        if id(node) in above:
            raise _TooMuchError(node, "an alias contains itself")
        if len(above) > MAX_DEPTH:
            raise _TooMuchError(node, "nested too deeply")
        line, column = _place(node)
        key_line, key_column = _place(key) if key is not None else (line, column)
        raw = node.value if isinstance(node, yaml.ScalarNode) else None
        self._findings.spots[path] = Spot(line, column, key_line, key_column, raw)
        above = (*above, id(node))
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, path, above)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self.value(item, (*path, index), None, above) for index, item in enumerate(node.value)]
        build = _SCALARS.get(node.tag) if isinstance(node, yaml.ScalarNode) else None
        if build is None or not isinstance(node, yaml.ScalarNode):
            # A value that begins with an exclamation mark is a tag to YAML, and may be a password to its author.
            tag = f"the tag {node.tag.replace(_TAG, '!!')}" if _SENSITIVE.isdisjoint(path) else "a tag"
            self._findings.add(path, f"{tag} has no meaning here: remove it")
            return None
        try:
            return build(node)
        except (ValueError, KeyError):
            self._findings.add(path, "does not fit its YAML tag: put it in quotes")
            return None

    def _mapping(self, node: yaml.MappingNode, path: Path, above: tuple[int, ...]) -> dict[str, Any]:
        entries = self._entries(node, path, above)
        return {name: self.value(value, (*path, name), key, above) for name, (key, value) in entries.items()}

    def _entries(self, node: yaml.MappingNode, path: Path, above: tuple[int, ...]) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Return key and value nodes by key: the mapping's own, then what `<<: *anchor` adds to them."""
        entries: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: list[yaml.Node] = []
        for key, value in node.value:
            self._count(key)
            line, column = _place(key)
            if key.tag == f"{_TAG}merge":
                merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
            elif not isinstance(key, yaml.ScalarNode) or key.tag not in {f"{_TAG}str", f"{_TAG}value"}:
                shown = f" {key.value}" if isinstance(key, yaml.ScalarNode) and len(key.value) <= 24 else ""
                self._findings.add_at(line, column, f"the key{shown} is not a string: put it in quotes", path)
            elif key.value in entries:
                first = _place(entries[key.value][0])[0]
                self._findings.add_at(line, column, f"duplicate key; the first is in line {first}", (*path, key.value))
            else:
                entries[key.value] = (key, value)
        for source in merged:
            if not isinstance(source, yaml.MappingNode):
                self._findings.add_at(*_place(source), "`<<` takes a mapping or a list of mappings", path)
            elif id(source) in above:
                raise _TooMuchError(source, "an alias contains itself")
            else:
                for name, entry in self._entries(source, path, (*above, id(source))).items():
                    entries.setdefault(name, entry)
        return entries

    def _count(self, node: yaml.Node) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _TooMuchError(node, "too large with its aliases written out")


def unknown_key(name: str, known: list[str]) -> str:
    """Say that a key is not known, and what may have been meant."""
    return f"unknown key{did_you_mean(name, known) or '; known here: ' + ', '.join(known)}"

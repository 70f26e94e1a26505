"""What stands in a file instead of a secret: `${VAR}` and kin, `os.environ/KEY`, `file:/path`, and how they are filled in.

Interpolation works inside string values after the YAML is parsed, never on raw text: a key that contains `: ` or a quote cannot
change the document's structure, and line numbers stay true. The syntax is that of Docker Compose: `${VAR}`, `${VAR:-default}`,
`${VAR:?message}`, `$$` for a dollar sign; what a variable holds is never interpolated again. No sentence written here repeats a
value, only names of variables and files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from gateway.config.document import Findings, Path
from gateway.config.snapshot import Secret
from gateway.config.units import Mistake, text

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_MIGRANT: Final = re.compile(r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)", re.ASCII)
_FILE: Final = "file:"


def interpolate(value: Any, environ: Mapping[str, str], findings: Findings, path: Path = ()) -> Any:
    """Return the data with every string value expanded; what cannot be is reported and left as it was."""
    if isinstance(value, dict):
        return {key: interpolate(item, environ, findings, (*path, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolate(item, environ, findings, (*path, index)) for index, item in enumerate(value)]
    if isinstance(value, str):
        try:
            return expand(value, environ)
        except Mistake as mistake:
            findings.add_mistake(path, mistake)
    return value


def expand(value: str, environ: Mapping[str, str]) -> str:
    """Return one string with its references filled in."""
    if migrant := _MIGRANT.fullmatch(value):
        return _lookup(migrant[1], environ)
    if "$" not in value:
        return value
    return _expand(value, 0, environ, nested=False, wanted=True)[0]


def _expand(value: str, at: int, environ: Mapping[str, str], *, nested: bool, wanted: bool) -> tuple[str, int]:
    """Expand from `at` to the end, or to the brace that closes a nested text; unless `wanted`, only find that end."""
    out: list[str] = []
    while at < len(value):
        char = value[at]
        if nested and char == "}":
            return "".join(out), at
        if value.startswith("$$", at):
            out.append("$")
            at += 2
        elif value.startswith("${", at):
            filled, at = _reference(value, at + 2, environ, wanted=wanted)
            out.append(filled)
        else:
            out.append(char)
            at += 1
    if nested:
        raise Mistake("`${` is never closed by `}`; a dollar sign itself is written `$$`", quote=False)
    return "".join(out), at


def _reference(value: str, at: int, environ: Mapping[str, str], *, wanted: bool) -> tuple[str, int]:
    """Fill in the reference whose name begins at `at`; returns its text and the index behind its brace."""
    name = _NAME.match(value, at)
    if name is None:
        raise Mistake("`${` needs a variable's name; a dollar sign itself is written `$$`", quote=False)
    at = name.end()
    if value.startswith("}", at):
        return (_lookup(name[0], environ) if wanted else ""), at + 1
    operator = value[at : at + 2]
    if operator not in {":-", ":?"}:
        raise Mistake(f"write ${{{name[0]}}}, ${{{name[0]}:-default}} or ${{{name[0]}:?message}}", quote=False)
    found = environ.get(name[0], "")
    rest, end = _expand(value, at + 2, environ, nested=True, wanted=wanted and not found)
    if found or operator == ":-":
        return found or rest, end + 1
    if wanted:
        raise Mistake(f"{name[0]} is not set: {rest}" if rest else f"{name[0]} is not set", quote=False)
    return "", end + 1


def _lookup(name: str, environ: Mapping[str, str]) -> str:
    if name not in environ:
        raise Mistake(f"{name} is not set", quote=False)
    return environ[name]


def secret(value: object) -> Secret:
    """Read a key: the key itself, or `file:` and the absolute path of a file that holds it."""
    written = _written(value)
    try:
        if written.startswith(_FILE):
            return Secret.from_file(_absolute(written))
        return Secret.from_text(written)
    except OSError as error:
        raise Mistake(f"the secret's file cannot be read: {(error.strerror or 'unknown error').lower()}", quote=False) from None
    except ValueError as error:
        raise Mistake(str(error), quote=False) from None


def optional_secret(value: object) -> Secret | None:
    """Read a key whose absence may be written as an empty string."""
    return None if value == "" else secret(value)


def secret_text(value: object) -> str:
    """Read a string that may stand in a file of its own."""
    written = _written(value)
    return secret(written).reveal() if written.startswith(_FILE) else written


def _written(value: object) -> str:
    try:
        return text(value)
    except Mistake as mistake:
        raise Mistake(mistake.message, quote=False) from None


def _absolute(written: str) -> str:
    path = written.removeprefix(_FILE)
    if not path.startswith("/"):
        raise Mistake("write the absolute path of the secret's file, e.g. file:/run/secrets/openai", quote=False)
    return path

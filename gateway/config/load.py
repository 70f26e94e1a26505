"""A configuration file to a snapshot, or everything that is wrong with it.

The one way in: read the text, fill in `${VAR}`, read the sections, check what is between them, compile. Each step goes on with what
the step before could make sense of, so that `gateway check` needs to be run once and not once per mistake.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from gateway.config import document, planned
from gateway.config.checks import check
from gateway.config.compile import compile_snapshot
from gateway.config.document import Findings
from gateway.config.secrets import interpolate
from gateway.config.snapshot import Snapshot
from gateway.config.validate import validate
from gateway.errors import ConfigError, Problem


def load(path: str | Path, environ: Mapping[str, str]) -> Snapshot:
    """Read a file; raises ConfigError with every problem found in it, in file order."""
    findings = Findings(str(path))
    try:
        with Path(path).open("rb") as file:
            raw = file.read(document.MAX_BYTES + 1)
    except OSError as error:
        message = f"cannot be read: {(error.strerror or 'unknown error').lower()}"
        raise ConfigError([Problem(str(path), 0, 0, "", message)]) from None
    text = document.decode(raw, findings)
    return _load(text, findings, environ, ())


def load_text(text: str, *, file: str, environ: Mapping[str, str], notes: tuple[str, ...] = ()) -> Snapshot:
    """Read a configuration's text; `file` names it in problems, `notes` go in front of the snapshot's own."""
    return _load(text, Findings(file), environ, notes)


def _load(text: str | None, findings: Findings, environ: Mapping[str, str], notes: tuple[str, ...]) -> Snapshot:
    data = document.read(text, findings) if text is not None else None
    if text is None or data is None:
        raise ConfigError(findings.problems)
    data = interpolate(data, environ, findings)
    configuration, rest = validate(data, findings)
    planned.report(configuration, rest, findings)
    check(configuration, data, rest, environ, findings)
    if findings.problems:
        raise ConfigError(findings.problems)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return compile_snapshot(configuration, environ=environ, source=findings.file, digest=digest, notes=notes)

"""How this gateway came to be: its request path compiled, or interpreted as it stands in the files."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec


@cache
def build() -> str:
    """Return `compiled` or `interpreted`; the same files, at different speeds."""
    spec = find_spec("gateway.core.exchange")
    return "compiled" if spec is not None and spec.origin is not None and not spec.origin.endswith(".py") else "interpreted"

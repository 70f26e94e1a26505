"""What every section of a configuration file is: closed, frozen, and found again by its path.

Separate from `schema`, which says what the sections hold, so that a part of the file with rules of its own (`quotas`) can have a
module of its own. Defaults go through the readers of their keys like everything else: a default is what an operator would write.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from gateway.config.document import Path


class Section(BaseModel):
    """What all sections of the file have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, arbitrary_types_allowed=True)


def said(default: str, description: str) -> Any:
    """Declare a key by what an operator would write to get its default, so that the default goes through the key's own reader."""
    return Field(default=default, description=description)


def sections(value: Any, path: Path = ()) -> Iterator[tuple[Path, Section]]:
    """Yield every section of a configuration with its path, from the top down."""
    if isinstance(value, Section):
        yield path, value
        for key in type(value).model_fields:
            yield from sections(getattr(value, key), (*path, key))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from sections(item, (*path, key))
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from sections(item, (*path, index))

"""The dialects by the name that a configuration gives them: the one place to enter a new one."""

from __future__ import annotations

from typing import Final

from gateway.dialects.azure import Azure
from gateway.dialects.base import Dialect
from gateway.dialects.openai import OpenAI

DIALECTS: Final[dict[str, Dialect]] = {dialect.name: dialect for dialect in (OpenAI(), Azure())}
"""Stateless, hence shared."""

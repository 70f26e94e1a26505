"""Reading a configuration's text in a test: the snapshot, or the problems as an operator sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from gateway.config.load import load_text
from gateway.config.snapshot import Snapshot
from gateway.errors import ConfigError

ENVIRON = {"OPENAI_API_KEY": "sk-openai-0123456789"}

Read = Callable[..., Snapshot]
Complain = Callable[..., list[str]]


@pytest.fixture(name="read")
def _read() -> Read:
    def read(text: str, environ: Mapping[str, str] = ENVIRON) -> Snapshot:
        return load_text(text, file="g.yaml", environ=environ)

    return read


@pytest.fixture(name="complain")
def _complain(read: Read) -> Complain:
    """What is wrong with a text: one line per problem, without the file's name."""

    def complain(text: str, environ: Mapping[str, str] = ENVIRON) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            read(text, environ)
        return [str(problem).removeprefix("g.yaml:") for problem in caught.value.problems]

    return complain

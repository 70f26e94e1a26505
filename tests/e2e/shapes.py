"""The configurations and requests that most end-to-end tests share."""

from __future__ import annotations

from typing import Any, NoReturn

import openai

from gateway.drill.provider import SimulatedProvider

PROMPT = [{"role": "user", "content": "Tell me something that survives."}]
MODEL = "gpt-4o"


def account(provider: SimulatedProvider, **more: Any) -> dict[str, Any]:
    """How a configuration names a provider with a key of its own."""
    return {"dialect": "openai", "base_url": provider.url, "api_key": f"sk-{provider.name}", **more}


def config(*providers: SimulatedProvider, policy: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A configuration with one route over these providers, in order."""
    names = [provider.name for provider in providers]
    return {
        "providers": {provider.name: account(provider) for provider in providers},
        "routes": [{"name": "all", "match": {}, "targets": names}],
        "policies": {"default": {"backoff": {"base": "10ms", "cap": "20ms"}, **(policy or {})}},
        **more,
    }


def ask(**more: Any) -> dict[str, Any]:
    """The arguments of a chat completion."""
    return {"model": MODEL, "messages": PROMPT, **more}


def said(chunks: list[Any]) -> str:
    """The text of a streamed chat completion."""
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


async def until_error(stream: Any) -> tuple[list[Any], openai.APIError]:
    """Read a stream that is to end in an error; return what came before it, and the error."""
    seen: list[Any] = []
    try:
        while True:
            seen.append(await anext(stream))
    except openai.APIError as error:
        return seen, error
    except StopAsyncIteration:
        _presented_as_whole(seen)


def until_error_sync(stream: Any) -> tuple[list[Any], openai.APIError]:
    """The same for the synchronous SDK."""
    seen: list[Any] = []
    try:
        while True:
            seen.append(next(stream))
    except openai.APIError as error:
        return seen, error
    except StopIteration:
        _presented_as_whole(seen)


def _presented_as_whole(seen: list[Any]) -> NoReturn:
    raise AssertionError(f"a stream that broke ended as if it were whole, after {len(seen)} events")

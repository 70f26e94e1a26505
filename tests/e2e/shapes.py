"""The configurations and requests that most end-to-end tests share."""

from __future__ import annotations

from typing import Any

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

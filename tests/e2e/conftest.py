"""Simulated providers, gateway processes and SDK clients that end with their test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.drill.provider import SimulatedProvider
from tests.e2e.process import Gateway, serving

Start = Callable[..., Awaitable[SimulatedProvider]]
Serve = Callable[..., Awaitable[Gateway]]
SDK = Callable[..., openai.AsyncOpenAI]
SyncSDK = Callable[..., openai.OpenAI]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start a provider: `await start("primary", tokens=3)`."""
    async with AsyncExitStack() as stack:

        async def begin(name: str = "primary", **settings: Any) -> SimulatedProvider:
            provider = SimulatedProvider(name, **settings)
            stack.push_async_callback(provider.stop)
            await provider.start()
            return provider

        yield begin


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Run a gateway: `await serve(config)`; it is ready, and gone after the test."""
    async with AsyncExitStack() as stack:

        async def begin(config: Mapping[str, Any] | str, **settings: Any) -> Gateway:
            return await stack.enter_async_context(serving(tmp_path, config, **settings))

        yield begin


@pytest.fixture
async def sdk() -> AsyncIterator[SDK]:
    """The official asynchronous SDK; without its own retries, so that nothing it would mend stays unseen."""
    async with AsyncExitStack() as stack:

        def connect(gateway: Gateway, **settings: Any) -> openai.AsyncOpenAI:
            client = openai.AsyncOpenAI(**{"base_url": gateway.url, "api_key": "sk-client", "max_retries": 0, **settings})
            stack.push_async_callback(client.close)
            return client

        yield connect


@pytest.fixture
def sync_sdk() -> Iterator[SyncSDK]:
    """The official synchronous SDK; call it with `asyncio.to_thread`, for the providers live in the test's loop."""
    clients: list[openai.OpenAI] = []

    def connect(gateway: Gateway, **settings: Any) -> openai.OpenAI:
        clients.append(openai.OpenAI(**{"base_url": gateway.url, "api_key": "sk-client", "max_retries": 0, **settings}))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()

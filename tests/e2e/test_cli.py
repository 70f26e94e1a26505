"""The commands as a user types them: what they print, where, and with which exit status."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway import __version__
from gateway.build import build
from tests.e2e.process import PATIENCE_S, POLL_S, free_port, rendered, run, running, serving
from tests.e2e.shapes import ask, config

FIVE_MISTAKES = """\
server:
  listen: 127.0.0.1:8080
  timeouts: {header: 10}
providers:
  openai:
    dialect: openai
    base_url: https://api.openai.com/v1
    api_kye: sk-canary
  azure:
    dialect: azur
    base_url: https://res.openai.azure.com
routes:
  - name: chat
    match: {models: ["gpt-4o"]}
    targets: [openai, elsewhere]
    policy: interactive
"""


async def test_check_prints_every_mistake_with_its_place_and_exits_2(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(FIVE_MISTAKES)
    status, out, err = await run("check", str(file))
    assert (status, out) == (2, "")
    lines = err.splitlines()
    assert len(lines) == 5, err
    found = [re.fullmatch(rf"{re.escape(str(file))}:(\d+):(\d+): ([\w.\[\]]+): (.+)", line) for line in lines]
    assert all(found), err
    places = [(int(match[1]), match[3]) for match in found if match]
    assert [line for line, _ in places] == [3, 8, 10, 15, 16]
    assert places[0][1] == "server.timeouts.header"
    assert "did you mean" in lines[1]
    assert "api_key" in lines[1]
    assert "canary" not in err


async def test_check_says_what_it_understood(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("providers: {openai: {dialect: openai, base_url: 'https://api.openai.com/v1', api_key: '${KEY}'}}\n")
    status, out, err = await run("check", str(file), environ={"KEY": "sk-canary"})
    assert (status, err) == (0, "")
    assert "provider openai: https://api.openai.com/v1, openai, 1 key" in out.splitlines()
    assert any(line.startswith("route default: everything -> openai") for line in out.splitlines())
    assert "canary" not in out
    status, out, err = await run("check", str(file))
    assert status == 2
    assert "KEY" in err


@pytest.mark.parametrize("command", ["check", "serve"])
async def test_a_file_that_is_not_there_or_not_yaml_is_an_error_and_no_traceback(tmp_path: Path, command: str) -> None:
    file = tmp_path / "gateway.yaml"
    arguments = (command, str(file)) if command == "check" else (command, "--config", str(file))
    for content in (None, "providers: [unclosed\n", "providers: {}\n"):
        if content is not None:
            file.write_text(content)
        status, out, err = await run(*arguments)
        assert (status, out) == (2, "")
        assert str(file) in err
        assert "Traceback" not in err


async def test_init_writes_a_file_that_loads_and_serves(tmp_path: Path) -> None:
    keys = {"OPENAI_API_KEY": "sk-canary-openai", "GROQ_API_KEY": "sk-canary-groq"}
    file = tmp_path / "gateway.yaml"
    status, out, _ = await run("init", environ=keys, cwd=tmp_path)
    assert status == 0
    assert "gateway serve --config gateway.yaml" in out
    text = file.read_text()
    assert "canary" not in text
    assert (await run("check", str(file), environ=keys))[0] == 0
    status, _, err = await run("init", environ=keys, cwd=tmp_path)
    assert status == 2
    assert "exists already" in err
    assert file.read_text() == text
    assert (await run("init", "-", environ=keys))[1] == text.rstrip("\n")
    assert "127.0.0.1:9901" in text
    ports = {"PORT": str(free_port())}
    async with serving(tmp_path, text.replace("9901", "{admin_port}").replace("${PORT:-8080}", "{port}"), keys | ports) as gateway:
        assert (await gateway.admin("/readyz"))[0] == 200
        said = gateway.process.err.text
        assert re.search(r"route groq: models llama-\*.* -> groq ", said)
        assert re.search(r"route home: everything -> openai ", said)
        assert "canary" not in said


async def test_without_a_file_serve_goes_by_the_environment(free_admin_port: None) -> None:
    port = free_port()
    keys = {"OPENAI_API_KEY": "sk-canary-1", "MISTRAL_API_KEY": "sk-canary-2", "PORT": str(port)}
    async with running("serve", environ=keys) as process:
        await process.err.saying(f"ready: OPENAI_BASE_URL=http://127.0.0.1:{port}/v1")
        said = process.err.text
        assert "OPENAI_API_KEY found: openai serves gpt-*" in said
        assert "MISTRAL_API_KEY found: mistral serves mistral-*" in said
        assert "route mistral: models mistral-*" in said
        assert "no provider stands in for another" in said
        assert "canary" not in said
        assert (await run("health", environ=keys))[:2] == (0, "alive")
        process.signal(signal.SIGINT)
        assert await process.ended() == 0
        assert process.out.text == ""


@pytest.fixture
async def free_admin_port() -> None:
    """Zero configuration has one admin port for everybody on this machine: wait for it."""
    for _ in range(round(PATIENCE_S / POLL_S)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", 9901))
            except OSError:
                await asyncio.sleep(POLL_S)
            else:
                return
    raise AssertionError("somebody keeps the port 9901")


async def test_the_file_may_be_named_by_the_environment(start: Any, tmp_path: Path) -> None:
    primary = await start("primary")
    named = {"GATEWAY_CONFIG": str(tmp_path / "gateway.yaml")}
    async with serving(tmp_path, config(primary), named, "serve") as gateway:
        assert (await run("health", environ=named))[:2] == (0, "alive")
        assert f"configuration: {gateway.config}" in gateway.process.err.text


async def test_health_tells_a_container_whether_the_gateway_is_alive(start: Any, tmp_path: Path) -> None:
    primary = await start("primary", tokens=2000, token_delay_s=0.05)
    settings = {**config(primary), "admin": {"token": "canary-token"}, "server": {"drain": {"delay": "60s"}}}
    proxies = {"http_proxy": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1"}
    async with serving(tmp_path, settings) as gateway:
        asking = ("health", "--config", str(gateway.config))
        assert (await run(*asking, environ=proxies))[:2] == (0, "alive")
        gateway.process.signal(signal.SIGTERM)
        await gateway.until_admin("/readyz", lambda status, _: status == 503)
        # Draining is not being ill: a container must not be killed for it.
        assert (await run(*asking))[0] == 0
    status, out, err = await run(*asking)
    assert (status, out) == (1, "")
    assert err.startswith("not alive: ")
    assert "canary" not in err


async def test_a_taken_port_is_named_and_ends_the_start(start: Any, tmp_path: Path) -> None:
    primary = await start("primary")
    file = tmp_path / "gateway.yaml"
    for what in ("server", "admin"):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            ports = (port, free_port()) if what == "server" else (free_port(), port)
            file.write_text(rendered(config(primary), *ports))
            status, out, err = await run("serve", "--config", str(file))
        assert (status, out) == (2, "")
        assert re.search(rf"cannot listen.*127\.0\.0\.1.*{port}", err), err
        assert "in use" in err
        assert "Traceback" not in err


async def test_a_configuration_with_mistakes_ends_the_start(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(FIVE_MISTAKES)
    status, out, err = await run("serve", "--config", str(file))
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 5
    assert err.startswith(f"{file}:3:")


async def test_the_log_on_stdout_is_json_lines_only_and_the_rest_is_on_stderr(start: Any, serve: Any, sdk: Any) -> None:
    primary = await start("primary")
    digest = hashlib.sha256(b"sk-client").hexdigest()
    gateway = await serve({**config(primary), "clients": [{"name": "team", "key": f"sha256:{digest}"}]})
    await sdk(gateway).chat.completions.create(**ask())
    line = (await gateway.access(1))[0]
    assert (line["client"], line["route"], line["model"], line["status"], line["outcome"]) == ("team", "all", "gpt-4o", 200, "ok")
    assert line["path"] == "/v1/chat/completions"
    assert 0 <= line["overhead_ms"] <= line["duration_ms"]
    assert await gateway.stop() == 0
    assert [json.loads(text)["outcome"] for text in gateway.process.out] == ["ok"]
    assert "ready" in gateway.process.err.text


async def test_a_new_key_comes_with_its_hash_and_the_line_that_lets_it_in(start: Any, serve: Any, sdk: Any, tmp_path: Path) -> None:
    status, out, err = await run("key", "new", "--name", "search-team", cwd=tmp_path)
    assert (status, err) == (0, "")
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240 - an empty directory of this test alone
    named, hashed, line = out.splitlines()
    key, digest = named.split()[1], hashed.split()[1]
    assert re.fullmatch(r"gw-[A-Za-z0-9_-]{43,}", key)
    assert digest == f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"
    (client,) = yaml.safe_load(line)
    assert client == {"name": "search-team", "key": digest}
    gateway = await serve({**config(await start("primary")), "clients": [client]})
    await sdk(gateway, api_key=key).chat.completions.create(**ask())
    assert (await gateway.access(1))[0]["client"] == "search-team"


async def test_every_new_key_is_another_one_whatever_its_client_is_called() -> None:
    answers = [await run("key", "new", *name) for name in ((), ("--name", "2024"), ("--name", "on"))]
    assert [status for status, _, _ in answers] == [0, 0, 0]
    assert [yaml.safe_load(out.splitlines()[2])[0]["name"] for _, out, _ in answers] == ["new-client", "2024", "on"]
    assert len({out.split()[1] for _, out, _ in answers}) == 3


@pytest.mark.parametrize(("arguments", "complaint"), [((), "COMMAND"), (("old",), "old"), (("new", "--name", "a b"), "not a name")])
async def test_a_key_that_nobody_asked_for_properly_is_not_made(arguments: tuple[str, ...], complaint: str) -> None:
    status, out, err = await run("key", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("usage: gateway key")
    assert complaint in err


async def test_the_command_line_explains_itself() -> None:
    assert (await run("--version"))[:2] == (0, f"gateway {__version__} ({build()})")
    status, out, _ = await run("--help")
    assert status == 0
    assert all(command in out for command in ("serve", "init", "check", "key", "demo", "health"))
    status, _, err = await run()
    assert status == 2
    assert "usage: gateway" in err

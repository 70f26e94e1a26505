"""A process and those who steer it: what a reload must not hold against a key, and from when on signals are heard."""

import asyncio
import os
import signal

import pytest

from gateway.config.load import load_text
from gateway.fleet import serve
from gateway.fleet.process import Gateway
from tests.wire.plane import NoAdmin
from tests.wire.upstream_script import moved_time, turns

CONFIG = """
server: {{listen: "127.0.0.1:0"}}
providers: {{one: {{dialect: openai, base_url: "http://127.0.0.1:1/v1", api_key: "file:{path}"}}}}
"""


@moved_time
@pytest.mark.parametrize(("key", "benched"), [("sk-new", 0), ("sk-old", 1)])
async def test_a_reload_lifts_the_bench_of_a_key_whose_file_has_another_one(key, benched, tmp_path):
    path = tmp_path / "key"
    path.write_text("sk-old")
    text = CONFIG.format(path=path)
    gateway = Gateway(lambda: load_text(text, file="test", environ={}), access_log_fd=None)
    gateway._admin = NoAdmin()
    await gateway.start()
    try:
        now = asyncio.get_running_loop().time()
        provider = gateway._registry.providers["one"]
        (state,) = provider.credentials.values()
        state.bench(now)
        path.write_text(key)
        os.utime(path, ns=(1, 1))
        gateway.reload()
        assert provider.benched(now) == benched
    finally:
        await gateway.stop()
        await turns()


def test_whoever_is_told_that_it_is_ready_may_send_a_signal_at_once(monkeypatch, tmp_path):
    (tmp_path / "key").write_text("sk-old")
    text = CONFIG.format(path=tmp_path / "key") + 'admin: {listen: "127.0.0.1:0"}\n'

    def told(_snapshot):
        os.kill(os.getpid(), signal.SIGINT)
        return []

    monkeypatch.setattr(serve, "describe", told)
    assert serve.serve(lambda: load_text(text, file="test", environ={})) == 0

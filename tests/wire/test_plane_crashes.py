"""Faults of our own: whatever raises, wherever, nobody waits for ever because of it, and nothing is left behind."""

import asyncio
import contextlib
from unittest import mock

import pytest

from gateway.core.exchange import Exchange
from gateway.dialects.openai import OpenAI
from gateway.dialects.streams import ChatStream
from gateway.egress import request as request_module
from gateway.egress.answer import Answer
from gateway.egress.body import RequestBody
from gateway.egress.delivery import Delivery
from gateway.egress.driver import Driver
from gateway.ingress import admission as admission_module
from gateway.ingress.callers import Callers
from tests.wire.plane import (
    ANSWER,
    DONE,
    ROLE,
    SSE,
    STOP,
    STREAM_BODY,
    answer,
    chat,
    chunked,
    delta,
    error_of,
    get,
    plane,
    post,
    serving,
    settled,
    whole_request,
)
from tests.wire.upstream_script import both_loops, moved_time, skip, turns

pytestmark = pytest.mark.interpreted

HELLO = delta(content="hello")


class Bug(Exception):
    """Nobody foresaw this."""


@contextlib.contextmanager
def failing_once(owner, name):
    """Let a function raise when it is called first; whoever keeps the loop is told of it, with where it was."""
    real = getattr(owner, name)
    calls = 0

    def wrapper(*args, **settings):
        nonlocal calls
        calls += 1
        if calls == 1:
            raise Bug(name)
        return real(*args, **settings)

    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    with mock.patch.object(owner, name, wrapper):
        yield
    assert calls, f"{name} was never called"
    assert (
        any(isinstance(problem, Bug) and problem.__traceback__ for problem in told) or name == "read_target"
    )  # before anybody is there to tell


BAD = answer(b'{"error": {"message": "boom"}}', status=b"500 Oops")
BEFORE = {
    "judging an error": (OpenAI, "classify", BAD, chat()),
    "reading usage": (OpenAI, "usage", answer(), chat()),
    "reading the head": (Answer, "_read_head", answer(), chat()),
    "choosing a reader": (OpenAI, "stream", SSE + chunked(ROLE, HELLO, STOP, DONE), chat(STREAM_BODY)),
    "reading an event": (ChatStream, "read", SSE + chunked(ROLE, HELLO, STOP, DONE), chat(STREAM_BODY)),
    "deciding after a failure": (Exchange, "failed", BAD, chat()),
    "deciding at the end": (Exchange, "finished", answer(), chat()),
    "deciding at the start": (Exchange, "start", answer(), chat()),
    "sending": (Driver, "_send", answer(), chat()),
    "sending without a body": (Driver, "_send", answer(), get(b"/v1/models")),
    "rendering the head": (request_module, "upstream_head", answer(), chat()),
    "rendering the head without a body": (request_module, "upstream_head", answer(), get(b"/v1/models")),
    "rendering the head of an upload": (request_module, "upstream_head", answer(), post(b"/v1/files", b"x" * 1000)),
    "authenticating": (Callers, "authenticate", answer(), chat()),
    "authenticating without a body": (Callers, "authenticate", answer(), get(b"/v1/models")),
    "reading the body": (admission_module, "read_json", answer(), chat()),
    "reading the address": (admission_module, "read_target", answer(), chat()),
    "keeping the body": (RequestBody, "feed", answer(), chat()),
    "keeping an upload": (RequestBody, "feed", answer(), post(b"/v1/files", b"x" * 1000)),
    "ending the body": (RequestBody, "end", answer(), chat()),
    "making the driver": (admission_module, "Driver", answer(), chat()),
    "making the driver without a body": (admission_module, "Driver", answer(), get(b"/v1/models")),
}


@both_loops
@pytest.mark.parametrize("where", BEFORE)
async def test_what_fails_before_the_answer_began_is_answered_with_a_500(where):
    owner, name, said, request = BEFORE[where]
    async with plane(serving(said)) as stage:
        with failing_once(owner, name):
            response = await stage.ask(request)
        assert (response.status, response.get(b"x-gateway-reason")) == (500, b"internal")
        assert error_of(response)["code"] == "internal"
        assert stage.closed_breakers()
        for record in stage.watch.records:
            assert (record.ending, record.reason) == ("failed", "internal")
        following = await stage.ask(request)
        assert following.status == int(said[9:12])


AFTER = {
    "skimming events": (ChatStream, "skim"),
    "passing bytes on": (Answer, "_events"),
    "deciding at the end": (Exchange, "finished"),
}


@both_loops
@pytest.mark.parametrize("where", AFTER)
async def test_what_fails_in_a_stream_ends_it_in_an_error(where):
    async def script(visit):
        while True:
            await whole_request(visit)
            visit.write(SSE + chunked(ROLE, HELLO, end=False))
            await turns(20)
            visit.write(chunked(STOP, DONE))

    async with plane(script) as stage:
        with failing_once(*AFTER[where]):
            response = await stage.ask(chat(STREAM_BODY))
        assert response.whole
        assert response.body.startswith(ROLE + HELLO)
        assert b'data: {"error"' in response.body
        assert not response.body.endswith(DONE)
        record = await stage.watch.ended_all(1)
        assert (record.ending, record.reason) == ("failed", "internal")
        assert (await stage.ask(chat(STREAM_BODY))).body == ROLE + HELLO + STOP + DONE


@both_loops
async def test_what_fails_while_the_head_is_written_cuts_the_connection():
    async with plane(serving(answer())) as stage:
        with failing_once(Delivery, "_head"):
            client = await stage.connect()
            client.send(chat())
            assert await client.rest() == b""
        assert (await stage.ask(chat())).body == ANSWER


@both_loops
@pytest.mark.parametrize("what", ["began", "attempt_ended", "ended"])
async def test_what_fails_in_observation_costs_no_more_than_its_own_exchange(what):
    async with plane(serving(answer())) as stage:
        with failing_once(type(stage.watch._inner), what):
            response = await stage.ask(chat())
        assert response.status in ({500} if what == "began" else {200})
        await turns(10)
        assert not stage.admission.active
        assert (await stage.ask(chat())).status == 200


@both_loops
async def test_what_fails_when_the_client_leaves_leaves_nothing():
    there = 0

    async def script(visit):
        nonlocal there
        await whole_request(visit)
        there += 1
        await visit.gone()

    async with plane(script) as stage:
        client = await stage.connect()
        with failing_once(Exchange, "client_gone"):
            client.send(chat())
            await settled(lambda: there, above=0)
            client.reset()
            await stage.watch.ended_all(1)
        await stage.quiet()
        assert not stage.admission.active


@moved_time
async def test_what_fails_when_a_timer_rings_is_answered():
    there = 0

    async def script(visit):
        nonlocal there
        await whole_request(visit)
        there += 1
        await visit.gone()

    async with plane(script) as stage:
        client = await stage.connect()
        client.send(chat(STREAM_BODY, b"x-gateway-timeout: 1s"))
        await settled(lambda: there, above=0)
        with failing_once(Exchange, "timer"):
            skip(1.5)
            response = await client.response()
    assert (response.status, error_of(response)["code"]) == (500, "internal")


@both_loops
async def test_a_drain_ends_the_others_too():
    there = 0

    async def script(visit):
        nonlocal there
        await whole_request(visit)
        there += 1
        await visit.gone()

    async with plane(script) as stage:
        clients = [await stage.connect() for _ in range(3)]
        for client in clients:
            client.send(chat())
        await settled(lambda: there, above=2)
        with failing_once(Exchange, "drain"):
            stage.admission.drain()
        statuses = sorted([(await client.response()).status for client in clients])
    assert statuses == [500, 503, 503]

"""Whom a race is run for and against whom, what it may cost, and what of the targets' past it goes by.

Time is pushed by hand; providers write when they are told to.
"""

import asyncio
import gzip

import pytest

from tests.wire.plane import (
    ANSWER,
    BODY,
    SSE,
    STREAM_BODY,
    answer,
    chat,
    chunked,
    get,
    plane,
    post,
    serving,
    whole_request,
)
from tests.wire.test_plane_hedging import ONE, TWO, Slow, begin, hedges, racing, sample, soon
from tests.wire.test_plane_timers import pass_time
from tests.wire.upstream_script import moved_time, turns


class Mostly:
    """A provider that answers at once, until it is told to be slow: then it writes what the test writes."""

    def __init__(self):
        self.next_is_slow = False
        self.there = asyncio.Event()
        self.gone = asyncio.Event()

    async def __call__(self, visit):
        while True:
            try:
                await whole_request(visit)
            except EOFError:
                self.gone.set()
                raise
            if self.next_is_slow:
                self.visit = visit
                self.there.set()
            else:
                visit.write(SSE + chunked(*ONE))


# What is hedged, and what is not.


async def unhedged(stage, request, one, *, seconds=30.0):
    """Send a request that takes long; assert that the second provider hears nothing of it."""
    client = await begin(stage, request, one)
    await pass_time(seconds)
    assert not stage.upstreams[1].visits
    await one.next()
    return await client.response()


@moved_time
@pytest.mark.parametrize("said", [b"off", b"OFF", b" off "])
async def test_a_client_may_decline(said):
    one, log = Slow(SSE + chunked(*ONE)), []
    async with plane(one, serving(SSE + chunked(*TWO), log=log), policy=racing()) as stage:
        response = await unhedged(stage, chat(STREAM_BODY, b"x-gateway-hedge:" + said), one)
        assert hedges(stage) == {}
    assert response.body == b"".join(ONE)


@moved_time
async def test_the_clients_word_on_hedging_stays_here():
    log = []
    async with plane(serving(SSE + chunked(*ONE), log=log), policy=racing()) as stage:
        await stage.ask(chat(STREAM_BODY, b"x-gateway-hedge: off"))
    assert log[0].get(b"x-gateway-hedge") is None


@moved_time
@pytest.mark.parametrize("said", [b"x-gateway-hedge: on", b"x-gateway-hedge:"])
async def test_any_other_word_changes_nothing(said):
    one = Slow(SSE + chunked(*ONE))
    async with plane(one, serving(SSE + chunked(*TWO)), policy=racing()) as stage:
        client = await begin(stage, chat(STREAM_BODY, said), one)
        await pass_time(0.6)
        assert (await client.response()).get(b"x-gateway-provider") == b"two"


PINNED = {
    "stored": b'{"model": "gpt-4o", "stream": true, "input": "hi", "previous_response_id": "resp_1"}',
    "in the background": b'{"model": "gpt-4o", "stream": true, "input": "hi", "background": true}',
    "a file": b'{"model": "gpt-4o", "stream": true, "input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}',
}
FORM = (
    b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--x\r\n'
    b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\n%b\r\n--x--\r\n'
)
NOT_HEDGED = {
    "files": post(b"/v1/files", FORM % b"data", b"Content-Type: multipart/form-data; boundary=x"),
    "a list of files": get(b"/v1/files"),
    "batches": post(b"/v1/batches", b'{"input_file_id": "f"}', b"Content-Type: application/json"),
    "something unknown": post(b"/v1/whatever", BODY, b"Content-Type: application/json"),
    "a stored response": get(b"/v1/responses/resp_1"),
    "no body at all": get(b"/v1/responses"),
    "nobody can read it": chat(gzip.compress(BODY), b"Content-Encoding: gzip"),
    **{f"pinned: {name}": post(b"/v1/responses", body, b"Content-Type: application/json") for name, body in PINNED.items()},
}


@moved_time
@pytest.mark.parametrize("what", NOT_HEDGED)
async def test_what_is_bound_to_an_account_or_no_inference_is_not_hedged(what):
    one = Slow(answer())
    async with plane(one, serving(answer()), policy=racing("after: 500ms, non_stream: on")) as stage:
        response = await unhedged(stage, NOT_HEDGED[what], one)
        record = await stage.watch.ended_all(1)
        assert hedges(stage) == {}
    assert (response.status, record.attempts[0].provider, len(record.attempts)) == (200, "one", 1)


@moved_time
async def test_an_upload_that_is_not_here_yet_is_not_hedged():
    """Larger than what is kept for replay: it goes out while it comes in, and could not be sent twice."""

    class Reading(Slow):
        async def __call__(self, visit):
            await visit.reader.readuntil(b"\r\n\r\n")
            self.there.set()
            await visit.reader.readexactly(len(body))
            visit.write(answer())
            await visit.gone()

    body = FORM % (b"x" * 300_000)
    one = Reading()
    form = b"Content-Type: multipart/form-data; boundary=x"
    request = post(b"/v1/audio/transcriptions", body, form)
    server = "  limits: {replay_bytes: 64KiB}"
    async with plane(one, serving(answer()), server=server, policy=racing("after: 500ms, non_stream: on")) as stage:
        client = await begin(stage, request[:200_000], one)
        await pass_time(5.0)
        client.send(request[200_000:])
        response = await client.response()
        assert not stage.upstreams[1].visits
        assert hedges(stage) == {}
    assert response.get(b"x-gateway-provider") == b"one"


@moved_time
async def test_a_whole_answer_is_hedged_only_where_the_policy_says_so():
    one = Slow(answer())
    async with plane(one, serving(answer()), policy=racing()) as stage:
        assert (await unhedged(stage, chat(), one)).body == ANSWER
        assert hedges(stage) == {}


@moved_time
async def test_of_whole_answers_the_first_complete_one_wins():
    """Half an answer is no content: what counts is when it can be used."""
    one, two = Slow(answer()[:-20], answer()[-20:]), Slow(answer())
    async with plane(one, two, policy=racing("after: 500ms, non_stream: on")) as stage:
        client = await begin(stage, chat(), one)
        await one.next()
        await pass_time(0.6)
        await soon(two.there)
        await two.next()
        response = await client.response()
        await soon(one.gone)
        assert hedges(stage) == {"won": 1}
        assert sample(stage, "gateway_wasted_tokens_total", provider="one") == len(BODY) // 4
    assert (response.body, response.get(b"x-gateway-provider")) == (ANSWER, b"two")


@moved_time
async def test_a_budget_begins_empty_and_is_earned_by_requests():
    one = Mostly()
    async with plane(one, serving(SSE + chunked(*TWO)), policy=racing("after: 500ms, budget: 40%")) as stage:
        assert (await stage.ask(chat(STREAM_BODY))).get(b"x-gateway-provider") == b"one"
        await stage.quiet()
        one.next_is_slow = True
        client = await begin(stage, chat(STREAM_BODY), one)
        await pass_time(0.6)
        assert not stage.upstreams[1].visits
        one.visit.write(SSE + chunked(*ONE))
        await client.response()
        await stage.watch.ended_all(2)
        assert hedges(stage) == {"no_budget": 1}
        one.there.clear()
        again = await begin(stage, chat(STREAM_BODY), one)
        await pass_time(0.6)
        response = await again.response()
        assert hedges(stage) == {"no_budget": 1, "won": 1}
    assert response.get(b"x-gateway-provider") == b"two"


@moved_time
@pytest.mark.parametrize(
    ("targets", "hedged"),
    [
        ("one", b""),
        ("one, {provider: two, model: another}", b""),
        ("one, {provider: two, model: another, hedge: on}", b"another"),
        ("one, {provider: two, only_for: [context_length]}", b""),
    ],
)
async def test_a_race_is_run_between_equals_unless_the_operator_says_otherwise(targets, hedged):
    one = Slow(SSE + chunked(*ONE))
    async with plane(one, serving(SSE + chunked(*TWO)), targets=targets, policy=racing()) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        await pass_time(0.6)
        if not hedged:
            await one.next()
        response = await client.response()
        assert hedges(stage) == ({"won": 1} if hedged else {"no_target": 1})
    assert response.get(b"x-gateway-model") == hedged or b"gpt-4o"
    assert response.get(b"x-gateway-provider") == (b"two" if hedged else b"one")


# What is learned.


@moved_time
async def test_without_a_history_nothing_is_hedged_and_with_one_what_takes_unusually_long_is():
    one = Mostly()
    async with plane(one, serving(SSE + chunked(*TWO)), policy=racing("after: p95, floor: 300ms")) as stage:
        for _ in range(25):
            assert (await stage.ask(chat(STREAM_BODY))).get(b"x-gateway-provider") == b"one"
            await stage.quiet()
        await pass_time(4.0)
        one.next_is_slow = True
        client = await begin(stage, chat(STREAM_BODY), one)
        await pass_time(0.25)
        assert not stage.upstreams[1].visits
        await pass_time(0.1)
        response = await client.response()
        await soon(one.gone)
        assert hedges(stage) == {"won": 1}
    assert response.get(b"x-gateway-provider") == b"two"


@moved_time
async def test_with_too_short_a_history_nothing_is_hedged():
    one = Mostly()
    async with plane(one, serving(SSE + chunked(*TWO)), policy=racing("after: p95, floor: 300ms", "deadline: 100s")) as stage:
        for _ in range(15):
            await stage.ask(chat(STREAM_BODY))
            await stage.quiet()
        await pass_time(4.0)
        one.next_is_slow = True
        client = await begin(stage, chat(STREAM_BODY), one)
        await pass_time(90.0)
        assert not stage.upstreams[1].visits
        await pass_time(11.0)
        assert (await client.response()).status == 504
        assert hedges(stage) == {}


@moved_time
async def test_a_learned_limit_replaces_the_number_once_enough_is_known():
    one = Mostly()
    limits = "{timeouts: {first_token: {learned: p95 x 3, floor: 5s, initially: 100s}}}"
    async with plane(one, serving(SSE + chunked(*TWO)), policy=limits) as stage:
        for _ in range(25):
            await stage.ask(chat(STREAM_BODY))
            await stage.quiet()
        await pass_time(4.0)
        one.next_is_slow = True
        client = await begin(stage, chat(STREAM_BODY), one)
        await pass_time(4.9)
        assert not stage.watch.attempts[25:]
        await pass_time(0.2)
        response = await client.response()
        await soon(one.gone)
    assert response.get(b"x-gateway-provider") == b"two"
    assert response.get(b"x-gateway-trail").startswith(b"one:timeout/5.")


@moved_time
async def test_until_then_the_number_holds():
    slow = Slow()
    limits = "{timeouts: {first_token: {learned: p99 x 3, floor: 5s, initially: 10s}}}"
    async with plane(slow, serving(SSE + chunked(*TWO)), policy=limits) as stage:
        client = await begin(stage, chat(STREAM_BODY), slow)
        await pass_time(9.9)
        await turns(20)
        assert not stage.watch.attempts
        await pass_time(0.2)
        response = await client.response()
    assert response.get(b"x-gateway-trail").startswith(b"one:timeout/10.")

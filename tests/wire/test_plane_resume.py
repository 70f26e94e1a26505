"""`stream.resume` through the whole gateway: however a stream breaks, its client reads one whole answer, or an error inside it.

The streams are made by the same writers as in the tests of splicing, and what the client got is judged by the same check.
"""

import asyncio
import json

import pytest

from gateway.core.plan import Family
from tests.dialects.answers import DONE, chat, chat_usage, chunk, payloads, responses, said, sdk_chat, sdk_responses
from tests.dialects.test_splice import check
from tests.wire.plane import ANSWER, SSE, answer, chunked, event, plane, post, seen, settled, whole_request
from tests.wire.upstream_script import both_loops, moved_time, skip, turns

CHAT_BODY = b'{"model": "gpt-4o", "stream": true, "messages": [{"role": "user", "content": "Go"}]}'
RESPONSES_BODY = b'{"model": "gpt-4o", "stream": true, "input": "Go"}'
JSON_TYPE = b"Content-Type: application/json"
CHAT = post(b"/v1/chat/completions", CHAT_BODY, JSON_TYPE)
RESPONSES = post(b"/v1/responses", RESPONSES_BODY, JSON_TYPE)
ERROR = event({"error": {"message": "The server is overloaded", "type": "server_error", "code": "server_error"}})
PIECES = ["Once", " upon", " a", " time", "."]
TEXT = "".join(PIECES)
REST = [" a", " time", "."]
"""What a target that was given the first two pieces goes on with."""
SEAM = b": gateway resumed on two\n\n"
PLAIN = "one, {provider: two, prefill: plain}"
THREE = "one, {provider: two, prefill: plain}, {provider: three, prefill: plain}"
FAMILIES = {Family.CHAT: (CHAT, chat, 1), Family.RESPONSES: (RESPONSES, responses, 4)}
"""The request, who writes the stream, and how many events come before its text."""
USAGE_ON = "stream_usage: on"


def policy(stream="resume: on", rest="attempts: 4"):
    return f"{{backoff: {{base: 1ms, cap: 2ms}}, stream: {{{stream}}}, {rest}}}"


class Teller:
    """A provider that writes the same to every request, piece by piece, and ends `clean`, `cut`, `reset` or not at all (`linger`)."""

    def __init__(self, *pieces, end="clean", split=False):
        self.pieces, self.end, self.split = pieces, end, split
        self.log = []
        self.written = 0
        self.told = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, visit):
        while True:
            self.log.append(seen(await whole_request(visit)))
            if self.split:
                await visit.write_split(SSE + chunked(*self.pieces))
                continue
            visit.write(SSE)
            for piece in self.pieces:
                if visit.writer.is_closing():
                    # It does not continue what went before, and was let go.
                    return
                visit.write(chunked(piece, end=False))
                self.written += 1
                await turns(3)
                await visit.writer.drain()
            self.told.set()
            if self.end == "clean":
                visit.write(b"0\r\n\r\n")
                continue
            if self.end == "linger":
                await visit.gone()
                self.left.set()
            elif self.end == "reset":
                visit.reset()
            else:
                visit.close()
            return


class Refuser:
    """A provider that answers each request as it is told to, the last way again and again."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.log = []

    async def __call__(self, visit):
        while True:
            self.log.append(seen(await whole_request(visit)))
            visit.write(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])


def broken(family=Family.CHAT, count=2, *, tail=(), end="cut", **more):
    """The first one's stream: so many pieces of the text, and then its end."""
    _, write, before = FAMILIES[family]
    return Teller(*write(PIECES, **more)[: before + count], *tail, end=end)


def follower(family=Family.CHAT, pieces=REST, **more):
    return Teller(*FAMILIES[family][1](pieces, name="two", **more))


def without_comments(body):
    return b"".join(part + b"\n\n" for part in body.split(b"\n\n")[:-1] if not part.startswith(b":"))


def error_in(body):
    """The error that a stream ends in, behind which nothing may come."""
    last = payloads(body)[-1]
    assert isinstance(last, dict)
    assert "[DONE]" not in payloads(body)
    assert body.endswith(b"\n\n")
    return last["error"]


def sample(stage, name, **labels):
    """The sum of a metric's samples with these labels."""
    total = 0.0
    for line in stage.gateway.metrics()[0].decode().splitlines():
        if line.startswith(f"{name}{{") and all(f'{label}="{value}"' in line for label, value in labels.items()):
            total += float(line.rpartition(" ")[2])
    return total


def trail(record):
    return [f"{attempt.provider}:{attempt.verdict}" for attempt in record.attempts]


def kinds(record):
    return [str(attempt.kind) for attempt in record.attempts]


ENDS = {
    "cut": ((), "cut", "stream_broken"),
    "reset": ((), "reset", "stream_broken"),
    "clean end": ((), "clean", "stream_broken"),
    "half an event": ((b'data: {"half',), "clean", "stream_broken"),
    "error event": ((ERROR,), "clean", "server_error"),
    "named error": ((b"event: error\n" + ERROR,), "cut", "server_error"),
    "done": ((DONE,), "clean", "stream_broken"),
    "done, lingering": ((DONE,), "linger", "stream_broken"),
}


@both_loops
@pytest.mark.parametrize("prefill", [True, False], ids=["prefilled", "asked again"])
@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("family", FAMILIES)
async def test_a_stream_that_breaks_goes_on_as_one(family, how, prefill):
    tail, end, fault = ENDS[how]
    first, second = broken(family, tail=tail, end=end), follower(family, REST if prefill else PIECES)
    async with plane(first, second, policy=policy(), targets=PLAIN if prefill else "") as stage:
        client = await stage.connect()
        for served in (1, 2):
            client.send(FAMILIES[family][0])
            response = await client.response()
            assert response.whole
            assert (response.status, response.get(b"x-gateway-provider")) == (200, b"one")
            check(family, without_comments(response.body), TEXT)
            assert response.body.count(SEAM) == 1
            assert said(response.body[: response.body.index(SEAM)]) == "Once upon"
            record = await stage.watch.ended_all(served)
            assert (trail(record), kinds(record)) == ([f"one:{fault}", "two:ok"], ["first", "resume"])
            assert (record.ending, record.saved_by, record.stream_broken) == ("ok", "resume", False)
        assert sample(stage, "gateway_saved_requests_total", by="resume") == 2
        assert sample(stage, "gateway_attempts_total", kind="resume", verdict="ok", provider="two") == 2
        assert sample(stage, "gateway_streams_broken_total", provider="one", recovered="true") == 2
        assert sample(stage, "gateway_streams_broken_total") == 2
        # What one connection asks next has nothing to do with it.
        second.pieces = FAMILIES[family][1](["Hi"], name="one")
        first.pieces, first.end = second.pieces, "clean"
        client.send(FAMILIES[family][0] * 2)
        for _ in range(2):
            assert (await client.response()).body == b"".join(first.pieces)


@moved_time
@pytest.mark.parametrize("family", FAMILIES)
async def test_a_stall_is_resumed_and_the_silent_one_let_go(family):
    first, second = broken(family, end="linger"), follower(family)
    async with plane(first, second, policy=policy(rest="timeouts: {stall: 5s}"), targets=PLAIN) as stage:
        client = await stage.connect()
        client.send(FAMILIES[family][0])
        await client.reader.readuntil(b"upon")
        await first.told.wait()
        await turns(20)
        for _ in range(4):
            skip(2)
            await turns(10)
        await first.left.wait()
        record = await stage.watch.ended_all(1)
        assert (trail(record), record.saved_by) == (["one:stalled", "two:ok"], "resume")
        assert sample(stage, "gateway_streams_broken_total", provider="one", recovered="true") == 1
        rest = await client.reader.readuntil(b"\r\n0\r\n\r\n")
        assert SEAM in rest
        assert b"time" in rest


@both_loops
async def test_every_split_of_the_second_stream_gives_the_same():
    async with plane(broken(), Teller(*chat(REST, name="two"), split=True), policy=policy(), targets=PLAIN) as stage:
        check(Family.CHAT, without_comments((await stage.ask(CHAT)).body), TEXT)


@moved_time
@pytest.mark.parametrize("family", FAMILIES)
async def test_wherever_the_second_stream_is_cut_into_packets_the_client_reads_the_same(family):
    events = b"".join(FAMILIES[family][1](REST, name="two"))
    first, second = broken(family), Teller()
    calm = "breaker: {consecutive: 1000, min_requests: 1000}"
    async with plane(first, second, policy=policy(), targets=PLAIN, provider=calm) as stage:
        client = await stage.connect()
        for at in range(1, len(events), 7 if family is Family.CHAT else 23):
            second.pieces = (events[:at], events[at:])
            client.send(FAMILIES[family][0])
            check(family, without_comments((await client.response()).body), TEXT)


@both_loops
@pytest.mark.parametrize("count", range(len(PIECES) + 1))
@pytest.mark.parametrize("family", FAMILIES)
async def test_wherever_the_first_breaks_the_rest_comes_from_the_second(family, count):
    first = broken(family, count)
    async with plane(first, follower(family, PIECES), policy=policy()) as stage:
        response = await stage.ask(FAMILIES[family][0])
        record = await stage.watch.ended_all(1)
    check(family, without_comments(response.body), TEXT, name="one" if count else "two")
    assert (record.ending, record.saved_by) == ("ok", "resume" if count else "failover")


@moved_time
@pytest.mark.parametrize("family", FAMILIES)
async def test_the_official_sdk_reads_one_answer(family):
    async with plane(broken(family), follower(family), policy=policy(), targets=PLAIN) as stage:
        body = (await stage.ask(FAMILIES[family][0])).body
    if family is Family.CHAT:
        _, whole = sdk_chat(body)
        assert (whole.choices[0].message.content, whole.choices[0].finish_reason, whole.id) == (TEXT, "stop", "chatcmpl-one")
    else:
        assert sdk_responses(body)[-1].response.output_text == TEXT


# -- third ones -------------------------------------------------------------------------------------------------------------------

OTHER = ["Once", " there", " was"]


@both_loops
@pytest.mark.parametrize("third", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
async def test_another_text_is_no_continuation(family, third):
    providers = [broken(family), follower(family, OTHER), Teller(*FAMILIES[family][1](PIECES, name="three"))]
    async with plane(*providers[: 2 + third], policy=policy()) as stage:
        client = await stage.connect()
        client.send(FAMILIES[family][0])
        response = await client.response()
        record = await stage.watch.ended_all(1)
        assert response.whole
        assert b"there" not in response.body
        assert SEAM not in response.body, "nothing of it reached the client"
        if third:
            check(family, without_comments(response.body), TEXT)
            assert response.body.count(b": gateway resumed on three\n\n") == 1
            assert (trail(record), record.saved_by) == (["one:stream_broken", "two:stream_broken", "three:ok"], "resume")
        else:
            assert said(response.body) == "Once upon"
            assert error_in(response.body)["code"] == "no_continuation"
            assert (record.ending, record.reason, record.stream_broken) == ("failed", "stream_broken", True)
        breakers = {target.provider: target.breaker for target in stage.gateway._registry.targets()}
        now = asyncio.get_running_loop().time()
        assert breakers["one"]._window.totals(now)[1] == 1
        assert breakers["two"]._window.totals(now)[1] == 0, "to say something else is no failure"
        client.send(post(b"/v1/chat/completions", CHAT_BODY.replace(b"true", b"false"), JSON_TYPE))
        await client.response()


@both_loops
@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("prefill", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
async def test_a_second_break_is_mended_by_a_third(family, prefill, count):
    write, before = FAMILIES[family][1:]
    second = Teller(*write(REST if prefill else PIECES, name="two")[: before + count + 2 * (not prefill)], end="cut")
    # Prefilled, it got as far as the client has got.
    third = Teller(*write(REST[count:] if prefill else PIECES, name="three"))
    async with plane(broken(family), second, third, policy=policy(), targets=THREE if prefill else "") as stage:
        response = await stage.ask(FAMILIES[family][0])
        record = await stage.watch.ended_all(1)
        check(family, without_comments(response.body), TEXT)
        assert response.body.count(b": gateway resumed on three\n\n") == 1
        assert response.body.count(SEAM) == (1 if count else 0)
        assert trail(record) == ["one:stream_broken", "two:stream_broken", "three:ok"]
        assert kinds(record) == ["first", "resume", "resume"]
        if prefill:
            assert json.loads(third.log[0].body)["messages" if family is Family.CHAT else "input"][-1] == {
                "role": "assistant",
                "content": "".join(PIECES[: 2 + count]),
            }


@both_loops
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "bad", ["refused", "500", "401", "html", "no stream", "large and no stream", "empty stream", "error event"]
)
async def test_one_that_cannot_continue_is_followed_by_one_that_can_or_by_an_error_in_the_stream(family, bad):
    second = {
        "refused": "http://127.0.0.1:9",
        "500": Refuser(answer(b'{"error": {"message": "no"}}', status=b"500 No")),
        "401": Refuser(answer(b'{"error": {"message": "no", "code": "invalid_api_key"}}', status=b"401 No")),
        "html": Refuser(answer(b"<html>", kind=b"text/html")),
        "no stream": Refuser(answer(ANSWER)),
        "large and no stream": Refuser(answer(b'{"choices": "' + b"x" * 9_000_000 + b'"}')),
        "empty stream": Refuser(SSE + chunked()),
        "error event": Refuser(SSE + chunked(ERROR)),
    }[bad]
    third = Teller(*FAMILIES[family][1](REST, name="three"))
    for providers in ([broken(family), second, third], [broken(family), second]):
        async with plane(*providers, policy=policy(), targets=THREE if len(providers) > 2 else PLAIN) as stage:
            response = await stage.ask(FAMILIES[family][0])
            record = await stage.watch.ended_all(1)
        assert (response.status, response.whole) == (200, True)
        if len(providers) > 2:
            check(family, without_comments(response.body), TEXT)
            assert (len(record.attempts), record.ending) == (3, "ok")
        else:
            assert said(response.body) == "Once upon"
            assert error_in(response.body)["code"] in {"stream_broken", "no_continuation", "no_stream"}
            assert (record.ending, record.reason) == ("failed", "stream_broken")


# -- how the second is asked ------------------------------------------------------------------------------------------------------


@moved_time
@pytest.mark.parametrize(
    ("prefill", "added", "flags"),
    [
        ("none", None, b""),
        ("plain", b'{"role":"assistant","content":"Once upon"}', b""),
        ("prefix", b'{"role":"assistant","content":"Once upon","prefix":true}', b""),
        ("prefix_echoed", b'{"role":"assistant","content":"Once upon","prefix":true}', b""),
        (
            "continue_final",
            b'{"role":"assistant","content":"Once upon"}',
            b',"add_generation_prompt":false,"continue_final_message":true',
        ),
    ],
)
async def test_the_request_for_the_rest_is_the_first_one_and_the_beginning(prefill, added, flags):
    repeats = prefill in {"none", "prefix_echoed"}
    first, second = broken(), follower(Family.CHAT, PIECES if repeats else REST)
    targets = f"one, {{provider: two, model: other, prefill: {prefill}}}"
    async with plane(first, second, policy=policy(), targets=targets) as stage:
        response = await stage.ask(CHAT)
    check(Family.CHAT, without_comments(response.body), TEXT)
    assert first.log[0].body == CHAT_BODY
    expected = CHAT_BODY.replace(b"gpt-4o", b"other")
    if added:
        expected = expected[:-2] + b"," + added + b"]" + flags + b"}"
    assert second.log[0].body == expected
    assert second.log[0].get(b"content-length") == str(len(expected)).encode()


def refusing(*answers):
    return Refuser(
        answer(b'{"error": {"message": "The last message must be a user message.", "code": null}}', status=b"400 No"), *answers
    )


@both_loops
@pytest.mark.parametrize("family", FAMILIES)
async def test_a_target_that_refuses_the_beginning_is_asked_without_it_and_remembered(family):
    request, write, _ = FAMILIES[family]
    second = refusing(SSE + chunked(*write(PIECES, name="two")))
    async with plane(broken(family), second, policy=policy(), targets=PLAIN) as stage:
        client = await stage.connect()
        for served in (1, 2):
            client.send(request)
            response = await client.response()
            assert (response.status, response.whole) == (200, True)
            check(family, without_comments(response.body), TEXT)
            assert b"must be" not in response.body
            record = await stage.watch.ended_all(served)
            assert record.ending == "ok"
        assert trail(stage.watch.records[0]) == ["one:stream_broken", "two:caller", "two:ok"]
        assert trail(stage.watch.records[1]) == ["one:stream_broken", "two:ok"]
        assert [b"assistant" in request.body for request in second.log] == [True, False, False]


@moved_time
async def test_a_refusal_of_the_plain_request_is_not_surfaced_either():
    async with plane(broken(), refusing(), policy=policy(), targets=PLAIN) as stage:
        response = await stage.ask(CHAT)
        record = await stage.watch.ended_all(1)
    assert said(response.body) == "Once upon"
    assert error_in(response.body)["code"] == "stream_broken"
    assert b"must be" not in response.body
    assert trail(record) == ["one:stream_broken", "two:caller", "two:caller"]


# -- what is never resumed --------------------------------------------------------------------------------------------------------


def asking(**more):
    return post(b"/v1/chat/completions", json.dumps({**json.loads(CHAT_BODY), **more}).encode(), JSON_TYPE)


CALL = chunk({"tool_calls": [{"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": "{"}}]})
NEVER = {
    "resume off": ("keepalive: 15s", CHAT, []),
    "tool calls": ("resume: on", CHAT, [CALL]),
    "JSON mode": ("resume: on", asking(response_format={"type": "json_object"}), []),
    "structured output": ("resume: on", asking(response_format={"type": "json_schema", "json_schema": {}}), []),
    "two answers": ("resume: on", asking(n=2), []),
    "audio": ("resume: on", asking(modalities=["text", "audio"]), []),
    "probabilities": ("resume: on", asking(logprobs=True), []),
    "completions": ("resume: on", post(b"/v1/completions", CHAT_BODY, JSON_TYPE), []),
    "refusal": ("resume: on", CHAT, [chunk({"refusal": "no"})]),
}


@both_loops
@pytest.mark.parametrize("what", NEVER)
async def test_what_cannot_be_continued_ends_in_an_error(what):
    stream, request, tail = NEVER[what]
    second = follower()
    async with plane(broken(tail=tail), second, policy=policy(stream), targets=PLAIN) as stage:
        response = await stage.ask(request)
        record = await stage.watch.ended_all(1)
        assert sample(stage, "gateway_streams_broken_total", provider="one", recovered="false") == 1
    assert response.whole
    assert response.body.startswith(b"".join([*chat(PIECES)[:3], *tail]))
    assert error_in(response.body)["code"]
    assert (record.ending, record.reason, trail(record)) == ("failed", "stream_broken", ["one:stream_broken"])
    assert second.log == []


@both_loops
@pytest.mark.parametrize("path", ["/v1/images/generations", "/v1/audio/speech"])
async def test_pictures_and_sound_are_not_continued(path):
    content = event({"type": "image_generation.partial_image" if "image" in path else "speech.audio.delta", "b64_json": "AA"})
    second = follower()
    async with plane(Teller(content, end="cut"), second, policy=policy()) as stage:
        response = await stage.ask(post(path.encode(), b'{"model": "gpt-4o", "stream": true}', JSON_TYPE))
    assert error_in(response.body)
    assert second.log == []


@both_loops
async def test_a_request_too_large_to_be_kept_is_not_sent_again():
    big = CHAT_BODY.replace(b"Go", b"x" * 300_000)
    second = follower()
    server = "  limits: {replay_bytes: 64KiB}"
    async with plane(broken(), second, policy=policy(), server=server) as stage:
        response = await stage.ask(post(b"/v1/chat/completions", big, JSON_TYPE))
    assert error_in(response.body)
    assert second.log == []


@moved_time
async def test_what_stands_in_one_account_goes_on_nowhere_else():
    body = RESPONSES_BODY.replace(b'"input"', b'"previous_response_id": "resp_1", "input"')
    second = follower(Family.RESPONSES)
    async with plane(broken(Family.RESPONSES), second, policy=policy()) as stage:
        response = await stage.ask(post(b"/v1/responses", body, JSON_TYPE))
    assert error_in(response.body)
    assert second.log == []


@both_loops
async def test_a_clients_own_key_goes_to_nobody_else():
    second = follower()
    async with plane(broken(), second, policy=policy(), key=False) as stage:
        response = await stage.ask(post(b"/v1/chat/completions", CHAT_BODY, JSON_TYPE, b"Authorization: Bearer sk-mine"))
    assert error_in(response.body)
    assert second.log == []


@both_loops
async def test_without_a_second_target_the_break_is_told_as_ever():
    async with plane(broken(), policy=policy()) as stage:
        response = await stage.ask(CHAT)
        record = await stage.watch.ended_all(1)
    assert response.body.startswith(b"".join(chat(PIECES)[:3]))
    assert error_in(response.body)["code"] == "reset"
    assert len(record.attempts) == 1


@both_loops
@pytest.mark.parametrize("hold", ["", "hold: 10s, "])
async def test_a_whole_stream_passes_byte_for_byte(hold):
    events = [b": ping\n\n", *chat(PIECES, usage=(1, 2)), b": late\n\n"]
    async with plane(Teller(*events), follower(), policy=policy(hold + "resume: on")) as stage:
        response = await stage.ask(CHAT)
        record = await stage.watch.ended_all(1)
    assert response.body == b"".join(events[:-1])
    assert (record.usage, record.usage_partial, record.saved_by) == ((1, 2), False, None)


@both_loops
@pytest.mark.parametrize("end", ["clean", "cut"])
async def test_half_of_a_huge_event_is_followed_by_nothing(end):
    half = chunk({"content": "x" * 3_000_000})[:-500_000]
    second = follower()
    async with plane(broken(tail=[half], end=end), second, policy=policy(), targets=PLAIN) as stage:
        response = await stage.ask(CHAT)
    assert not response.whole
    assert second.log == []


@moved_time
async def test_an_early_break_of_a_stream_that_is_held_back_is_a_failover_and_a_late_one_is_resumed():
    first, second = broken(end="linger"), follower(Family.CHAT, PIECES)
    async with plane(first, second, policy=policy("hold: 2s, resume: on", "timeouts: {stall: 5s}")) as stage:
        client = await stage.connect()
        client.send(CHAT)
        await first.told.wait()
        await turns(20)
        assert stage.watch.records == []
        for _ in range(8):
            skip(1)
            await turns(10)
        check(Family.CHAT, without_comments((await client.response()).body), TEXT)
        record = await stage.watch.ended_all(1)
        assert (trail(record), record.saved_by) == (["one:stalled", "two:ok"], "resume")


@both_loops
async def test_frames_that_are_no_json_are_left_out_and_counted_on_both_sides_of_the_seam():
    noise = b"data: what?\n\n"
    events = chat(PIECES)
    first = Teller(*events[:2], noise, events[2], end="cut")
    second = Teller(noise, *chat(REST, name="two")[:3], noise, *chat(REST, name="two")[3:])
    async with plane(first, second, policy=policy(), targets=PLAIN) as stage:
        response = await stage.ask(CHAT)
        record = await stage.watch.ended_all(1)
    check(Family.CHAT, without_comments(response.body), TEXT)
    assert record.frames_dropped == 3


# -- usage ------------------------------------------------------------------------------------------------------------------------

ASKED = b'{"stream_options":{"include_usage":true},' + CHAT_BODY[1:]
COUNTED = chunk({"content": " upon"}, usage=chat_usage(10, 2))
"""A chunk of a provider that counts as it goes."""


@both_loops
async def test_the_extra_chunk_is_asked_for_and_kept_from_a_client_that_did_not_ask():
    first = Teller(*chat(PIECES, usage=(5, 6)))
    async with plane(first, follower(), policy=policy(), provider=USAGE_ON) as stage:
        response = await stage.ask(CHAT)
        record = await stage.watch.ended_all(1)
    assert first.log[0].body == ASKED
    assert response.body == b"".join(chat(PIECES))
    assert (record.usage, record.usage_partial) == ((5, 6), False)


@both_loops
@pytest.mark.parametrize("hold", ["", "hold: 10s, "])
@pytest.mark.parametrize("more", [{}, {"n": 2}, {"response_format": {"type": "json_object"}}])
async def test_nor_does_it_reach_a_client_whose_stream_could_not_be_resumed(more, hold):
    first = Teller(*chat(PIECES, usage=(5, 6)))
    async with plane(first, follower(), policy=policy(hold + "resume: on"), provider=USAGE_ON) as stage:
        response = await stage.ask(asking(**more))
    assert b"include_usage" in first.log[0].body
    assert response.body == b"".join(chat(PIECES))


@both_loops
@pytest.mark.parametrize("options", [{"include_usage": True}, {"include_usage": False}, None])
async def test_a_client_that_spoke_of_it_is_left_alone(options):
    first = Teller(*chat(PIECES, usage=(5, 6)))
    async with plane(first, follower(), policy=policy(), provider=USAGE_ON) as stage:
        response = await stage.ask(asking(stream_options=options))
    assert json.loads(first.log[0].body)["stream_options"] == options
    assert response.body == b"".join(chat(PIECES, usage=(5, 6)))


@moved_time
@pytest.mark.parametrize("settings", [{"policy": policy("keepalive: 15s"), "provider": USAGE_ON}, {"policy": policy()}])
async def test_where_nobody_needs_it_or_takes_the_question_it_is_not_asked(settings):
    first = Teller(*chat(PIECES, usage=(5, 6)))
    async with plane(first, follower(), **settings) as stage:
        response = await stage.ask(CHAT)
    assert first.log[0].body == CHAT_BODY
    assert response.body == b"".join(chat(PIECES, usage=(5, 6))), "who tells it unasked is passed on"


@both_loops
@pytest.mark.parametrize("asks", [True, False])
async def test_both_parts_are_added_up_and_told_to_who_asked(asks):
    first = Teller(*chat(PIECES)[:2], COUNTED, end="cut")
    second = follower(usage=(12, 3))
    async with plane(first, second, policy=policy(), targets=PLAIN, provider=USAGE_ON) as stage:
        response = await stage.ask(asking(stream_options={"include_usage": True}) if asks else CHAT)
        record = await stage.watch.ended_all(1)
        assert sample(stage, "gateway_tokens_total", type="output") == 5
    assert json.loads(second.log[0].body)["stream_options"] == {"include_usage": True}
    assert (record.usage, record.usage_partial) == ((22, 5), False)
    check(Family.CHAT, without_comments(response.body), TEXT)
    extra = [payload for payload in payloads(response.body) if isinstance(payload, dict) and payload["choices"] == []]
    assert [payload["usage"]["total_tokens"] for payload in extra] == ([27] if asks else [])


@both_loops
@pytest.mark.parametrize("silent", ["first", "second", "both"])
async def test_usage_that_one_part_did_not_report_is_marked(silent):
    first = Teller(*chat(PIECES)[:2], COUNTED if silent == "second" else chat(PIECES)[2], end="cut")
    second = follower(usage=(12, 3) if silent == "first" else None)
    async with plane(first, second, policy=policy(), targets=PLAIN) as stage:
        await stage.ask(asking(stream_options={"include_usage": True}))
        record = await stage.watch.ended_all(1)
    assert record.usage == {"first": (12, 3), "second": (10, 2), "both": None}[silent]
    assert record.usage_partial


# -- clients ----------------------------------------------------------------------------------------------------------------------


class Slow(Teller):
    """One that writes each piece when it is told to."""

    def __init__(self, *pieces):
        super().__init__(*pieces)
        self.asked = asyncio.Event()
        self.go = asyncio.Semaphore(0)

    async def __call__(self, visit):
        self.log.append(seen(await whole_request(visit)))
        self.asked.set()
        writing = asyncio.ensure_future(self._write(visit))
        await visit.gone()
        self.left.set()
        writing.cancel()

    async def _write(self, visit):
        for piece in self.pieces:
            await self.go.acquire()
            visit.write(piece)

    async def next(self, count=1):
        for _ in range(count):
            self.go.release()
        await turns(30)


def slow(*events):
    return Slow(SSE + chunked(events[0], end=False), *[chunked(each, end=False) for each in events[1:]])


@both_loops
@pytest.mark.parametrize("moment", ["asked", "begun", "repeating", "joined"])
async def test_a_client_that_leaves_meanwhile_leaves_nothing_behind(moment):
    second = slow(*chat(PIECES, name="two"))
    async with plane(broken(), second, policy=policy()) as stage:
        client = await stage.connect()
        client.send(CHAT)
        await second.asked.wait()
        await second.next({"asked": 0, "begun": 1, "repeating": 2, "joined": 4}[moment])
        if moment == "joined":
            await client.reader.readuntil(b' a"')
        client.reset()
        await second.left.wait()
        record = await stage.watch.ended_all(1)
        assert (record.ending, trail(record)) == ("client_gone", ["one:stream_broken", "two:cancelled"])


@both_loops
@pytest.mark.parametrize("moment", ["asked", "begun", "repeating", "joined"])
@pytest.mark.parametrize("family", FAMILIES)
async def test_a_shutdown_meanwhile_ends_the_stream_in_an_error(family, moment):
    write, before = FAMILIES[family][1:]
    second = slow(*write(PIECES, name="two"))
    async with plane(broken(family), second, policy=policy()) as stage:
        client = await stage.connect()
        client.send(FAMILIES[family][0])
        await second.asked.wait()
        await second.next({"asked": 0, "begun": before, "repeating": before + 1, "joined": before + 3}[moment])
        if moment == "joined":
            await client.reader.readuntil(SEAM)
        for request in list(stage.admission.active):
            request.drain()
        if moment == "joined":
            assert b'"draining"' in await client.reader.readuntil(b"\r\n0\r\n\r\n")
        else:
            response = await client.response()
            assert response.whole
            assert said(response.body) == "Once upon"
            assert error_in(response.body)["code"] == "draining"
        await second.left.wait()
        record = await stage.watch.ended_all(1)
        assert (record.ending, record.reason, record.stream_broken) == ("failed", "draining", True)


@moved_time
async def test_the_client_is_comforted_while_one_is_sought_and_while_one_repeats():
    second = slow(*chat(PIECES, name="two"))
    comfort = b": keep-alive\n\n"
    async with plane(broken(), second, policy=policy("resume: on, keepalive: 3s")) as stage:
        client = await stage.connect()
        client.send(CHAT)
        await second.asked.wait()
        for count in (0, 1, 1, 1):
            await second.next(count)
            skip(3.1)
            await turns(20)
            await client.reader.readuntil(comfort)
        await second.next(20)
        rest = await client.reader.readuntil(DONE)
        assert SEAM in rest
        assert [payload["choices"][0]["delta"].get("content") for payload in payloads(rest.partition(SEAM)[2])[:3]] == REST
        record = await stage.watch.ended_all(1)
        assert (record.ending, record.usage_partial) == ("ok", True)


@moved_time
async def test_a_client_that_does_not_read_stops_the_second_provider_too():
    block, count = "x" * 65536, 300
    second = Teller(*chat(["Once upon", *[block] * count], name="two"))
    async with plane(broken(), second, policy=policy(rest="timeouts: {stall: 5s}")) as stage:
        client = await stage.connect(receive_buffer=8192)
        client.reader._transport.pause_reading()
        client.send(CHAT)
        assert 10 < await settled(lambda: second.written, above=10) < 200
        for _ in range(5):
            skip(6)
            await turns(5)
        client.reader._transport.resume_reading()
        response = await client.response()
        record = await stage.watch.ended_all(1)
    assert (record.ending, trail(record)) == ("ok", ["one:stream_broken", "two:ok"])
    assert said(response.body) == "Once upon" + block * count


@both_loops
@pytest.mark.parametrize("third", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
async def test_what_comes_in_one_packet_behind_another_text_goes_nowhere(family, third):
    write = FAMILIES[family][1]
    wrong = Teller(b"".join(write(["Else", *OTHER], name="two")))
    providers = [broken(family), wrong, Teller(*write(PIECES, name="three"))]
    async with plane(*providers[: 2 + third], policy=policy()) as stage:
        response = await stage.ask(FAMILIES[family][0])
    if third:
        check(family, without_comments(response.body), TEXT)
    else:
        assert said(response.body) == "Once upon"
        assert error_in(response.body)


@both_loops
async def test_a_stream_that_was_held_back_to_its_end_is_believed():
    events = [*chat(PIECES)[:3], DONE]
    async with plane(Teller(*events), follower(), policy=policy("hold: 10s, resume: on")) as stage:
        response = await stage.ask(CHAT)
    assert response.body == b"".join(events)

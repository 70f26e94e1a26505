"""Requests through the whole gateway: what a provider gets is what the client sent, less what is not for it, plus what is ours."""

import gzip
import hashlib
import json
import random

import pytest

from tests.wire.plane import ANSWER, BODY, CHAT, KEY, Seen, answer, chat, chunked, error_of, get, plane, post, serving
from tests.wire.upstream_script import both_loops, moved_time

MODELS = answer(b'{"object": "list", "data": []}')
CLIENTS = "clients: [{name: team, key: team-key}]"


def boring(request: Seen) -> list[tuple[bytes, bytes]]:
    """Return the headers that are not the gateway's own."""
    own = {b"host", b"authorization", b"via", b"accept-encoding", b"content-length", b"transfer-encoding"}
    return [(name, value) for name, value in request.headers if name.lower() not in own]


@both_loops
async def test_headers_keep_their_case_order_duplicates_and_bytes():
    log: list[Seen] = []
    headers = [
        b"Content-Type: application/json",
        b"X-ODD-case: 1",
        b"x-twice: a",
        b"Accept: */*",
        b"X-Twice: b",
        b"x-obs: caf\xe9 \xff",
    ]
    async with plane(serving(answer(), log=log)) as stage:
        response = await stage.ask(post(CHAT, BODY, *headers))
    assert response.status == 200
    assert boring(log[0]) == [tuple(header.split(b": ")) for header in headers]


@moved_time
async def test_whitespace_around_a_value_is_not_part_of_it():
    log: list[Seen] = []
    async with plane(serving(answer(), log=log)) as stage:
        await stage.ask(chat(BODY, b"X-Padded: \t a b \t ", b"X-Empty:"))
    assert (log[0].get(b"x-padded"), log[0].get(b"x-empty")) == (b"a b", b"")


@moved_time
async def test_hop_by_hop_headers_and_those_named_by_connection_end_at_the_gateway():
    log: list[Seen] = []
    hops = [
        b"Connection: keep-alive, X-Secret-Hop , x-other-hop",
        b"X-Secret-Hop: 1",
        b"x-OTHER-hop: 2",
        b"Keep-Alive: timeout=5",
        b"TE: trailers",
        b"Trailer: X-Sum",
        b"Proxy-Authorization: Basic abc",
        b"Proxy-Connection: keep-alive",
        b"Upgrade: websocket",
        b"Connection: x-third-hop",
        b"X-Third-Hop: 3",
        b"X-Stays: 4",
    ]
    async with plane(serving(answer(), log=log)) as stage:
        await stage.ask(chat(BODY, *hops))
    assert boring(log[0]) == [(b"Content-Type", b"application/json"), (b"X-Stays", b"4")]


@moved_time
async def test_the_answers_hop_by_hop_headers_end_at_the_gateway_too():
    hops = (b"Connection: x-hop, keep-alive", b"X-Hop: 1", b"Keep-Alive: timeout=3", b"Trailer: x", b"Proxy-Authenticate: Basic")
    async with plane(serving(answer(ANSWER, b"Set-Cookie: a=1", *hops, b"set-cookie: b=2", b"x-request-id: req_up"))) as stage:
        response = await stage.ask(chat())
    names = [name.lower() for name, _ in response.headers]
    assert not {b"connection", b"x-hop", b"keep-alive", b"trailer", b"proxy-authenticate"} & set(names)
    assert [pair for pair in response.headers if pair[0].lower() == b"set-cookie"] == [
        (b"Set-Cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
    ]
    assert response.get(b"x-request-id") == b"req_up"


@moved_time
async def test_gateway_headers_go_neither_upstream_nor_are_they_taken_from_there():
    log: list[Seen] = []
    async with plane(serving(answer(ANSWER, b"X-Gateway-Provider: forged", b"x-gateway-anything: 1"), log=log)) as stage:
        response = await stage.ask(chat(BODY, b"X-Gateway-Timeout: 5s", b"x-gateway-hedge: off", b"x-gateway-made-up: 1"))
    assert not [name for name, _ in log[0].headers if name.lower().startswith(b"x-gateway-")]
    assert response.get(b"x-gateway-provider") == b"one"
    assert response.get(b"x-gateway-anything") is None
    assert (response.get(b"x-gateway-route"), response.get(b"x-gateway-model")) == (b"chat", b"gpt-4o")
    assert response.get(b"x-gateway-attempts") == b"1"


@moved_time
@pytest.mark.parametrize(
    "theirs", [b"Authorization: Bearer client", b"x-api-key: client", b"api-key: client", b"X-Goog-Api-Key: client"]
)
async def test_with_a_key_of_ours_nothing_of_the_clients_account_goes_upstream(theirs):
    log: list[Seen] = []
    account = (b"OpenAI-Organization: org-client", b"OpenAI-Project: proj", b"Cookie: session=1")
    async with plane(serving(answer(), log=log)) as stage:
        await stage.ask(chat(BODY, theirs, *account, b"OpenAI-Beta: assistants=v2"))
    assert log[0].all(b"authorization") == [f"Bearer {KEY}".encode()]
    assert b"client" not in log[0].raw
    assert boring(log[0]) == [(b"Content-Type", b"application/json"), (b"OpenAI-Beta", b"assistants=v2")]


@moved_time
async def test_without_a_key_of_ours_the_clients_account_goes_upstream_untouched():
    log: list[Seen] = []
    account = [b"authorization: Bearer sk-client", b"OpenAI-Organization: org-client", b"OpenAI-Project: proj", b"Cookie: s=1"]
    async with plane(serving(answer(), log=log), key=False) as stage:
        await stage.ask(chat(BODY, *account))
    sent = [b"%b: %b" % header for header in log[0].headers]
    assert [header for header in sent if header in account] == account


@moved_time
async def test_a_named_clients_key_stays_here_even_where_the_provider_has_none():
    log: list[Seen] = []
    async with plane(serving(answer(), log=log), key=False, clients=CLIENTS) as stage:
        stranger = await stage.ask(chat(BODY, b"Authorization: Bearer wrong"))
        response = await stage.ask(chat(BODY, b"Authorization: Bearer team-key", b"Cookie: s=1", b"OpenAI-Organization: o"))
    assert (stranger.status, error_of(stranger)["code"]) == (401, "unknown_client")
    assert response.status == 200
    assert boring(log[0]) == [(b"Content-Type", b"application/json")]
    assert log[0].get(b"authorization") is None


@moved_time
async def test_configured_headers_are_added_and_replace_the_clients():
    log: list[Seen] = []
    async with plane(serving(answer(), log=log), provider="headers: {x-team: search, User-Agent: gateway}") as stage:
        await stage.ask(chat(BODY, b"X-Team: theirs", b"user-agent: theirs", b"Connection: x-team"))
    assert (log[0].get(b"x-team"), log[0].get(b"user-agent")) == (b"search", b"gateway")


@moved_time
async def test_host_and_via_are_the_gateways_and_an_inference_answer_is_asked_for_uncompressed():
    log: list[Seen] = []
    async with plane(serving(answer(), log=log)) as stage:
        port = stage.upstreams[0].port
        await stage.ask(chat(BODY, b"Accept-Encoding: gzip, br", b"Via: 1.1 corporate"))
        await stage.ask(get(b"/v1/models", b"Accept-Encoding: gzip, br"))
    inference, other = log
    assert inference.get(b"host") == b"127.0.0.1:%d" % port
    assert inference.get(b"accept-encoding") == b"identity"
    assert inference.all(b"via") == [b"1.1 corporate", b"1.1 " + stage.admission.surroundings.via]
    assert other.get(b"accept-encoding") == b"gzip, br"


@both_loops
async def test_requests_are_framed_anew():
    log: list[Seen] = []
    async with plane(serving(answer(), log=log)) as stage:
        parts = chunked(BODY[:10], BODY[10:11], BODY[11:])
        trailers = parts.removesuffix(b"\r\n") + b"X-Trailer: 1\r\n\r\n"
        await stage.ask(post(CHAT, trailers, b"Transfer-Encoding: chunked", length=False))
        await stage.ask(post(b"/v1/files", chunked(b"abc", b"d"), b"Transfer-Encoding: Chunked", length=False))
        await stage.ask(get(b"/v1/models"))
        await stage.ask(post(b"/v1/threads", b""))
        await stage.ask(b"POST /v1/threads HTTP/1.0\r\n\r\n")
    whole, streamed, bare, empty, old = log
    assert (whole.body, whole.get(b"content-length"), whole.get(b"x-trailer")) == (BODY, b"%d" % len(BODY), None)
    assert (streamed.body, streamed.get(b"content-length"), streamed.get(b"transfer-encoding")) == (b"abcd", None, b"chunked")
    assert (bare.get(b"content-length"), bare.get(b"transfer-encoding")) == (None, None)
    assert empty.get(b"content-length") == b"0"
    assert (old.line, old.get(b"content-length")) == (b"POST /v1/threads HTTP/1.1", None)


@moved_time
@pytest.mark.parametrize(
    ("sent", "arrives"),
    [
        (b"/v1/models?", b"/v1/models?"),
        (b"/v1/models?after=%zz&&=&a=b?c=%2F", b"/v1/models?after=%zz&&=&a=b?c=%2F"),
        (b"/v1/files/f%2Fx%20y//z;v=1", b"/v1/files/f%2Fx%20y//z;v=1"),
        (b"/v1/files/%e4%bd%a0~!$&'()*+,=:@", b"/v1/files/%e4%bd%a0~!$&'()*+,=:@"),
        (b"http://other.example:81/v1/models?x=1", b"/v1/models?x=1"),
        (b"/providers/one/v1/models?x=1", b"/v1/models?x=1"),
        (b"/providers/one/models", b"/v1/models"),
        (b"/openai/v1/models?api-version=preview&x=1", b"/v1/models?x=1"),
    ],
)
async def test_the_raw_target_reaches_the_provider(sent, arrives):
    log: list[Seen] = []
    async with plane(serving(MODELS, log=log)) as stage:
        response = await stage.ask(get(sent))
    assert response.status == 200
    assert log[0].target == arrives


@moved_time
@pytest.mark.parametrize("target", [CHAT + b"?", CHAT + b"?timeout=%31", b"/v1//chat/completions"])
async def test_a_posts_raw_target_reaches_the_provider(target):
    log: list[Seen] = []
    async with plane(serving(answer(), log=log)) as stage:
        await stage.ask(post(target, BODY))
    assert (log[0].target, log[0].body) == (target, BODY)


@moved_time
@pytest.mark.parametrize("method", [b"PUT", b"PATCH", b"DELETE", b"POST", b"OPTIONS", b"QUERY"])
async def test_every_method_passes(method):
    log: list[Seen] = []
    async with plane(serving(MODELS, log=log)) as stage:
        response = await stage.ask(get(b"/v1/vector_stores/vs_1", method=method))
    assert response.status == 200
    assert log[0].line == method + b" /v1/vector_stores/vs_1 HTTP/1.1"


@both_loops
async def test_a_large_body_arrives_byte_for_byte():
    log: list[Seen] = []
    body = b'{"model": "gpt-4o", "junk": "' + random.Random(1).randbytes(3_000_000).hex().encode() + b'"}'
    blob = random.Random(2).randbytes(5_000_000)
    async with plane(serving(answer(), log=log)) as stage:
        await stage.ask(chat(body))
        await stage.ask(post(b"/v1/files", blob, b"Content-Type: application/octet-stream"))
        await stage.ask(
            post(
                b"/v1/files",
                chunked(*[blob[i : i + 70_001] for i in range(0, len(blob), 70_001)]),
                b"Transfer-Encoding: chunked",
                length=False,
            )
        )
    assert [hashlib.sha256(each.body).hexdigest() for each in log] == [
        hashlib.sha256(each).hexdigest() for each in (body, blob, blob)
    ]


ODD = b'{ "messages":[ {"role":"user","content":"\\u0022model\\u0022:\\"x\\" \xc3\xa9"} ],\n\t"model" :  "gpt-4o"  , "n":1.0, "big":1e400 }\r\n'


@moved_time
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_renaming_the_model_changes_nothing_but_the_name(framing):
    log: list[Seen] = []
    targets = "{provider: one, model: my-renamed-gpt}"
    async with plane(serving(answer(), log=log), targets=targets) as stage:
        if framing == "length":
            response = await stage.ask(chat(ODD))
        else:
            response = await stage.ask(post(CHAT, chunked(ODD[:50], ODD[50:]), b"Transfer-Encoding: chunked", length=False))
    assert log[0].body == ODD.replace(b'"gpt-4o"', b'"my-renamed-gpt"')
    assert response.get(b"x-gateway-model") == b"my-renamed-gpt"


@moved_time
async def test_a_failover_renames_the_clients_own_bytes_and_not_the_first_targets():
    log: list[Seen] = []
    down = serving(answer(b"{}", status=b"500 Oops"), log=log)
    async with plane(
        down, serving(answer(), log=log), targets="{provider: one, model: first}, {provider: two, model: second}"
    ) as stage:
        response = await stage.ask(chat(ODD))
    assert response.status == 200
    assert [each.body for each in log] == [ODD.replace(b'"gpt-4o"', b'"first"'), ODD.replace(b'"gpt-4o"', b'"second"')]


@moved_time
async def test_azure_deployments_take_the_model_from_the_address():
    log: list[Seen] = []
    azure = {"dialect": "azure", "base": "", "provider": 'api_version: "2024-10-21"'}
    async with plane(serving(answer(), log=log), targets="{provider: one, model: prod-4o}", **azure) as stage:
        await stage.ask(chat())
        await stage.ask(post(b"/openai/deployments/gpt-4o/chat/completions?api-version=2023-05-15&x=%20", b'{"messages": []}'))
    named, addressed = log
    assert named.target == b"/openai/deployments/prod-4o/chat/completions?api-version=2024-10-21"
    assert (named.body, named.get(b"api-key"), named.get(b"authorization")) == (BODY, KEY.encode(), None)
    assert addressed.target == b"/openai/deployments/prod-4o/chat/completions?x=%20&api-version=2024-10-21"
    assert addressed.body == b'{"messages": []}'


@moved_time
async def test_an_azure_address_in_front_of_an_openai_provider_puts_the_model_into_the_body():
    log: list[Seen] = []
    async with plane(serving(answer(), log=log)) as stage:
        await stage.ask(post(b"/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21", b'{"messages": []}'))
    assert (log[0].target, log[0].body) == (CHAT, b'{"model":"gpt-4o","messages": []}')


FORM = (
    b'--b0\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n'
    b"RIFF\x00\xff gpt whisper-1\r\n"
    b'--b0\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--b0--\r\n'
)
FORM_TYPE = b"Content-Type: multipart/form-data; boundary=b0"


@moved_time
async def test_a_form_is_routed_and_renamed_by_its_model_field_alone():
    log: list[Seen] = []
    async with plane(serving(answer(b'{"text": "hi"}'), log=log), targets="{provider: one, model: w2}") as stage:
        response = await stage.ask(post(b"/v1/audio/transcriptions", FORM, FORM_TYPE))
    assert response.get(b"x-gateway-route") == b"chat"
    assert log[0].body == FORM.replace(b"\r\n\r\nwhisper-1\r\n", b"\r\n\r\nw2\r\n")


@moved_time
@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "gpt-4o", "messages": [], "model": "gpt-5"}',
        b'{"model": "gpt-4o", "mod\\u0065l": "gpt-5"}',
        b'{"model": "gpt-4o", "Model": "gpt-5"}',
        b'{"model": "gpt-4o", "stream": false, "stream": true}',
        b'{"model": 4}',
        b'{"model": "gpt-4o"',
        b"[]",
        b"not json",
    ],
)
async def test_an_ambiguous_or_broken_body_is_refused_before_any_call(body):
    log: list[Seen] = []
    async with plane(serving(answer(), log=log)) as stage:
        client = await stage.connect()
        client.send(chat(body) + chat())
        refused, following = await client.response(), await client.response()
    assert (refused.status, refused.get(b"x-gateway-reason")) == (400, b"bad_request")
    assert error_of(refused)["code"] == "bad_request"
    assert refused.get(b"x-gateway-attempts") == b"0"
    assert following.status == 200
    assert [each.body for each in log] == [BODY]


@moved_time
async def test_a_compressed_request_body_is_not_looked_into_but_passes():
    log: list[Seen] = []
    body = gzip.compress(BODY)
    async with plane(serving(answer(), log=log)) as stage:
        response = await stage.ask(chat(body, b"Content-Encoding: gzip"))
    assert (response.status, response.get(b"x-gateway-route")) == (200, b"rest")
    assert (log[0].body, log[0].get(b"content-encoding")) == (body, b"gzip")


@moved_time
async def test_a_request_that_comes_back_is_refused():
    log: list[Seen] = []
    async with plane(serving(answer(), log=log)) as stage:
        ours = stage.admission.surroundings.via
        client = await stage.connect()
        client.send(chat(BODY, b"Via: 1.0 fred, 1.1 " + ours))
        looped = await client.response()
    assert (looped.status, error_of(looped)["code"]) == (508, "loop_detected")
    assert looped.get(b"x-should-retry") == b"false"
    assert not log


@moved_time
async def test_a_loop_over_another_proxy_is_found_whatever_line_of_via_names_us():
    # Every hop may add a line of its own (RFC 9110 section 5.3), as this gateway does.
    log: list[Seen] = []
    async with plane(serving(answer(), log=log)) as stage:
        ours = b"Via: 1.1 " + stage.admission.surroundings.via
        looped = await stage.ask(chat(BODY, ours, b"Via: 1.1 another-gateway"))
    assert looped.status == 508
    assert not log


@both_loops
async def test_two_gateways_chained_work_and_two_that_point_at_each_other_do_not_loop():
    log: list[Seen] = []
    async with (
        plane(serving(answer(), log=log)) as inner,
        plane(f"http://127.0.0.1:{inner.gateway.port}/v1", check=False) as outer,  # the inner one keeps a connection to it
    ):
        response = await outer.ask(chat(BODY, b"x-gateway-timeout: 30s"))
        assert (response.status, response.body, response.get(b"x-gateway-provider")) == (200, ANSWER, b"one")
        assert len(log[0].all(b"via")) == 2
        # Now let the inner one's provider be the outer one.
        provider = inner.admission._snapshot.providers["one"]
        place = inner.gateway._pool._places.pop(provider.origin)
        object.__setattr__(provider.origin, "port", outer.gateway.port)
        place.close()
        looped = await outer.ask(chat())
        assert len(outer.watch.records) < 10
    assert looped.status in {502, 508}
    assert json.loads(looped.body)["error"]["code"]


@moved_time
async def test_expect_100_continue_is_met_here_and_not_forwarded():
    # The body is invited as soon as the gateway is ready to take it, whether or not the provider is there yet: the gateway may have
    # to send it more than once, so it is the gateway that must have it.
    log: list[Seen] = []
    async with plane(serving(answer(), log=log), clients=CLIENTS) as stage:
        for target in (CHAT, b"/v1/files"):
            request = post(target, BODY, b"Authorization: Bearer team-key", b"Expect: 100-continue")
            client = await stage.connect()
            client.send(request.removesuffix(BODY))
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.send(BODY)
            response = await client.response()
            assert (response.status, response.interim) == (200, [])
        client = await stage.connect()
        client.send(post(CHAT, BODY, b"Authorization: Bearer wrong", b"Expect: 100-continue").removesuffix(BODY))
        refused = await client.response()
    assert (refused.status, refused.interim) == (401, [])
    assert refused.get(b"connection") == b"close"
    assert [(each.body, each.get(b"expect")) for each in log] == [(BODY, None), (BODY, None)]


@both_loops
async def test_pipelined_requests_are_answered_in_order_over_one_connection_to_the_provider():
    log: list[Seen] = []

    async def script(visit):
        while True:
            request = await visit.request()
            log.append(request)
            visit.write(answer(request.split(b"\r\n\r\n", 1)[1]))

    bodies = [b'{"model": "gpt-4o", "n": %d}' % number for number in range(200)]
    async with plane(script) as stage:
        client = await stage.connect()
        client.send(b"".join(chat(body) for body in bodies))
        assert [(await client.response()).body for _ in bodies] == bodies
        assert len(stage.upstreams[0].visits) == 1


@both_loops
async def test_as_many_connections_are_opened_as_requests_are_under_way_at_once():
    waiting = []

    async def script(visit):
        while True:
            await visit.request()
            waiting.append(visit)
            if len(waiting) == 8:
                for each in waiting:
                    each.write(answer())
                waiting.clear()

    async with plane(script) as stage:
        clients = [await stage.connect() for _ in range(8)]
        for _ in range(10):
            for client in clients:
                client.send(chat())
            assert [(await client.response()).status for client in clients] == [200] * 8
        assert len(stage.upstreams[0].visits) == 8

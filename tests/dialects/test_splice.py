"""One answer out of two streams: the same text however it was cut, nothing twice, nothing wrong, and nothing that is not known."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gateway.core.plan import Family, Prefill
from gateway.core.sse import EventSplitter
from gateway.dialects.base import Part
from gateway.dialects.prefill import beginning
from gateway.dialects.registry import DIALECTS
from gateway.dialects.splice import seam, splicer_for
from gateway.dialects.transcript import transcript_for
from tests.dialects.answers import (
    CHAT_REQUEST,
    DONE,
    RESPONSES_REQUEST,
    chat,
    chat_usage,
    chunk,
    data,
    named,
    payloads,
    responses,
    said,
    sdk_chat,
    sdk_responses,
)

FAMILIES = {Family.CHAT: (chat, CHAT_REQUEST, 1, 2), Family.RESPONSES: (responses, RESPONSES_REQUEST, 4, 4)}
"""Who writes the stream, the request, how many events come before the text and how many after it."""
PREFILLS = [prefill for prefill in Prefill if prefill is not Prefill.NONE]


class Client:
    """Gets one stream, and what continues it; keeps the transcript as the relay would."""

    def __init__(self, family=Family.CHAT):
        self.family = family
        self.transcript = transcript_for(family, FAMILIES[family][1])
        self.got = b""

    def get(self, *events):
        for event in events:
            self.got += event
            self.transcript.feed(event)
        return self

    def resume(self, prefill=Prefill.NONE):
        assert self.transcript.resumable
        return splicer_for(self.transcript, prefill)

    def follow(self, splicer, *blocks):
        """Relay another stream; False once it cannot go on."""
        for block in blocks:
            out = splicer.feed(block)
            if out is None:
                return False
            self.get(out)
        return True


def broken(family, pieces, **more):
    """A client whose stream broke behind these pieces."""
    write, _, before, _ = FAMILIES[family]
    return Client(family).get(*write(pieces, **more)[: before + len(pieces)])


def judged(family, stream):
    """What the gateway's own reader makes of a stream, event by event."""
    reader = DIALECTS["openai"].stream(family)
    splitter = EventSplitter()
    parts = [reader.skim(splitter.feed(stream[at : at + 1])) for at in range(len(stream))]
    return reader, [part for part in parts if part not in (Part.CONTENT, Part.LIFE)]


def check(family, stream, text, *, name="one"):
    """The stream is one whole answer of this text."""
    assert said(stream) == text
    reader, ends = judged(family, stream)
    assert ends == [Part.END]
    assert reader.finished
    found = payloads(stream)
    if family is Family.CHAT:
        assert found.pop() == "[DONE]"
        assert {(payload["id"], payload["model"], payload["created"]) for payload in found} == {
            (f"chatcmpl-{name}", f"m-{name}", len(name))
        }
        choices = [choice for payload in found for choice in payload["choices"]]
        assert [choice["delta"]["role"] for choice in choices if "role" in choice["delta"]] == ["assistant"]
        assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]
        assert choices[-1]["finish_reason"] == "stop"
        return
    kinds = [payload["type"] for payload in found]
    assert [payload["sequence_number"] for payload in found] == list(range(len(found)))
    assert [line[7:].decode() for line in stream.split(b"\n") if line.startswith(b"event: ")] == kinds
    once = (
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.done",
        "content_part.done",
        "output_item.done",
    )
    assert [kind for kind in kinds if kind != "response.output_text.delta"] == [f"response.{kind}" for kind in (*once, "completed")]
    assert {payload["item_id"] for payload in found if "item_id" in payload} == {f"msg_{name}"}
    *_, text_done, part_done, item_done, last = found
    response = last["response"]
    assert (response["id"], response["model"], response["created_at"]) == (f"resp_{name}", f"m-{name}", len(name))
    assert response["output"] == [item_done["item"]]
    assert item_done["item"]["id"] == f"msg_{name}"
    assert item_done["item"]["content"] == [part_done["part"]]
    assert part_done["part"]["text"] == text_done["text"] == text


def units(text):
    """The text in UTF-16 units, halves of surrogate pairs apart."""
    encoded = text.encode("utf-16-le")
    return [encoded[at : at + 2].decode("utf-16-le", "surrogatepass") for at in range(0, len(encoded), 2)]


@st.composite
def cut(draw, pieces):
    """These letters in pieces of any size, the empty too."""
    places = sorted(draw(st.lists(st.integers(0, len(pieces)), max_size=6)))
    return ["".join(pieces[start:end]) for start, end in zip([0, *places], [*places, len(pieces)], strict=True)]


def blocks_of(events, draw):
    """The same events in blocks of any number."""
    places = sorted(draw(st.lists(st.integers(0, len(events)), max_size=4)))
    return [b"".join(events[start:end]) for start, end in zip([0, *places], [*places, len(events)], strict=True)]


TEXTS = st.text() | st.text(alphabet="😀👍🏽e\u0301 \n\u200dab", max_size=12)


@pytest.mark.parametrize("family", FAMILIES)
@settings(deadline=None)
@given(TEXTS, st.data())
def test_asked_again_any_cut_and_any_pieces_give_the_original_text(family, text, draw):
    write = FAMILIES[family][0]
    letters = units(text) if draw.draw(st.booleans()) else list(text)
    first = draw.draw(cut(letters))
    kept = draw.draw(st.integers(0, len(first)))
    client = broken(family, first[:kept])
    splicer = client.resume()
    second = write(draw.draw(cut(units(text) if draw.draw(st.booleans()) else list(text))), name="second")
    assert client.follow(splicer, *blocks_of(second, draw.draw))
    assert (splicer.joined, splicer.finished, splicer.ended) == (True, True, True)
    check(family, client.got, text)
    assert client.transcript.finished


@pytest.mark.parametrize("family", FAMILIES)
@settings(deadline=None)
@given(TEXTS, st.lists(st.integers(0, 20), max_size=3), st.data())
def test_any_number_of_breaks_gives_the_original_text(family, text, breaks, draw):
    write, _, before, _ = FAMILIES[family]
    client = broken(family, draw.draw(cut(units(text)))[: draw.draw(st.integers(0, 4))])
    for count in breaks:
        client.follow(client.resume(), *write(draw.draw(cut(units(text))), name="again")[: before + count])
        assume(client.transcript.resumable)
    assert client.follow(client.resume(), *write([text], name="last"))
    check(family, client.got, text)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefill", PREFILLS)
@settings(deadline=None)
@given(TEXTS, st.data())
def test_asked_to_go_on_the_rest_is_put_behind_the_beginning(family, prefill, text, draw):
    write = FAMILIES[family][0]
    pieces = draw.draw(cut(units(text)))
    client = broken(family, pieces[: draw.draw(st.integers(0, len(pieces)))])
    begun = 0 if prefill is Prefill.PREFIX_ECHOED else len(beginning(client.transcript.text))
    second = write(draw.draw(cut(units(text[begun:]))), name="second")
    splicer = client.resume(prefill)
    assert client.follow(splicer, *blocks_of(second, draw.draw))
    assert splicer.ended
    check(family, client.got, text)


@pytest.mark.parametrize("family", FAMILIES)
@settings(deadline=None)
@given(TEXTS, TEXTS, st.data())
def test_another_text_is_noticed_before_a_wrong_character(family, text, other, draw):
    write = FAMILIES[family][0]
    assume(not other.startswith(text))
    client = broken(family, draw.draw(cut(units(text))))
    before = client.got
    splicer = client.resume()
    assert not client.follow(splicer, *blocks_of(write(draw.draw(cut(units(other)))), draw.draw))
    assert not splicer.ended
    assert client.got == before
    assert not client.follow(splicer, *write([text]))
    assert client.transcript.resumable
    assert client.follow(client.resume(), *write([text], name="third"))
    check(family, client.got, text)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefill", PREFILLS)
def test_other_space_than_the_client_has_is_not_put_behind_it(family, prefill):
    write = FAMILIES[family][0]
    echo = "Oh" if prefill is Prefill.PREFIX_ECHOED else ""
    assert not broken(family, ["Oh\n"]).follow(client_splicer := broken(family, ["Oh\n"]).resume(prefill), *write([echo, " yes"]))
    assert not client_splicer.ended


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefill", PREFILLS)
def test_an_answer_that_has_nothing_to_add_need_not_repeat_the_space_it_was_not_given(family, prefill):
    write = FAMILIES[family][0]
    client = broken(family, ["Oh. \n"])
    echo = ["Oh."] if prefill is Prefill.PREFIX_ECHOED else []
    assert client.follow(client.resume(prefill), *write([*echo, " "], name="second"))
    check(family, client.got, "Oh. \n")


@pytest.mark.parametrize("family", FAMILIES)
def test_asked_again_the_answer_has_to_repeat_the_space_at_the_end_too(family):
    client = broken(family, ["Oh. \n"])
    assert not client.follow(client.resume(), *FAMILIES[family][0](["Oh."]))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_echo_that_ends_within_the_beginning_is_no_continuation(family):
    client = broken(family, ["Oh yes. "])
    assert not client.follow(client.resume(Prefill.PREFIX_ECHOED), *FAMILIES[family][0](["Oh"]))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefill", [Prefill.NONE, Prefill.PLAIN])
def test_half_a_character_at_the_break_gets_its_other_half(family, prefill):
    write = FAMILIES[family][0]
    client = broken(family, ["Oh \ud83d"])
    begun = "" if prefill is Prefill.PLAIN else "Oh"
    assert client.follow(client.resume(prefill), *write([begun, " ", "😀!"], name="second"))
    check(family, client.got, "Oh 😀!")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("other", ["\U0001f000", "\U0001fc00", "x", "\ude00"])
def test_half_a_character_is_not_completed_by_that_of_another(family, other):
    client = broken(family, ["Oh \ud83d"])
    assert not client.follow(client.resume(), *FAMILIES[family][0]([f"Oh {other}"]))
    assert said(client.got) == "Oh \ud83d"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("first", "second"), [("Oh ", "Oh no \ud83d"), ("Oh \ud83d", "Oh \ud83d"), ("Oh \ud83d", "Oh ")])
def test_an_answer_that_ends_in_half_a_character_is_none(family, first, second):
    client = broken(family, [first])
    assert not client.follow(client.resume(), *FAMILIES[family][0]([second], name="second"))
    assert said(client.got) == max(first, second.removesuffix("\ud83d"), key=len)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("end", [b"\r\n", b"\r"])
def test_the_second_stream_may_be_written_with_any_line_ends_and_comments(family, end):
    client = broken(family, ["Oh", " yes"])
    before = client.got
    events = FAMILIES[family][0](["Oh yes", ", indeed"], name="second")
    splicer = client.resume()
    assert client.follow(splicer, b": waiting" + end * 2)
    assert client.got == before + b": waiting" + end * 2
    client.got = before
    assert client.follow(splicer, *(b": note\nid: 1\n".replace(b"\n", end) + event.replace(b"\n", end) for event in events))
    check(family, client.got, "Oh yes, indeed")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_splice_is_declared_and_has_caught_up_at_a_moment_that_is_known(family):
    write, _, before, _ = FAMILIES[family]
    client = broken(family, ["Oh", " yes"])
    splicer = client.resume()
    events = write(["Oh ", "y", "es", ", in", "deed"], name="second")
    outs = [(splicer.feed(event), splicer.joined) for event in events]
    assert [caught for _, caught in outs[: before + 5]] == [False] * (before + 2) + [True] * 3
    assert not any(out for out, _ in outs[: before + 3])
    assert all(out for out, _ in outs[before + 3 :])
    client.get(seam("azure-eu"), *(out for out, _ in outs))
    assert seam("azure-eu") == b": gateway resumed on azure-eu\n\n"
    check(family, client.got, "Oh yes, indeed")


@pytest.mark.parametrize("family", FAMILIES)
def test_asked_to_go_on_it_has_caught_up_from_the_start(family):
    assert broken(family, ["Oh"]).resume(Prefill.PLAIN).joined
    assert not broken(family, ["Oh "]).resume(Prefill.PLAIN).joined


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefill", [Prefill.NONE, Prefill.PLAIN])
def test_thoughts_of_the_second_are_left_out(family, prefill):
    client = broken(family, ["Oh"])
    events = FAMILIES[family][0]([] if prefill is Prefill.PLAIN else ["Oh"], name="second", thoughts=["Hm", "hm"])
    assert client.follow(client.resume(prefill), *events)
    check(family, client.got, "Oh")
    assert b"hm" not in client.got
    assert b"summary" not in client.got


ERRORS = {
    "error": data({"error": {"message": "no", "code": 500}}),
    "error as a text": data({"error": "no"}),
    "flat": data({"type": "error", "code": "server_error", "message": "no"}),
    "flat, Mistral's": data({"object": "error", "message": "no", "type": "x"}),
    "by name": b"event: error\n" + data({"message": "no"}),
    "part of an event too long to be held": b'data: {"choices":[{"delta":{"content":"',
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("event", ERRORS.values(), ids=ERRORS)
def test_what_breaks_the_second_ends_the_splice(family, event):
    write, _, before, _ = FAMILIES[family]
    client = broken(family, ["Oh"])
    events = write(["Oh", " yes"])
    assert not client.follow(client.resume(), *events[: before + 2], event)
    assert said(client.got) == "Oh yes"
    assert client.transcript.text == "Oh yes"
    whole_block = broken(family, ["Oh"])
    assert not whole_block.follow(whole_block.resume(), b"".join(events[: before + 2]) + event)
    assert whole_block.transcript.text == said(whole_block.got) == "Oh"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_terminator_without_an_end_is_a_lie(family):
    write, _, before, _ = FAMILIES[family]
    client = broken(family, ["Oh"])
    assert not client.follow(client.resume(), *write(["Oh", " yes"])[: before + 2], DONE)
    assert said(client.got) == "Oh yes"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("event", [b"data: {\n\n", b"data: [1]\n\n", b"data: \\ud800\n\n", b"event: ping\n\n", b"id: 1\n\n"])
def test_what_says_nothing_is_dropped(family, event):
    client = broken(family, ["Oh"])
    assert client.follow(client.resume(), *(event + one + event for one in FAMILIES[family][0](["Oh yes"], name="second")))
    check(family, client.got, "Oh yes")


# Chat only.


def test_a_role_that_the_first_never_said_is_said_once():
    client = Client().get(
        data(
            {
                "id": "chatcmpl-one",
                "model": "m-one",
                "created": 3,
                "choices": [{"index": 0, "delta": {"content": "Oh"}, "finish_reason": None}],
            }
        )
    )
    assert client.follow(client.resume(), *chat(["Oh", " yes"], name="second"))
    check(Family.CHAT, client.got, "Oh yes")


def test_a_role_in_every_chunk_is_said_once():
    client = broken(Family.CHAT, ["Oh"])
    second = [chunk({"role": "assistant", "content": piece}) for piece in ("Oh", " yes")]
    assert client.follow(client.resume(), *second, chunk({"role": "assistant", "content": ""}, "stop"), DONE)
    check(Family.CHAT, client.got, "Oh yes")


def test_a_stream_that_broke_in_its_thoughts_gets_the_text_of_the_second():
    client = Client().get(*chat([], thoughts=["Hm"])[:2])
    assert client.follow(client.resume(), *chat(["Oh"], name="second", thoughts=["Hm", "Well"]))
    check(Family.CHAT, client.got, "Oh")
    assert b"Well" not in client.got


def test_no_fingerprint_is_given_to_an_answer_of_two_backends():
    client = broken(Family.CHAT, ["Oh"])
    assert client.follow(client.resume(), *chat(["Oh", " yes"], name="second"))
    assert [payload.get("system_fingerprint") for payload in payloads(client.got)[:-1]] == ["fp_one", "fp_one", None, None]


def test_a_second_finish_and_what_follows_the_terminator_are_dropped():
    client = broken(Family.CHAT, ["Oh"])
    late = data({"choices": [{"index": 0, "delta": {"content": "!"}, "finish_reason": "stop"}]})
    assert client.follow(client.resume(), *chat(["Oh"], name="second")[:-1], late, DONE, late, DONE)
    check(Family.CHAT, client.got, "Oh")


def test_an_answer_that_lacks_only_its_terminator_is_known():
    client = broken(Family.CHAT, ["Oh"])
    splicer = client.resume()
    assert client.follow(splicer, *chat(["Oh", " yes"], name="second")[:3])
    assert (splicer.finished, splicer.ended) == (False, False)
    assert client.follow(splicer, chunk({}, "stop"))
    assert (splicer.finished, splicer.ended) == (True, False)


def test_azure_s_words_on_the_prompt_are_not_said_twice():
    client = broken(Family.CHAT, ["Oh"])
    head = data({"id": "", "object": "", "created": 0, "model": "", "choices": [], "prompt_filter_results": []})
    assert client.follow(client.resume(), head, *chat(["Oh yes"], name="second"))
    check(Family.CHAT, client.got, "Oh yes")
    assert b"prompt_filter" not in client.got


@pytest.mark.parametrize(
    "event",
    [
        chunk({"content": "Oh"}, "stop"),
        chunk({}, "length"),
        DONE,
        chunk({"content": "Oh yes"}, "error"),
        chunk({"tool_calls": [{"index": 0}]}),
        chunk({"content": "Oh", "tool_calls": [{"index": 0}]}),
        chunk({"refusal": "I"}),
        chunk({"content": ["Oh yes"]}),
        chunk({"audio": {"id": "a"}}),
        chunk({"content": "Oh yes", "annotations": [{}]}),
        data({"choices": [{"index": 1, "delta": {"content": "Oh yes"}}]}),
        data({"choices": [{"index": 0, "delta": {}}, {"index": 1, "delta": {}}]}),
        data({"choices": [{"index": 0, "delta": {"content": "Oh yes"}, "logprobs": {"content": [{}]}}]}),
    ],
)
def test_what_has_no_place_in_the_answer_ends_the_splice(event):
    client = broken(Family.CHAT, ["Oh", " yes"])
    before = client.got
    assert not client.follow(client.resume(), event)
    assert client.got == before


def test_tool_calls_behind_the_text_are_passed_on_but_not_continued():
    client = broken(Family.CHAT, ["Oh"])
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    second = [chunk({"content": "Oh yes", "tool_calls": [call]}, name="second"), chunk({}, "tool_calls", name="second"), DONE]
    splicer = client.resume()
    assert client.follow(splicer, second[0])
    assert not client.transcript.resumable
    assert client.follow(splicer, *second[1:])
    chunks, answer = sdk_chat(client.got)
    assert answer.choices[0].message.content == "Oh yes"
    assert answer.choices[0].message.tool_calls[0].function.arguments == "{}"
    assert answer.choices[0].finish_reason == "tool_calls"
    assert {one.id for one in chunks} == {"chatcmpl-one"}


# Usage.


def test_usage_of_the_second_alone_is_marked_incomplete():
    client = broken(Family.CHAT, ["Oh"])
    splicer = client.resume()
    assert (splicer.usage, splicer.usage_complete) == (None, False)
    assert client.follow(splicer, *chat(["Oh yes"], name="second", usage=(7, 3)))
    assert (splicer.usage, splicer.usage_complete) == ((7, 3), False)
    assert payloads(client.got)[-2]["usage"] == chat_usage(7, 3)


def test_usage_of_both_is_summed_detail_by_detail():
    first = [
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "Oh"}, usage=chat_usage(5, 1) | {"cost": 0.5, "only": 2}),
    ]
    client = Client().get(*first)
    splicer = client.resume()
    report = chat_usage(7, 3) | {"cost": 0.25, "queue": None, "cached": True}
    assert client.follow(splicer, *chat(["Oh yes"], name="second")[:-1], chunk({}, usage=report, name="second"), DONE)
    assert (splicer.usage, splicer.usage_complete) == ((12, 4), True)
    told = [payload["usage"] for payload in payloads(client.got)[:-1] if payload.get("usage")]
    assert told[1:] == [
        {
            "prompt_tokens": 12,
            "completion_tokens": 4,
            "total_tokens": 16,
            "prompt_tokens_details": {"cached_tokens": 5},
            "completion_tokens_details": {"reasoning_tokens": 4},
            "cost": 0.75,
            "only": 2,
            "queue": None,
            "cached": True,
        }
    ]


def test_usage_in_every_chunk_and_in_a_field_of_groq_s_is_the_sum_so_far():
    client = Client().get(chunk({"role": "assistant", "content": "Oh y"}, usage=chat_usage(5, 1)))
    splicer = client.resume()
    second = [chunk({"content": piece}, usage=chat_usage(5, count)) for count, piece in enumerate(["Oh", " y", "es"], 1)]
    second.append(chunk({}, "stop", x_groq={"id": "req_1", "usage": chat_usage(5, 4)}))
    assert splicer.feed(second[0]) == b""
    assert client.follow(splicer, *second[1:], DONE)
    told = [payload.get("usage") or payload["x_groq"]["usage"] for payload in payloads(client.got)[:-1]]
    assert [(usage["prompt_tokens"], usage["completion_tokens"]) for usage in told] == [(5, 1), (10, 3), (10, 4), (10, 5)]
    assert (splicer.usage, splicer.usage_complete) == ((10, 5), True)


def test_usage_of_three_is_summed_and_says_when_one_was_silent():
    client = Client().get(chunk({"role": "assistant", "content": "Oh"}, usage=chat_usage(5, 1)))
    assert client.follow(client.resume(), *chat(["Oh", " yes"], name="second")[:3])
    splicer = client.resume()
    assert client.follow(splicer, *chat(["Oh yes, indeed"], name="third", usage=(7, 3)))
    assert (splicer.usage, splicer.usage_complete) == ((12, 4), False)
    check(Family.CHAT, client.got, "Oh yes, indeed")


def test_usage_of_a_second_that_never_answered_is_not_missed():
    client = Client().get(chunk({"role": "assistant", "content": "Oh"}, usage=chat_usage(5, 1)))
    client.resume()
    splicer = client.resume()
    assert client.follow(splicer, *chat(["Oh"], name="third", usage=(7, 3)))
    assert (splicer.usage, splicer.usage_complete) == ((12, 4), True)


def test_usage_of_a_response_is_that_of_its_last_event():
    client = broken(Family.RESPONSES, ["Oh"])
    splicer = client.resume()
    assert client.follow(splicer, *responses(["Oh yes"], name="second", usage=(7, 3)))
    assert (splicer.usage, splicer.usage_complete) == ((7, 3), False)
    assert payloads(client.got)[-1]["response"]["usage"] == {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}


# Responses only.


def test_a_response_begun_without_its_message_gets_that_of_the_second():
    for count in (2, 3):
        client = Client(Family.RESPONSES).get(*responses([])[:count])
        assert client.follow(client.resume(), *responses(["Oh"], name="second"))
        check_name = "second" if count == 2 else "one"
        assert said(client.got) == "Oh"
        found = payloads(client.got)
        assert [payload["sequence_number"] for payload in found] == list(range(len(found)))
        assert {payload["item_id"] for payload in found if "item_id" in payload} == {f"msg_{check_name}"}
        assert found[-1]["response"]["output"][0]["id"] == f"msg_{check_name}"
        assert sdk_responses(client.got)[-1].response.output_text == "Oh"


@pytest.mark.parametrize("count", [9, 11])
def test_the_first_s_thought_stays_and_the_second_s_is_left_out(count):
    client = Client(Family.RESPONSES).get(*responses(["Oh"], thoughts=["Hm"])[:count])
    assert client.follow(client.resume(), *responses(["Oh", " yes"], name="second", thoughts=["Well", "well"], calls=["{}"]))
    last = sdk_responses(client.got)[-1].response
    assert [item.type for item in last.output] == ["reasoning", "message", "function_call"]
    assert (last.output[0].id, last.output[0].summary[0].text) == ("rs_one", "Hm")
    assert last.output_text == "Oh yes"
    assert b"well" not in client.got.lower()
    found = payloads(client.got)
    assert [payload["sequence_number"] for payload in found] == list(range(len(found)))
    calls = [payload for payload in found if str(payload.get("item_id", "")).startswith("fc_")]
    assert {payload["output_index"] for payload in calls} == {2}


def test_a_message_without_a_thought_keeps_its_place_where_the_second_thought_first():
    client = broken(Family.RESPONSES, ["Oh"])
    assert client.follow(client.resume(), *responses(["Oh", " yes"], name="second", thoughts=["Well"], calls=["{}", "[]"]))
    last = sdk_responses(client.got)[-1].response
    assert [item.id for item in last.output] == ["msg_one", "fc_second0", "fc_second1"]
    found = payloads(client.got)
    assert {payload["output_index"] for payload in found if payload.get("item_id") == "msg_one"} == {0}
    assert {payload["output_index"] for payload in found if payload.get("item_id") == "fc_second1"} == {2}


def test_the_text_keeps_its_part_where_the_second_counts_otherwise():
    client = broken(Family.RESPONSES, ["Oh"])
    moved = [
        data(payload | ({"content_index": 1} if "content_index" in payload else {}))
        for payload in payloads(b"".join(responses(["Oh", " yes"])))
    ]
    assert client.follow(client.resume(), *moved)
    check(Family.RESPONSES, client.got, "Oh yes")
    assert {payload["content_index"] for payload in payloads(client.got) if "content_index" in payload} == {0}


@pytest.mark.parametrize("status", ["incomplete", "failed"])
def test_a_response_cut_short_is_passed_on_and_a_failed_one_is_not(status):
    client = broken(Family.RESPONSES, ["Oh"])
    assert client.follow(client.resume(), *responses(["Oh yes"], name="second", status=status)) is (status == "incomplete")
    last = payloads(client.got)[-1]
    assert (last["type"] == "response.incomplete") is (status == "incomplete")
    assert said(client.got) == "Oh yes"


def test_done_behind_a_response_is_dropped():
    client = broken(Family.RESPONSES, ["Oh"])
    assert client.follow(client.resume(), *responses(["Oh"], name="second"), DONE)
    check(Family.RESPONSES, client.got, "Oh")


def test_numbers_are_made_where_the_first_had_none():
    bare = [
        data({key: value for key, value in payload.items() if key != "sequence_number"})
        for payload in payloads(b"".join(responses(["Oh"])[:5]))
    ]
    client = Client(Family.RESPONSES).get(*bare)
    assert client.follow(client.resume(), *responses(["Oh", " yes"], name="second"))
    assert [payload.get("sequence_number") for payload in payloads(client.got)] == [None] * 5 + [0, 1, 2, 3, 4]


PLACE = {"item_id": "msg_second", "output_index": 0, "content_index": 0}
TEXT = {"type": "output_text", "text": "Oh yes", "annotations": []}
MESSAGE = {"type": "message", "id": "msg_second", "status": "completed", "role": "assistant", "content": [TEXT]}
MISFITS = {
    "tool call before the text": (2, named("response.output_item.added", output_index=0, item={"type": "function_call"})),
    "item that is none": (2, named("response.output_item.added", output_index=0, item=None)),
    "item twice": (3, named("response.output_item.added", output_index=0, item=MESSAGE)),
    "second message before the text": (4, named("response.output_item.added", output_index=1, item=MESSAGE)),
    "refusal": (3, named("response.content_part.added", **PLACE, part={"type": "refusal", "refusal": ""})),
    "part with text": (3, named("response.content_part.added", **PLACE, part={"type": "output_text", "text": "Oh"})),
    "part that is none": (3, named("response.content_part.added", **PLACE, part=None)),
    "second part": (4, named("response.content_part.added", **PLACE | {"content_index": 1}, part=TEXT | {"text": ""})),
    "text of another part": (4, named("response.output_text.delta", **PLACE | {"content_index": 1}, delta="Oh yes")),
    "text of no item": (4, named("response.output_text.delta", **PLACE | {"output_index": 1}, delta="Oh yes")),
    "text before its part": (3, named("response.output_text.delta", **PLACE, delta="Oh yes")),
    "delta that is no text": (4, named("response.output_text.delta", **PLACE, delta=None)),
    "log probabilities": (4, named("response.output_text.delta", **PLACE, delta="Oh", logprobs=[{}])),
    "end within what the client has": (5, named("response.output_text.done", **PLACE, text="Oh")),
    "close within what the client has": (5, named("response.completed", response={"output": []})),
    "citation": (6, named("response.output_text.annotation.added", **PLACE, annotation={})),
    "log probabilities at the end": (6, named("response.output_text.done", **PLACE, text="Oh yes", logprobs=[{}])),
    "part with citations": (6, named("response.content_part.done", **PLACE, part=TEXT | {"annotations": [{}]})),
    "part that became a refusal": (6, named("response.content_part.done", **PLACE, part={"type": "refusal"})),
    "message of two parts": (6, named("response.output_item.done", output_index=0, item=MESSAGE | {"content": [TEXT, TEXT]})),
    "message of no parts": (6, named("response.output_item.done", output_index=0, item=None)),
    "response of another message": (6, named("response.completed", response={"output": [MESSAGE | {"content": []}]})),
    "response that is none": (6, named("response.completed", response=None)),
    "close without a message": (2, named("response.completed", response={"output": []})),
    "unknown": (6, named("response.dance.delta", output_index=0)),
    "unknown, of no item": (6, named("response.audio.delta", delta="AAAA")),
    "no type": (6, data({"output_index": 0})),
    "type that is none": (6, data({"type": ["a"], "output_index": 0})),
}


@pytest.mark.parametrize(("count", "event"), MISFITS.values(), ids=MISFITS)
def test_what_has_no_place_in_the_response_ends_the_splice(count, event):
    client = broken(Family.RESPONSES, ["Oh", " yes"])
    splicer = client.resume()
    assert client.follow(splicer, *responses(["Oh", " yes"], name="second")[:count])
    before = client.got
    assert not client.follow(splicer, event)
    assert client.got == before


def test_a_message_left_open_by_the_second_ends_the_splice():
    client = Client(Family.RESPONSES).get(*responses([])[:4])
    call = responses([], calls=["{}"])[6:]
    moved = [data(payload | {"output_index": 0}) for payload in payloads(b"".join(call[1:-1]))]
    splicer = client.resume()
    assert client.follow(splicer, *moved)
    assert not client.follow(splicer, call[-1])


@pytest.mark.parametrize("output", [None, []])
def test_a_last_event_without_the_items_stays_so(output):
    client = broken(Family.RESPONSES, ["Oh"])
    close = named("response.completed", response={"id": "resp_second", "output": output})
    assert client.follow(client.resume(), *responses(["Oh yes"], name="second")[:-1], close)
    assert payloads(client.got)[-1]["response"] == {"id": "resp_one", "model": "m-one", "created_at": 3, "output": output}


# The judge.


@settings(deadline=None, max_examples=25)
@given(TEXTS, st.sampled_from([Prefill.NONE, Prefill.PLAIN]), st.data())
def test_the_sdk_reads_a_spliced_chat_answer_as_one(text, prefill, draw):
    pieces = draw.draw(cut(list(text)))
    client = broken(Family.CHAT, pieces[: draw.draw(st.integers(0, len(pieces)))])
    begun = len(beginning(client.transcript.text)) if prefill is Prefill.PLAIN else 0
    client.get(seam("two"))
    assert client.follow(client.resume(prefill), *chat(draw.draw(cut(list(text[begun:]))), name="second", usage=(7, 3)))
    chunks, answer = sdk_chat(client.got)
    assert answer.choices[0].message.content == text
    assert answer.choices[0].message.role == "assistant"
    assert (answer.id, answer.model, answer.choices[0].finish_reason) == ("chatcmpl-one", "m-one", "stop")
    assert answer.usage.total_tokens == 10
    assert sum(one.usage is not None for one in chunks) == 1


@settings(deadline=None, max_examples=25)
@given(TEXTS, st.sampled_from([Prefill.NONE, Prefill.PLAIN]), st.data())
def test_the_sdk_reads_a_spliced_response_as_one(text, prefill, draw):
    pieces = draw.draw(cut(list(text)))
    client = broken(Family.RESPONSES, pieces[: draw.draw(st.integers(0, len(pieces)))])
    begun = len(beginning(client.transcript.text)) if prefill is Prefill.PLAIN else 0
    client.get(seam("two"))
    assert client.follow(client.resume(prefill), *responses(draw.draw(cut(list(text[begun:]))), name="second", usage=(7, 3)))
    *events, last = sdk_responses(client.got)
    assert last.response.output_text == text
    assert (last.response.id, last.response.model, last.response.usage.total_tokens) == ("resp_one", "m-one", 10)
    done = [event for event in events if event.type == "response.output_text.done"]
    assert [event.text for event in done] == [text]
    snapshots = [event.snapshot for event in events if event.type == "response.output_text.delta"]
    assert (snapshots or [""])[-1] == text

"""How requests are measured: published rules for what is no text, in small bodies that were parsed and large ones that were not."""

import base64
import json
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.plan import Family
from gateway.dialects.body import BodyFacts, read_json
from gateway.dialects.media import MOST_OF_A_FILE, USUAL_FILE, USUAL_IMAGE, media_of
from gateway.dialects.prompt import measure

CHAT, RESPONSES, MESSAGES = Family.CHAT, Family.RESPONSES, Family.MESSAGES


def b64(raw):
    return base64.b64encode(raw).decode()


def png(width, height, size=100):
    return b64(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", width, height) + bytes(size))


def gif(width, height):
    return b64(b"GIF89a" + struct.pack("<HH", width, height) + bytes(40))


def webp(kind, payload):
    return b64(b"RIFF\x00\x00\x00\x00WEBP" + kind + b"\x00\x00\x00\x00" + payload + bytes(40))


def url(data, kind="image/png"):
    return f"data:{kind};base64,{data}"


def image(address, **more):
    return {"type": "image_url", "image_url": {"url": address, **more}}


def chat(*parts, **more):
    return {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "look"}, *parts]}], **more}


def measured(document, family=CHAT):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return measure(len(body), [body[:100], body[100:]], read_json(body), family)


@pytest.mark.parametrize(
    ("part", "tokens"),
    [
        (image(url(png(1024, 1024))), 765),
        (image(url(png(2048, 4096))), 1105),
        (image(url(png(4096, 8192)), detail="low"), 85),
        (image(url(png(4096, 8192)), detail="auto"), 1105),
        (image(url(png(150, 150))), 255),
        (image(url(png(512, 513))), 425),
        (image(url(png(2**31, 1))), 85 + 4 * 170),
        (image(url(gif(1024, 1024), "image/gif")), 765),
        (image(url(webp(b"VP8X", b"\x00" * 4 + b"\xff\x03\x00\xff\x01\x00"), "image/webp")), 85 + 2 * 170),
        (image(url(webp(b"VP8 ", b"\x00" * 6 + struct.pack("<HH", 512, 0x4000 | 512)), "image/webp")), 255),
        (image(url(webp(b"VP8L", b"/" + struct.pack("<I", 511 | 511 << 14)), "image/webp")), 255),
        (image(url(webp(b"ALPH", b""), "image/webp")), USUAL_IMAGE),
        (image(url(png(0, 5))), USUAL_IMAGE),
        (image(url(b64(b"\xff\xd8\xff\xe0" + bytes(100)), "image/jpeg")), USUAL_IMAGE),
        (image(url("%%%")), USUAL_IMAGE),
        (image(url("A" + "@" * 50)), USUAL_IMAGE),
        (image("https://example.com/a.png"), USUAL_IMAGE),
        (image("https://example.com/a.png", detail="low"), 85),
        ({"type": "image_url", "image_url": "https://example.com/a.png"}, USUAL_IMAGE),
        ({"type": "input_image", "image_url": url(png(512, 512)), "detail": "high"}, 255),
        ({"type": "input_image", "image_url": url(png(512, 512)), "detail": "low"}, 85),
        ({"type": "input_image", "file_id": "file-1"}, USUAL_IMAGE),
        ({"type": "image_url"}, USUAL_IMAGE),
        ({"type": "input_audio", "input_audio": {"data": b64(bytes(480_00)), "format": "wav"}}, 10),
        ({"type": "input_audio", "input_audio": {"data": b64(bytes(16_008)), "format": "mp3"}}, pytest.approx(10.005)),
        ({"type": "input_audio", "input_audio": None}, 0),
        ({"type": "input_audio", "input_audio": {"data": 5, "format": 5}}, 0),
        ({"type": "file", "file": {"filename": "a.pdf", "file_data": url("x" * 4000, "application/pdf")}}, pytest.approx(750, rel=0.01)),
        ({"type": "input_file", "filename": "a.pdf", "file_data": url("x" * 4000, "application/pdf")}, pytest.approx(750, rel=0.01)),
        ({"type": "input_file", "file_id": "file-1"}, USUAL_FILE),
        ({"type": "file", "file": {"file_id": "file-1"}}, USUAL_FILE),
    ],
)  # fmt: skip
def test_what_a_part_counts_as(part, tokens):
    document = chat(part)
    bare = measured(chat())
    assert bare.media_tokens == 0
    assert bare.text_bytes == len(json.dumps(chat()))
    prompt = measured(document)
    assert prompt.media_tokens == tokens
    twice = measured(chat(part, part))
    assert twice.media_tokens == pytest.approx(2 * prompt.media_tokens)
    assert prompt.text_bytes < bare.text_bytes + 200


@pytest.mark.parametrize(
    ("part", "tokens"),
    [
        ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": png(750, 100)}}, 100),
        ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": png(9000, 9000)}}, 1600),
        ({"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}, 1600),
        ({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "x" * 4000}}, 750),
        ({"type": "document", "source": {"type": "file", "file_id": "f"}}, USUAL_FILE),
        ({"type": "document", "source": None}, USUAL_FILE),
        ({"type": "tool_result", "content": [{"type": "image", "source": {"type": "base64", "data": png(750, 100)}}]}, 100),
        ({"type": ["image"]}, 0),
    ],
)
def test_what_a_part_of_anthropics_counts_as(part, tokens):
    assert measured(chat(part), MESSAGES).media_tokens == tokens


def test_parts_of_a_response_are_found_wherever_it_has_them():
    shot = {"type": "input_image", "image_url": url(png(512, 512))}
    document = {
        "model": "m",
        "input": [
            {"role": "user", "content": [shot]},
            {"type": "function_call_output", "call_id": "c", "output": [shot]},
            {"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": url(png(512, 512))}},
            "text",
        ],
    }
    assert measured(document, RESPONSES).media_tokens == 3 * 255
    assert measured({"input": "text"}, RESPONSES).media_tokens == 0


def test_only_a_file_that_is_text_may_count_for_more_than_a_book():
    data = "x" * 60_000
    for head, name, capped in (
        ("application/pdf", "a.pdf", True), ("text/plain", "", False), ("application/json", "", False), ("application/octet-stream", "a.MD", False),
    ):  # fmt: skip
        document = chat(*[{"type": "file", "file": {"filename": name, "file_data": url(data * 2, head)}}])
        assert (media_of(document).tokens == MOST_OF_A_FILE) is capped


def large(part, family=CHAT, separators=(", ", ": ")):
    """The same part in a body that is not parsed."""
    document = {"model": "m", "messages": [{"role": "user", "content": [part, {"type": "text", "text": "x" * 200_000}]}]}
    body = json.dumps(document, separators=separators).encode()
    facts = read_json(body)
    assert facts.media is None
    return measure(len(body), [body], facts, family), body


@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":")])
@pytest.mark.parametrize(
    ("part", "family", "tokens"),
    [
        (image(url(png(2048, 4096, 90_000))), CHAT, 1105),
        (image(url(png(2048, 4096, 90_000)), detail="low"), CHAT, 85),
        ({"type": "image_url", "image_url": {"detail": "low", "url": url(png(2048, 4096))}}, CHAT, 85),
        ({"type": "input_image", "image_url": url(png(512, 512)), "detail": "low"}, RESPONSES, 85),
        ({"type": "input_audio", "input_audio": {"data": b64(bytes(480_000)), "format": "wav"}}, CHAT, 100),
        ({"type": "input_audio", "input_audio": {"format": "mp3", "data": b64(bytes(480_000))}}, CHAT, 300),
        ({"type": "file", "file": {"filename": "a.pdf", "file_data": url("x" * 4000, "application/pdf")}}, CHAT, pytest.approx(750, rel=0.02)),
        ({"type": "input_file", "file_data": url("x" * 4000, "text/plain; charset=utf-8".replace(" ", ""))}, CHAT, pytest.approx(750, rel=0.02)),
        ({"type": "x", "y": url(b64(bytes(16_000)), "audio/mpeg")}, CHAT, pytest.approx(10, rel=0.02)),
        ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": png(750, 100)}}, MESSAGES, 100),
        ({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "x" * 4000}}, MESSAGES, 750),
    ],
)  # fmt: skip
def test_what_is_no_text_is_found_in_a_large_body(part, family, tokens, separators):
    prompt, body = large(part, family, separators)
    assert prompt.media_tokens == tokens
    assert 200_000 < prompt.text_bytes < 200_500
    escaped = body.replace(b"/", b"\\/")
    assert measure(len(escaped), [escaped], read_json(escaped), family).media_tokens == tokens


@pytest.mark.parametrize(
    ("part", "family", "tokens"),
    [
        (image(url(png(2048, 4096))), CHAT, 1105),
        ({"type": "input_audio", "input_audio": {"data": b64(bytes(48_000)), "format": "wav"}}, CHAT, 10),
        ({"input_audio": {"data": b64(bytes(48_000)), "format": "wav"}, "type": "input_audio"}, CHAT, 10),
        ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": png(750, 100)}}, MESSAGES, 100),
    ],
)
def test_each_part_of_a_large_body_counts_once(part, family, tokens):
    body = json.dumps(chat(*[part] * 5, {"type": "text", "text": "x" * 200_000}, *[part] * 2)).encode()
    prompt = measure(len(body), [body], read_json(body), family)
    assert prompt.media_tokens == 7 * tokens
    assert 200_000 < prompt.text_bytes < 202_000


@pytest.mark.parametrize("family", [CHAT, RESPONSES, MESSAGES])
def test_what_a_message_quotes_is_text(family):
    quoted = json.dumps(
        [image(url(png(512, 512))), {"type": "input_audio", "input_audio": {"data": "abcd"}}, {"type": "base64", "data": "abcd"}]
    )
    prompt, body = large({"type": "text", "text": quoted + " ;base64, and data:image/png;base64, in prose"}, family)
    assert (prompt.media_tokens, prompt.text_bytes) == (0, len(body))


@pytest.mark.parametrize(
    ("family", "output"),
    [(Family.EMBEDDINGS, 0), (Family.MODERATIONS, 0), (Family.IMAGES, 0), (Family.AUDIO, 0), (CHAT, 7), (RESPONSES, 7), (Family.COMPLETIONS, 7), (Family.OTHER, 7)],
)  # fmt: skip
def test_only_who_answers_in_tokens_has_an_output(family, output):
    prompt = measure(100, [b"x" * 100], BodyFacts(max_output=7), family)
    assert (prompt.text_bytes, prompt.media_tokens, prompt.max_output) == (100, 0, output)


def test_a_body_that_nobody_could_read_is_all_text():
    prompt = measure(10, [b"x" * 10], None, CHAT)
    assert (prompt.text_bytes, prompt.media_tokens, prompt.max_output) == (10, 0, None)


values = st.recursive(
    st.none() | st.integers() | st.text(max_size=8) | st.sampled_from([url("iVBORw0KGgo="), "low", "wav", "base64", "image/png"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "image_url", "url", "detail", "input_audio", "data", "format", "file", "file_data", "filename", "source", "content", "output"]
            ),
            inner | st.sampled_from(["image_url", "input_image", "input_audio", "file", "input_file", "image", "document", "computer_screenshot"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)  # fmt: skip


@given(values, values, st.sampled_from([CHAT, RESPONSES, MESSAGES]))
def test_no_document_makes_it_raise(messages, items, family):
    prompt = measured({"messages": messages, "input": items}, family)
    assert math.isfinite(prompt.media_tokens)
    assert prompt.media_tokens >= 0
    assert prompt.text_bytes >= 0


scraps = st.sampled_from(
    [b'"', b"data:", b"image/png", b";base64,", b'"input_audio"', b'"data":"', b'"base64"', b"\\", b'"media_type":"', b"{", b"}", b'"detail":"low"', b"iVBORw0KGgo"]
)  # fmt: skip


@given(st.lists(scraps | st.binary(max_size=5), max_size=30).map(b"".join), st.sampled_from([CHAT, MESSAGES]))
def test_no_bytes_make_it_raise(body, family):
    prompt = measure(len(body) + 100_000, [body], BodyFacts(), family)
    assert math.isfinite(prompt.media_tokens)
    assert prompt.media_tokens >= 0
    assert prompt.text_bytes >= 0

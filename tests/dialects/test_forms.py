"""Forms as SDKs send them, and forms that two readers could read differently."""

from email.parser import BytesParser

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.body import insert_model, replace_model
from gateway.dialects.forms import read_multipart

TYPE = b"multipart/form-data; boundary=xYz"


def part(name, value, extra=b""):
    return b'--xYz\r\nContent-Disposition: form-data; name="' + name + b'"' + extra + b"\r\n\r\n" + value + b"\r\n"


END = b"--xYz--\r\n"
AUDIO = part(b"file", b"RIFF\r\n\r\n--xY\0\r\n--", b'; filename="a.wav"\r\nContent-Type: audio/wav')


def by_email(body, content_type):
    """Name -> value as another parser reads them."""
    message = BytesParser().parsebytes(b"Content-Type: " + content_type + b"\r\n\r\n" + body)
    return {
        piece.get_param("name", header="content-disposition"): piece.get_payload(decode=True) for piece in message.get_payload()
    }


def test_a_transcription_as_an_http_library_sends_it():
    request = httpx2.Request(
        "POST",
        "http://x",
        data={"model": "whisper-1", "stream": "true", "temperature": "0"},
        files={"file": ("a.wav", b"\x00" * 2000, "audio/wav")},
    )
    body, content_type = request.read(), request.headers["content-type"].encode()
    facts = read_multipart(body, content_type)
    assert (facts.model, facts.stream, facts.valid, facts.error) == ("whisper-1", True, True, "")
    edited = replace_model(body, facts.model_span, "whisper é")
    assert by_email(edited, content_type) == {**by_email(body, content_type), "model": "whisper é".encode()}


def test_the_edit_touches_nothing_but_the_value():
    body = AUDIO + part(b"model", b"whisper-1") + part(b"prompt", b"model") + END
    facts = read_multipart(body, TYPE)
    assert body[slice(*facts.model_span)] == b"whisper-1"
    assert replace_model(body, facts.model_span, "w2") == AUDIO + part(b"model", b"w2") + part(b"prompt", b"model") + END


def test_a_model_is_inserted_in_front():
    body = AUDIO + END
    assert read_multipart(body, TYPE).model is None
    edited = insert_model(body, "whisper-1")
    assert edited == part(b"model", b"whisper-1") + body
    assert read_multipart(edited, TYPE).model == "whisper-1"


@pytest.mark.parametrize(
    "content_type",
    [TYPE, b'multipart/form-data; boundary="xYz"', b"Multipart/Form-Data;charset=utf-8;Boundary=xYz; x=y"],
)
def test_the_boundary_is_found_in_any_spelling(content_type):
    assert read_multipart(part(b"model", b"m") + END, content_type).model == "m"


@pytest.mark.parametrize(
    "head",
    [
        b'Content-Disposition: form-data; name="model"',
        b"content-disposition:form-data;name=model",
        b'Content-Type: text/plain\r\nCONTENT-DISPOSITION: form-data; NAME="model"',
        b'Content-Disposition: form-data; name="mo\\del"',
    ],
)
def test_the_field_s_name_is_found_in_any_spelling(head):
    assert read_multipart(b"--xYz\r\n" + head + b"\r\n\r\nm\r\n" + END, TYPE).model == "m"


def test_a_name_that_is_a_lone_quote_is_some_name():
    facts = read_multipart(b'--xYz\r\nContent-Disposition: form-data; name="\r\n\r\nm\r\n' + END, TYPE)
    assert (facts.valid, facts.model) == (True, None)


@pytest.mark.parametrize(
    "body",
    [
        part(b"model", b"a") + part(b"model", b"b") + END,
        part(b"stream", b"true") + part(b"stream", b"false") + END,
        part(b"model", b"a", b'; filename="x"') + END,
        part(b"model", b"a", b"\r\nContent-Transfer-Encoding: base64") + END,
        part(b"x", b"a", b"; name*=utf-8''model") + END,
        part(b"x", b"a", b'; name="model"') + END,
        part(b"x", b"a", b'\r\nContent-Disposition: form-data; name="model"') + END,
        b"--xYz\r\nContent-Disposition: form-data; filename*=x\r\n\r\nm\r\n" + END,
        b"--xYz\r\n\r\nno head\r\n" + END,
        part(b"model", b"") + END,
        part(b"model", b"\xff") + END,
        part(b"model", b"a" * 2000) + END,
    ],
)
def test_a_form_that_readers_may_read_differently_is_refused(body):
    facts = read_multipart(body, TYPE)
    assert facts.valid
    assert facts.error


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"preamble\r\n" + part(b"model", b"m") + END,
        part(b"model", b"m"),
        part(b"model", b"m") + b"--xYz",
        part(b"model", b"m").replace(b"\r\n", b"\n") + END,
        part(b"model", b"m") + b"--xYzzy\r\n" + END,
        b"--xYz\r\nContent-Disposition: form-data; name=model\r\n" + END,
        b"--xYz\r\n" + END,
        part(b"x", b"1") * 300 + END,
        part(b"x" * 9000, b"1") + END,
    ],
)
def test_a_form_that_breaks_the_grammar_is_not_valid(body):
    facts = read_multipart(body, TYPE)
    assert not facts.valid
    assert facts.error


@pytest.mark.parametrize("content_type", [b"multipart/form-data", b"multipart/form-data; boundary=", b""])
def test_without_a_boundary_nothing_is_read(content_type):
    assert not read_multipart(part(b"model", b"m") + END, content_type).valid


def test_a_form_that_breaks_off_tells_its_complete_fields():
    body = part(b"model", b"m") + AUDIO + END
    for cut in range(len(body)):
        facts = read_multipart(body[:cut], TYPE, whole=False)
        known = cut >= len(part(b"model", b"m")) - 2 + len(b"\r\n--xYz")
        if known:
            assert (facts.model, facts.error) == ("m", "")
        else:
            assert facts.model is None


@given(
    st.binary(max_size=60),
    st.lists(st.sampled_from([b"--xYz", b"\r\n", b'Content-Disposition: form-data; name="model"', b"a", b"--"]), max_size=15),
)
def test_no_bytes_make_it_raise(noise, pieces):
    for body in (noise, b"--xYz\r\n" + b"".join(pieces), part(b"x", noise) + b"".join(pieces)):
        for whole in (True, False):
            facts = read_multipart(body, TYPE, whole=whole)
            assert facts.valid or facts.error
            if facts.model_span is not None and not facts.error:
                assert body[slice(*facts.model_span)].decode() == facts.model


@given(st.binary(max_size=200), st.text(min_size=1, max_size=20).filter(lambda t: "\r" not in t and "\n" not in t))
def test_file_contents_do_not_matter(content, model):
    body = part(b"file", content.replace(b"xYz", b""), b'; filename="f"') + part(b"model", model.encode()) + END
    assert read_multipart(body, TYPE).model == model

"""Framing against a naive parser written from the WHATWG rules, line by line and byte by byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.sse import EventSplitter, data_of, events, name_of


def naive(stream):
    """(name, data) of every dispatched event: HTML standard 9.2.6, one byte at a time, decoding left aside."""
    lines, line, at = [], b"", 0
    stream = stream.removeprefix(b"\xef\xbb\xbf")
    while at < len(stream):
        byte = stream[at : at + 1]
        at += 1
        if byte == b"\r" and stream[at : at + 1] == b"\n":
            at += 1
        if byte in {b"\r", b"\n"}:
            lines.append(line)
            line = b""
        else:
            line += byte
    found, name, data = [], b"", []
    for whole in lines:
        if not whole:
            if data:
                found.append((name, b"\n".join(data)))
            name, data = b"", []
            continue
        field, colon, value = whole.partition(b":")
        if colon and value[:1] == b" ":
            value = value[1:]
        if field == b"event":
            name = value
        elif field == b"data":
            data.append(value)
    return found


def read(block):
    return [(name_of(event), data_of(event)) for event in events(block) if b"data" in event and naive(event)]


line = st.one_of(
    st.sampled_from(
        [b"data: x", b"data:y", b"data", b"data: ", b": ping", b"event: error", b"event:e", b"id: 1", b"datax: 1", b""]
    ),
    st.binary(max_size=6).filter(lambda raw: not raw.startswith(b"\xef\xbb\xbf")),
)
streams = st.builds(
    lambda bom, lines: bom + b"".join(text + end for text, end in lines),
    st.sampled_from([b"", b"\xef\xbb\xbf"]),
    st.lists(st.tuples(line, st.sampled_from([b"\n", b"\n\n", b"\r\n", b"\r\n\r\n", b"\r", b"\r\r"])), max_size=12),
)


@st.composite
def split_streams(draw):
    stream = draw(streams)
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    return stream, [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


@given(split_streams())
def test_any_split_yields_the_same_bytes_and_events(case):
    stream, chunks = case
    splitter = EventSplitter()
    blocks = [splitter.feed(chunk) for chunk in chunks]
    rest = splitter.take_rest()
    assert b"".join(blocks) + rest == stream
    found = [event for block in blocks for event in read(block)]
    if rest.endswith((b"\r", b"\n")):
        found += read(rest)
    assert found == naive(stream)


@given(split_streams())
def test_what_is_left_holds_no_complete_event_but_one_that_a_bare_cr_ends(case):
    _, chunks = case
    splitter = EventSplitter()
    for chunk in chunks:
        splitter.feed(chunk)
    assert not naive(splitter.take_rest().removesuffix(b"\r"))


@given(split_streams(), st.integers(1, 8))
def test_a_small_bound_changes_no_byte_and_aligned_blocks_are_whole_events(case, bound):
    stream, chunks = case
    splitter = EventSplitter(max_event=bound)
    out, boundary = b"", True
    for chunk in chunks:
        block = splitter.feed(chunk)
        if block and splitter.aligned:
            assert boundary
        out += block
        if block:
            boundary = _at_boundary(out)
    assert out + splitter.take_rest() == stream


@given(split_streams(), st.integers(1, 8))
def test_between_events_a_chunk_of_whole_ones_need_not_be_fed(case, bound):
    _, chunks = case
    fed, spared = EventSplitter(max_event=bound), EventSplitter(max_event=bound)
    for chunk in chunks:
        block = chunk if spared.between and chunk.endswith(b"\n\n") else spared.feed(chunk)
        assert block == fed.feed(chunk)
        if block:
            assert spared.aligned is fed.aligned
    assert (spared.take_rest(), spared.aligned) == (fed.take_rest(), fed.aligned)


def test_between_events_is_where_nothing_is_held_or_half_out():
    splitter = EventSplitter(max_event=4)
    seen = [splitter.between]
    for chunk in (b"data: x\n\n", b"da", b"ta\n\n", b"data: long", b"er", b"\n\n", b"data: y\n\n"):
        splitter.feed(chunk)
        seen.append(splitter.between)
    # Right behind the end of an event that went out in parts, the block that ended it is still the last one.
    assert seen == [True, True, False, True, False, False, False, True]


def _at_boundary(out):
    return EventSplitter().feed(out + b"x") == out


@given(streams)
def test_events_lose_no_byte_but_stray_blank_lines(stream):
    pieces = events(stream)
    assert b"".join(pieces) in {stream, stream.rstrip(b"\r\n")} or not pieces


def test_the_usual_chunk_passes_as_the_same_object():
    chunk = b"data: 1\n\ndata: 2\n\n"
    assert EventSplitter().feed(chunk) is chunk


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\n\r\n", b"\r\n\n"])
def test_an_event_is_handed_out_with_its_last_byte(end):
    splitter = EventSplitter()
    event = b"data: x" + end
    for at in range(len(event) - 1):
        assert splitter.feed(event[at : at + 1]) == b""
    assert splitter.feed(event[-1:]) == event


def test_a_cr_at_the_end_waits_for_the_lf_that_may_belong_to_it():
    splitter = EventSplitter()
    assert splitter.feed(b"data: x\r\n\r") == b""
    assert splitter.feed(b"\ndata: y") == b"data: x\r\n\r\n"


def test_a_lone_blank_line_is_not_held_back():
    splitter = EventSplitter()
    assert splitter.feed(b"\n") == b"\n"
    assert splitter.feed(b"\r\n") == b"\r\n"


def test_an_overlong_event_is_handed_out_in_parts_and_the_next_one_is_aligned_again():
    splitter = EventSplitter(max_event=10)
    assert splitter.feed(b"data: 1234") == b""
    assert splitter.feed(b"5") == b"data: 12345"
    assert not splitter.aligned
    assert splitter.feed(b"678\n") == b"678"
    assert not splitter.aligned
    assert splitter.feed(b"\ndata: x") == b"\n\n"
    assert not splitter.aligned
    assert splitter.feed(b"\n\n") == b"data: x\n\n"
    assert splitter.aligned


def test_an_overlong_event_that_ends_with_its_chunk_realigns():
    splitter = EventSplitter(max_event=4)
    assert splitter.feed(b"data: 1") == b"data: 1"
    assert splitter.feed(b"2\n\n") == b"2\n\n"
    assert not splitter.aligned
    assert splitter.feed(b"data: x\n\n") == b"data: x\n\n"
    assert splitter.aligned


def test_a_long_event_in_small_chunks_costs_linear_time():
    splitter = EventSplitter()
    for _ in range(20_000):
        assert splitter.feed(b"x" * 40) == b""
    assert len(splitter.feed(b"\n\n")) == 800_002


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: x\n\n", b"x"),
        (b"data:x\n\n", b"x"),
        (b"data:  x\r\n\r\n", b" x"),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"data\n\n", b""),
        (b": ping\n\n", b""),
        (b"\xef\xbb\xbfdata: x\n\n", b"x"),
        (b"event: e\ndata: x", b"x"),
        (b"data: a\rdata: b\n\n", b"a\nb"),
    ],
)
def test_data_lines_are_joined(event, data):
    assert data_of(event) == data


@pytest.mark.parametrize(
    ("event", "name"),
    [
        (b"event: error\ndata: x\n\n", b"error"),
        (b"data: x\nevent:late\n\n", b"late"),
        (b"data: x\revent: late\r\r", b"late"),
        (b"event: one\nevent: two\n\n", b"two"),
        (b"data: event: x\n\n", b""),
        (b": event: x\n\n", b""),
        (b"event\n\n", b""),
    ],
)
def test_the_last_event_field_names_an_event(event, name):
    assert name_of(event) == name

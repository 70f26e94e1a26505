"""Messages as plain data: header look-up, our own headers, and which names `Connection` takes with it."""

import pytest

from gateway.core.message import RequestHead, ResponseHead, first, header, named_by_connection


def triples(*pairs):
    return [(name.lower(), name, value) for name, value in pairs]


def test_the_first_of_several_values_is_found_by_its_lower_case_name():
    headers = triples((b"X-Request-Id", b"1"), (b"x-request-id", b"2"))
    assert first(headers, b"x-request-id") == b"1"
    assert first(headers, b"retry-after") is None


def test_a_header_of_ours_keeps_its_spelling_and_knows_its_lower_case_name():
    assert header(b"X-Team", b"search") == (b"x-team", b"X-Team", b"search")


@pytest.mark.parametrize("value", [b"a\r\nx-evil: 1", b"a\nb", b"a\0b"])
def test_a_value_that_could_break_the_framing_is_refused_without_being_quoted(value):
    with pytest.raises(ValueError, match="X-Team") as caught:
        header(b"X-Team", value)
    assert "evil" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([], set()),
        ([b"keep-alive"], set()),
        ([b"close, X-Hop"], {b"x-hop"}),
        ([b"X-One ,", b" x-two,Keep-Alive"], {b"x-one", b"x-two"}),
    ],
)
def test_connection_names_hop_by_hop_headers_in_any_case(values, names):
    headers = triples((b"Host", b"h"), *((b"Connection", value) for value in values))
    assert named_by_connection(headers) == names


@pytest.mark.parametrize(
    ("framing", "may_have_body"),
    [({}, False), ({"content_length": 0}, False), ({"content_length": 5}, True), ({"chunked": True}, True)],
)
def test_a_request_has_a_body_only_where_its_framing_says_so(framing, may_have_body):
    assert RequestHead(b"POST", b"/v1/chat/completions", [], **framing).has_body is may_have_body


def test_of_several_fields_of_a_request_the_last_is_found_and_its_length_is_not_among_them():
    head = RequestHead(b"GET", b"/", triples((b"X-A", b"1"), (b"x-a", b"2"), (b"Content-Length", b"0")))
    assert head.fields == {b"x-a": b"2"}
    assert head.fields is head.fields


def test_a_request_that_differs_in_its_length_only_shares_what_was_read_of_the_rest():
    head = RequestHead(b"POST", b"/v1/x", triples((b"X-A", b"1")), version=b"1.0", content_length=5, keep_alive=False)
    again = head.again(7)
    assert (head.content_length, again.content_length, again.fields) == (5, 7, {b"x-a": b"1"})
    same = ("method", "target", "headers", "version", "chunked", "expect_continue", "keep_alive", "rendered")
    assert [getattr(again, name) for name in same] == [getattr(head, name) for name in same]


def test_a_response_head_made_of_lines_says_the_same_as_one_made_of_headers():
    headers = triples((b"Content-Type", b"text/plain"), (b"X-A", b"1:2"), (b"x-a", b""))
    made = ResponseHead.of(200, headers, phrase=b"OK")
    read = ResponseHead(200, made.names, [b"Content-Type:text/plain", b"X-A:  1:2 ", b"x-a:"], b"OK")
    assert read.headers == made.headers == headers
    for head in (made, read):
        assert [head.value(name) for name in (b"content-type", b"x-a", b"age")] == [b"text/plain", b"1:2", b""]


def test_a_response_head_without_framing_ends_with_its_connection():
    head = ResponseHead.of(200, [], phrase=b"OK")
    assert (head.status, head.phrase, head.content_length, head.chunked) == (200, b"OK", None, False)

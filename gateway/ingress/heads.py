"""From the bytes of one head to a `RequestHead`: llhttp judges it, we take it apart.

Law: llhttp is only ever given one complete head, and has to find its end exactly where we found it. Once it has passed a head,
every line in it is `token ":" value CRLF`, and splitting is all that is left; doing that here costs half of what llhttp's
callbacks would, because the lines that clients send with every request are remembered, already split. The parser is kept from
request to request while no body follows; after one it would wait for that body, and a new parser is cheaper than keeping the old
one in step.
"""

from __future__ import annotations

from typing import Final

import httptools

from gateway.config.snapshot import ServerPlan
from gateway.core.message import Header, RequestHead
from gateway.errors import Reason, Refused
from gateway.ingress import framing

_STEADY: Final = frozenset(
    b"accept accept-encoding accept-language anthropic-beta anthropic-version cache-control connection content-type host "
    b"openai-beta openai-organization openai-project origin user-agent via x-forwarded-host x-forwarded-port x-forwarded-proto "
    b"x-stainless-arch x-stainless-async x-stainless-lang x-stainless-os x-stainless-package-version x-stainless-read-timeout "
    b"x-stainless-retry-count x-stainless-runtime x-stainless-runtime-version x-stainless-timeout".split(),
)
"""Headers worth remembering: no credentials, nothing that differs from request to request."""
_REMEMBERED: Final = 1024
_LONGEST_REMEMBERED: Final = 256
_plain: Final[dict[bytes, Header]] = {}
_framing: Final[dict[bytes, Header]] = {}


def split(line: bytes) -> Header:
    """Return the header in a line that llhttp has passed (without its CRLF), and remember it where that is worth while."""
    name, _, value = line.partition(b":")
    lower = name.lower()
    # RFC 9112 section 5.1: the whitespace round a value is not part of it.
    header = (lower, name, value.strip(b" \t"))
    if lower in _STEADY and len(line) <= _LONGEST_REMEMBERED:
        known = _framing if lower in framing.FIELDS else _plain
        if len(known) >= _REMEMBERED:
            known.clear()
        known[line] = header
    return header


_KNOWN_HEADS: Final = 256
_LONGEST_KNOWN: Final = 4096


class KnownHeads:
    """Heads that were read before, by their bytes without the length.

    The heads an SDK sends differ in nothing else, and reading one anew costs ten times as much as finding it. Bounded, emptied when
    full; in memory only, since the bytes have the client's key in them. Each server has its own, because their plans differ.
    """

    __slots__ = ("_heads", "_plan")

    def __init__(self) -> None:
        self._heads: dict[bytes, RequestHead] = {}
        self._plan: ServerPlan | None = None

    def find(self, key: bytes, plan: ServerPlan) -> RequestHead | None:
        """Return the head with these bytes as it was read under this plan."""
        if plan is not self._plan:
            self._heads.clear()
            self._plan = plan
        return self._heads.get(key)

    def keep(self, key: bytes, head: RequestHead) -> None:
        """Remember a head that has passed all checks."""
        if len(self._heads) >= _KNOWN_HEADS:
            self._heads.clear()
        self._heads[key] = head


class HeadReader:
    """Reads the heads of one connection, one after the other."""

    __slots__ = ("_complete", "_known", "_parser", "headers")

    def __init__(self, known: KnownHeads) -> None:
        self._known = known
        self._parser: httptools.HttpRequestParser | None = None
        self._complete = False
        self.headers: list[Header] = []
        """Those of the head last read; empty where llhttp did not pass it."""

    def read(self, raw: bytes, plan: ServerPlan) -> RequestHead:
        """Return the checked head that is `raw`, from the request line to the empty line; raises Refused."""
        start = raw.find(b"\r\nContent-Length: ")
        if start < 0:
            start = raw.find(b"\r\ncontent-length: ")
        if start < 0 or len(raw) > _LONGEST_KNOWN:
            return self._read(raw, plan)
        end = raw.find(b"\r\n", start + 18)
        digits = raw[start + 18 : end]
        if not digits.isdigit() or len(digits) > 18:
            return self._read(raw, plan)
        key = raw[:start] + raw[end:]
        known = self._known.find(key, plan)
        if known is None:
            request = self._read(raw, plan)
            if request.content_length is not None:
                _ = request.fields
                self._known.keep(key, request)
            return request
        length = int(digits)
        if length > plan.body_bytes:
            raise framing.too_large(plan.body_bytes)
        self.headers = known.headers
        return known.again(length)

    def _read(self, raw: bytes, plan: ServerPlan) -> RequestHead:
        self.headers = headers = []
        lines = raw[:-4].split(b"\r\n")
        line = framing.request_line(lines[0])
        self._complete = False
        parser = self._parser
        if parser is None:
            parser = self._parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(raw)
        except httptools.HttpParserUpgrade:
            # `read_head` decides: an upgrade is refused, or ignored where HTTP/1.0 has none.
            self._parser = None
        except httptools.HttpParserError:
            self._parser = None
            raise framing.parser_refusal(raw) from None
        if not self._complete:
            raise framing.bad("The request head is malformed.")
        if len(lines) > plan.headers + 1:
            raise Refused(431, Reason.HEADERS_TOO_LARGE, f"The request has more than {plan.headers} headers.")
        plain = _plain.get
        fields: list[Header] = []
        del lines[0]
        for each in lines:
            header = plain(each)
            if header is None:
                header = _framing.get(each) or split(each)
                if header[0] in framing.FIELDS:
                    fields.append(header)
            headers.append(header)
        request = framing.read_head(line, headers, fields)
        length = request.content_length
        if length or request.chunked:
            self._parser = None
            if length is not None and length > plan.body_bytes:
                raise framing.too_large(plan.body_bytes)
        return request

    def close(self) -> None:
        """Let go of the parser, which refers back here."""
        self._parser = None

    def on_headers_complete(self) -> None:
        """Note that llhttp, too, sees the end of the head; called by the parser."""
        self._complete = True

"""Turns an outcome into a verdict: the one path from bytes to `Verdict`, shared by the dialects, each with its own table.

Order: an I/O fault says what it is; an HTTP answer is reduced to facts and matched against the table (law 3), unless a rule of the
operator's takes it first. A good answer costs a scan of its first bytes, not a parse. What the caller's own key caused is the
caller's (law 11).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import orjson

from gateway.core.limits import Stated
from gateway.core.matcher import ErrorFacts, Rule, match
from gateway.core.message import ResponseHead, first
from gateway.core.verdicts import OK, Fault, IOFault, Outcome, Verdict
from gateway.dialects.delays import delay_of, next_window, quota_left
from gateway.dialects.error_body import ErrorBody, is_page, read_error
from gateway.dialects.faults_openai import DEFAULT_IN_BAND_STATUS, IN_BAND_STATUS
from gateway.dialects.limits import limits_in_text, read_limits, refused_resource

_NEVER_SENT: Final = frozenset({IOFault.DNS, IOFault.CONNECT, IOFault.CONNECT_TIMEOUT, IOFault.TLS, IOFault.POOL_TIMEOUT})

_IO_FAULTS: Final[dict[IOFault, Fault]] = {
    IOFault.RESET: Fault.SERVER_ERROR,
    IOFault.MALFORMED: Fault.SERVER_ERROR,
    IOFault.TIMEOUT: Fault.TIMEOUT,
    IOFault.STALLED: Fault.STALLED,
}

_QUICKLY_GONE: Final = frozenset({IOFault.CONNECT, IOFault.RESET})
"""A refused or broken connection says little about the next one. A name or a certificate that is wrong stays wrong, and what ran
into a timeout has cost enough."""

SEARCHED_BYTES: Final = 16 * 1024
"""How much of an answer's body the operators' patterns see: what is said about an error stands at its start, and a pattern that
tries every place of a long text would hold up everybody."""

_OF_THE_KEY: Final = frozenset({Fault.BILLING, Fault.CREDENTIAL, Fault.MODEL_GONE})
_CALLERS_OWN: Final = Rule(Fault.CALLER)

_SUSPICIOUS: Final = re.compile(rb'"error"\s*:\s*[{"\[]|"object"\s*:\s*"error"')
"""An error that is not null, near the start of a 200: OpenRouter and others put it first, Responses objects put it early."""

_SCANNED_BYTES: Final = 2048
_BLANKS: Final = re.compile(rb"\s*")
_LONGEST_MESSAGE: Final = 300

_LIMIT: Final = re.compile(r"\blimit:? ?([\d,]{1,15})\b.{0,80}?\brequested:? ?([\d,]{1,15})", re.IGNORECASE | re.ASCII | re.DOTALL)
_TOO_LARGE: Final = re.compile(r"^request too large", re.IGNORECASE)

_KEY_LIKE: Final = re.compile(r"\b(?:(?:sk|pk|rk|gsk|xai)[-_]|AIza)[A-Za-z0-9_*.-]{4,}|\bBearer \S+")
"""Some providers quote the refused key, more or less masked (law 12)."""


def judge(outcome: Outcome, rules: Sequence[Rule], *, own_key: bool, now_unix: float, errors: Sequence[Rule] = ()) -> Verdict:
    """Classify an outcome by the dialect's rules, and before them by the operator's own, `errors`. Never raises.

    For 2xx and 3xx answers this is meant for inference paths, where a page or a redirect cannot be a model's answer; elsewhere
    they may be what the client asked for.
    """
    status = outcome.status
    if outcome.io is not None and status < 400:
        return _judge_io(outcome, outcome.io)
    good = 200 <= status < 300
    page = not outcome.in_stream and is_page(outcome.headers, outcome.body)
    if good and not outcome.in_stream and not page and not hides_an_error(outcome.body):
        return OK
    error = ErrorBody() if page else read_error(outcome.body)
    if good and not page:
        status = _in_band_status(error)
    delay = _stated_delay(outcome, error, status, now_unix)
    facts = ErrorFacts(
        status=status,
        names=frozenset(error.names),
        message=error.message,
        html=page,
        shaped=error.shaped,
        oversize=_never_fits(error.message),
        stated_delay=delay is not None,
        own_key=own_key,
        body=outcome.body[:SEARCHED_BYTES],
    )
    rule = match(facts, rules)
    if errors and status >= 400:
        rule = _overruled(rule, facts, errors)
    limited = rule.fault is Fault.RATE_LIMITED
    return Verdict(
        rule.fault,
        code=rule.code or _KEY_LIKE.sub("[key]", error.code),
        message=_KEY_LIKE.sub("[key]", error.message)[:_LONGEST_MESSAGE],
        delay=delay if rule.waits else None,
        retry_same=rule.retry_same and (first(outcome.headers, b"x-should-retry") or b"").strip().lower() != b"false",
        ambiguous=rule.ambiguous,
        scope=rule.scope,
        quick=rule.quick,
        quota_left=limited and rule.waits and delay is None and quota_left([*outcome.headers, *error.headers]),
        resource=refused_resource(error.message, error.names) if limited else None,
        stated=_stated_limits(error, now_unix) if limited else (),
    )


def _overruled(known: Rule, facts: ErrorFacts, errors: Sequence[Rule]) -> Rule:
    """Return what the operator's first fitting rule makes of an answer, else the dialect's own rule for it.

    Whatever an answer is called, the provider has done the work or not: that stays as the dialect knows it. With a key passed
    through from a client, what concerns keys and what they give access to is the caller's own (law 11).
    """
    for rule in errors:
        if rule.fits(facts):
            if not facts.own_key and rule.fault in _OF_THE_KEY:
                return _CALLERS_OWN
            return replace(rule, ambiguous=known.ambiguous, quick=known.quick and rule.fault is known.fault)
    return known


def _stated_delay(outcome: Outcome, error: ErrorBody, status: int, now_unix: float) -> float | None:
    # Only from answers that ask for patience: the message of another may echo what a client wrote.
    patient = status == 429 or status >= 498
    delay = delay_of(
        outcome.headers,
        error.message if patient else "",
        now_unix,
        retry_info=error.retry_delay if patient else "",
    )
    if delay is None and status == 429:
        delay = next_window([*outcome.headers, *error.headers], now_unix)
    return delay


def _stated_limits(error: ErrorBody, now_unix: float) -> Sequence[Stated]:
    in_text = limits_in_text(error.message)
    quoted = read_limits(ResponseHead.of(0, error.headers), now_unix=now_unix) if error.headers else ()
    return quoted if in_text is None else (in_text, *quoted)


def _judge_io(outcome: Outcome, io: IOFault) -> Verdict:
    sent = outcome.sent and io not in _NEVER_SENT
    fault = _IO_FAULTS.get(io, Fault.CONNECT)
    if not sent and fault is Fault.SERVER_ERROR:
        fault = Fault.CONNECT
    return Verdict(fault, code=io.value, message=outcome.detail[:_LONGEST_MESSAGE], ambiguous=sent, quick=io in _QUICKLY_GONE)


def hides_an_error(body: bytes) -> bool:
    """Whether a 200 is an error in disguise: a top-level `error` and no result beside it."""
    start = 0
    if body[:1].isspace():
        # Blank lines may precede the JSON for minutes, to keep the connection alive.
        blanks = _BLANKS.match(body)
        start = blanks.end() if blanks else 0
    if b'"error"' not in body[start : start + _SCANNED_BYTES] or not _SUSPICIOUS.search(body, start, start + _SCANNED_BYTES):
        return False
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    if isinstance(document, list) and document:
        document = document[0]
    if not isinstance(document, dict) or document.get("choices") or document.get("data"):
        return False
    if document.get("object") == "error":
        return True
    return bool(document.get("error")) and (not document.get("output") or document.get("status") == "failed")


def _in_band_status(error: ErrorBody) -> int:
    """The HTTP status that an error inside a 200 stands for: its own numeric code, else the one of its names."""
    if error.status:
        return error.status
    by_code = IN_BAND_STATUS.get(error.code.lower())
    if by_code:
        return by_code
    return min((IN_BAND_STATUS[name] for name in error.names if name in IN_BAND_STATUS), default=DEFAULT_IN_BAND_STATUS)


def _never_fits(message: str) -> bool:
    found = _LIMIT.search(message)
    if found is None:
        return _TOO_LARGE.match(message) is not None
    limit, requested = (int(number.replace(",", "") or "0") for number in found.groups())
    return requested > limit

"""How the published APIs say no: error objects, the 429 of a rate limit with its headers, and the pages of an edge network.

Apart from the good answers because both providers' spellings stand side by side here: OpenAI's `{"error": {message, type, param,
code}}` and Azure's, whose code is a string of the status or a name, and whose resets are whole seconds instead of Go durations.
"""

from __future__ import annotations

import math
from typing import Any

import orjson

from gateway.drill.answers import Whole
from gateway.drill.bucket import go_duration
from gateway.drill.plan import Denial, Meter

_SORRY = "The server had an error while processing your request. Sorry about that!"

_BY_STATUS: dict[int, tuple[str, str, str | None]] = {
    400: ("Invalid request.", "invalid_request_error", None),
    401: ("Incorrect API key provided.", "invalid_request_error", "invalid_api_key"),
    403: ("Country, region, or territory not supported.", "request_forbidden", "unsupported_country_region_territory"),
    404: ("The requested resource was not found.", "invalid_request_error", None),
    408: ("The request timed out.", "timeout", "request_timeout"),
    409: ("The resource was updated by another request.", "invalid_request_error", "conflict"),
    413: ("The request is too large.", "invalid_request_error", None),
    422: ("Unable to process the request.", "invalid_request_error", None),
    429: ("Rate limit reached. Please try again later.", "requests", "rate_limit_exceeded"),
    500: (_SORRY, "server_error", None),
    502: ("Bad gateway.", "cf_bad_gateway", "cf_bad_gateway"),
    503: ("The server is currently overloaded with other requests.", "service_unavailable_error", "server_is_overloaded"),
}

STREAM_ERROR: dict[str, Any] = {"message": _SORRY, "type": "server_error", "param": None, "code": "server_error"}
"""The error object inside a chat stream; the Responses API sends the same flat, with a `type` of its own."""


def error(status: int, message: str, kind: str, code: str | None = None, param: str | None = None) -> Whole:
    """OpenAI's error object."""
    return Whole(status, orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}))


def by_status(status: int) -> Whole:
    """What OpenAI says with this status when nothing more is known."""
    fallback = (_SORRY, "server_error", None) if status >= 500 else ("Invalid request.", "invalid_request_error", None)
    message, kind, code = _BY_STATUS.get(status, fallback)
    return error(status, message, kind, code)


def azure_error(status: int, code: str, message: str) -> Whole:
    """Azure's error object."""
    return Whole(status, orjson.dumps({"error": {"code": code, "message": message}}))


def bad_key(key: str, azure: bool) -> Whole:
    """401 for a missing or unknown credential. OpenAI shows both ends of a longer key, so a careless log of it is a leak."""
    if azure:
        text = "Access denied due to invalid subscription key or wrong API endpoint."
        hint = " Make sure to provide a valid key for an active subscription and use a correct regional API endpoint."
        return azure_error(401, "401", text + hint)
    if not key:
        text = "You didn't provide an API key. Provide it in an Authorization header using Bearer auth (Authorization: Bearer KEY)."
        return error(401, text, "invalid_request_error")
    shown = f"{key[:4]}{'*' * (len(key) - 8)}{key[-4:]}" if len(key) >= 16 else "*" * len(key)
    return error(401, f"Incorrect API key provided: {shown}.", "invalid_request_error", "invalid_api_key")


def no_model(model: str, azure: bool) -> Whole:
    """404 for a model or deployment this account does not have."""
    if azure:
        return azure_error(404, "DeploymentNotFound", "The API deployment for this resource does not exist.")
    text = f"The model `{model}` does not exist or you do not have access to it."
    return error(404, text, "invalid_request_error", "model_not_found")


def no_path(method: str, path: str, azure: bool) -> Whole:
    """404 for an address that is not there."""
    if azure:
        return azure_error(404, "404", "Resource not found")
    return error(404, f"Invalid URL ({method} {path})", "invalid_request_error")


def wrong_method(method: str, path: str) -> Whole:
    """405 for an address that is there, for another method."""
    return error(405, f"Not allowed to {method} on {path}.", "invalid_request_error", "method_not_supported")


def no_object(kind: str, name: str) -> Whole:
    """404 for an object this account never made: what a client gets whose follow-up call went to another account."""
    return error(404, f"{kind} with id '{name}' not found.", "invalid_request_error", param="id")


def bad_json() -> Whole:
    """400 for a body that is no JSON object."""
    return error(400, "We could not parse the JSON body of your request.", "invalid_request_error")


def missing(field: str) -> Whole:
    """400 for a required parameter that is not there."""
    text = f"Missing required parameter: '{field}'."
    return error(400, text, "invalid_request_error", "missing_required_parameter", field)


def meter_lines(meters: list[Meter], azure: bool) -> list[tuple[str, str]]:
    """The `x-ratelimit-*` headers. A reset tells the time to a full bucket: OpenAI as a Go duration, Azure in whole seconds."""
    lines = []
    for meter in meters:
        reset = str(math.ceil(meter.reset_s)) if azure else go_duration(meter.reset_s)
        lines += [
            (f"x-ratelimit-limit-{meter.resource}", str(int(meter.limit))),
            (f"x-ratelimit-remaining-{meter.resource}", str(int(meter.remaining + 1e-9))),
            (f"x-ratelimit-reset-{meter.resource}", reset),
        ]
    return lines


_PERIODS = {1.0: ("sec", "?PS"), 60.0: ("min", "?PM"), 3600.0: ("hour", "?PH"), 86400.0: ("day", "?PD")}


def rate_limited(denial: Denial, model: str, azure: bool) -> Whole:
    """429 in the published words. A request that can never fit gets no delay to wait for, but limit and size in its message."""
    limit, used, asked = int(denial.amount), int(denial.used), int(denial.requested)
    seconds = 0 if math.isinf(denial.wait_s) else max(1, math.ceil(denial.wait_s))
    unit, letter = ("requests", "R") if denial.resource == "requests" else ("tokens", "T")
    period, short = _PERIODS.get(denial.limit.period_s, (f"{denial.limit.period_s:g} s", f"{letter}PS"))
    short = short.replace("?", letter)
    if math.isinf(denial.wait_s):
        text = f"Request too large for {model} on {unit} per {period} ({short}): Limit {limit}, Requested {asked}."
        text += " The input or output tokens must be reduced in order to run successfully."
    elif azure:
        text = "Requests to this operation have exceeded call rate limit of your current pricing tier."
        if denial.resource == "tokens":
            text = text.replace("call rate", "token rate")
        text += f" Please retry after {seconds} second{'' if seconds == 1 else 's'}."
    else:
        text = f"Rate limit reached for {model} on {unit} per {period} ({short}): Limit {limit}, Used {used}, Requested {asked}."
        text += f" Please try again in {go_duration(denial.wait_s)}."
    answer = azure_error(429, "429", text) if azure else error(429, text, unit, "rate_limit_exceeded")
    if not math.isinf(denial.wait_s):
        if denial.limit.advice in {"both", "seconds"}:
            answer.headers.append(("retry-after", str(seconds)))
        if denial.limit.advice in {"both", "ms"}:
            answer.headers.append(("retry-after-ms", str(math.ceil(round(denial.wait_s * 1000, 6)))))
    return answer


_PAGES = {
    200: ("Sign in to the network", "<h1>Welcome</h1><form action='/login'><button>Accept and continue</button></form>"),
    403: ("Attention Required! | Cloudflare", "<h1>Sorry, you have been blocked</h1><p>You are unable to access this site.</p>"),
    503: ("Just a moment...", "<h1>Checking your browser</h1><noscript>Enable JavaScript and cookies to continue</noscript>"),
}


def page(status: int) -> Whole:
    """An HTML page from between the client and the API."""
    title, text = _PAGES.get(
        status, (f"{status}: error", f"<center><h1>Error {status}</h1></center><hr><center>cloudflare</center>")
    )
    body = f"<!DOCTYPE html>\n<html><head><title>{title}</title></head>\n<body>{text}</body></html>\n".encode()
    server = "nginx" if status == 200 else "cloudflare"
    headers = [("server", server)] if status == 200 else [("server", server), ("cf-ray", "8f0c0ffee0c0ffee-DRL")]
    return Whole(status, body, headers=headers, content_type="text/html; charset=UTF-8")

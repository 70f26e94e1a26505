"""The error objects which the gateway makes itself, in the shape the client's SDK reads.

One function for all layers, so that a refusal looks the same wherever it was decided: the machine-readable word is always the
`Reason`, and the `type` is what that provider would say for the status, because SDKs and agents branch on it. Upstream errors are
relayed as they came and never pass through here. Separate from the dialects proper: those read a provider's wire, this writes to
a client's.
"""

from __future__ import annotations

from typing import Final

import orjson

_OPENAI_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}
_ANTHROPIC_TYPES: Final = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def refusal_body(reason: str, message: str, status: int, *, shape: str = "openai", request_id: str = "") -> bytes:
    """Return the JSON body of a refusal, in the `openai` or `anthropic` shape.

    OpenAI (and Azure): `{"error": {"message", "type", "param", "code"}}`, where `code` is the reason. Anthropic:
    `{"type": "error", "error": {"type", "message"}, "request_id"}`; it has no field for a code, and the reason travels in the
    `x-gateway-reason` header only. A status without a word of its own gets the general one for callers (4xx) or servers (5xx).
    """
    if shape == "anthropic":
        kind = _ANTHROPIC_TYPES.get(status) or ("invalid_request_error" if status < 500 else "api_error")
        return orjson.dumps({"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id})
    kind = _OPENAI_TYPES.get(status) or ("invalid_request_error" if status < 500 else "server_error")
    return orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": str(reason)}})

"""Reads what a client's request line asks for, before any body is read.

One place knows every address style that clients use (OpenAI, Azure, Anthropic, `/providers/{name}/...`), so that routing and
metrics see one canonical path whatever the style, and so that a path which names a stored object (`/v1/responses/{id}`) is never
mistaken for a stateless model call (law 10). Paths are compared as raw bytes: an exotic spelling is `other`, which is relayed
untouched and never replayed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Literal
from urllib.parse import quote, unquote_to_bytes

from gateway.core.plan import INFERENCE, Family
from gateway.dialects.base import Inbound

STATELESS: Final[dict[bytes, Family]] = {
    b"/chat/completions": Family.CHAT,
    b"/completions": Family.COMPLETIONS,
    b"/responses": Family.RESPONSES,
    b"/responses/compact": Family.RESPONSES,
    b"/responses/input_tokens": Family.RESPONSES,
    b"/messages": Family.MESSAGES,
    b"/messages/count_tokens": Family.MESSAGES,
    b"/embeddings": Family.EMBEDDINGS,
    b"/moderations": Family.MODERATIONS,
    b"/images/generations": Family.IMAGES,
    b"/images/edits": Family.IMAGES,
    b"/images/variations": Family.IMAGES,
    b"/audio/speech": Family.AUDIO,
    b"/audio/transcriptions": Family.AUDIO,
    b"/audio/translations": Family.AUDIO,
}
"""Endpoints whose requests stand alone, by their path below the API root. Anything below them names a stored object."""

_STATEFUL: Final[dict[bytes, Family]] = {
    b"files": Family.FILES,
    b"uploads": Family.FILES,
    b"batches": Family.BATCHES,
    b"fine_tuning": Family.FINE_TUNING,
    b"realtime": Family.REALTIME,
    b"videos": Family.VIDEOS,
}
"""Families of whole trees, by first path segment: their objects live in one account."""

_OBJECTS: Final = frozenset(
    {
        b"assistants",
        b"audio",
        b"chat",
        b"chatkit",
        b"containers",
        b"conversations",
        b"evals",
        b"images",
        b"messages",
        b"models",
        b"organization",
        b"responses",
        b"skills",
        b"threads",
        b"vector_stores",
    },
)
"""First segments of other trees of account-bound objects: even where a body names a model, it is not what routes the request."""

KEY_PARAMETERS: Final = frozenset({b"api-key", b"key", b"subscription-key"})
"""Where a query may carry a credential, in any case: Azure's Realtime addresses, Google's, API Management's."""

_CACHED_PATHS: Final = 2048
_LONGEST_CACHED: Final = 256


def read_target(target: bytes) -> Inbound:
    """Read a request target in origin form. Never raises; an address that nobody knows is family `other` with its path kept.

    The result may be shared between requests: do not change it.
    """
    known = _COMMON.get(target)
    if known is not None:
        return known
    path, mark, rest = target.partition(b"?")
    inbound = _read_path_cached(path) if len(path) <= _LONGEST_CACHED else _read_path(path)
    if not mark:
        return inbound
    query = mark + rest
    model = inbound.model
    if inbound.family is Family.REALTIME:
        named = parameter(query, b"model") or parameter(query, b"deployment")
        model = named.decode("utf-8", "replace") if named else None
    return Inbound(
        family=inbound.family,
        api=inbound.api,
        path=inbound.path,
        query=query,
        model=model,
        provider=inbound.provider,
        shape=inbound.shape,
        azure=inbound.azure,
    )


def body_model_kind(inbound: Inbound, content_type: bytes) -> Literal["json", "multipart", "none"]:
    """Tell how the body of such a request names its model; `none` where it does not, or where the name must not route it.

    Account-bound objects (files, batches, fine-tuning jobs, assistants ...) are `none` even if their body has a `model`: later
    requests for the same object name only its id, so all of them must take the same way. Whatever else is not a form is read as
    JSON regardless of its content type, because some providers do the same.
    """
    if inbound.family not in INFERENCE and (inbound.family is not Family.OTHER or _first_segment(inbound.path) in _OBJECTS):
        return "none"
    return "multipart" if content_type[:10].lower() == b"multipart/" else "json"


def parameter(query: bytes, name: bytes) -> bytes | None:
    """Return the first value of a query parameter, decoded, or None. `query` may start with `?`."""
    for field in query.removeprefix(b"?").split(b"&"):
        key, _, value = field.partition(b"=")
        if key == name or unquote_to_bytes(key) == name:
            return unquote_to_bytes(value.replace(b"+", b" "))
    return None


def without_parameter(query: bytes, name: bytes) -> bytes:
    """Return the query without any parameter of this name; the others keep their bytes and order."""
    if not query:
        return query
    fields = query[1:].split(b"&")
    kept = [field for field in fields if unquote_to_bytes(field.partition(b"=")[0]) != name]
    if len(kept) == len(fields):
        return query
    return b"?" + b"&".join(kept) if kept else b""


def key_in(query: bytes) -> bytes | None:
    """Return the key that a query carries, as Azure's and Google's addresses allow; None where there is none."""
    for field in query[1:].split(b"&"):
        name, _, value = field.partition(b"=")
        if value and unquote_to_bytes(name).lower() in KEY_PARAMETERS:
            return unquote_to_bytes(value.replace(b"+", b" "))
    return None


def without_keys(inbound: Inbound) -> Inbound:
    """Return the address without any key in its query (law 12)."""
    fields = inbound.query[1:].split(b"&")
    kept = [field for field in fields if unquote_to_bytes(field.partition(b"=")[0]).lower() not in KEY_PARAMETERS]
    if len(kept) == len(fields):
        return inbound
    query = b"?" + b"&".join(kept) if kept else b""
    return Inbound(
        family=inbound.family,
        api=inbound.api,
        path=inbound.path,
        query=query,
        model=inbound.model,
        provider=inbound.provider,
        shape=inbound.shape,
        azure=inbound.azure,
    )


def with_parameter(query: bytes, name: bytes, value: str) -> bytes:
    """Return the query with this parameter set once, as its last field."""
    rest = without_parameter(query, name)
    glue = b"&" if len(rest) > 1 else b""
    return (rest or b"?") + glue + name + b"=" + quote(value, safe="").encode("ascii")


def _read_path(path: bytes) -> Inbound:
    provider: str | None = None
    if path.startswith(b"/providers/"):
        name, slash, rest = path[len(b"/providers/") :].partition(b"/")
        if name and slash:
            provider = unquote_to_bytes(name).decode("utf-8", "replace")
            path = slash + rest
            if not path.startswith((b"/v1/", b"/openai/")):
                path = b"/v1" + path
    model: str | None = None
    azure = path.startswith(b"/openai/")
    if path.startswith(b"/v1/"):
        below = path[len(b"/v1") :]
    elif path.startswith(b"/openai/v1/"):
        below = path[len(b"/openai/v1") :]
    elif azure:
        below = path[len(b"/openai") :]
        if below.startswith(b"/deployments/"):
            deployment, slash, rest = below[len(b"/deployments/") :].partition(b"/")
            if deployment and rest:
                model = unquote_to_bytes(deployment).decode("utf-8", "replace")
                below = slash + rest
    else:
        return Inbound(family=Family.OTHER, api=path.decode("latin-1"), path=path, query=b"", provider=provider)
    first = _first_segment(below)
    family = STATELESS.get(below) or _STATEFUL.get(first, Family.OTHER)
    if below == b"/messages/batches" or below.startswith(b"/messages/batches/"):
        family = Family.BATCHES
    return Inbound(
        family=family,
        api="/v1" + below.decode("latin-1"),
        path=below,
        query=b"",
        model=model,
        provider=provider,
        shape="anthropic" if first == b"messages" else "openai",
        azure=azure,
    )


def _first_segment(path: bytes) -> bytes:
    return path[1:].partition(b"/")[0]


_read_path_cached = lru_cache(maxsize=_CACHED_PATHS)(_read_path)

_COMMON: Final[dict[bytes, Inbound]] = {b"/v1" + below: _read_path(b"/v1" + below) for below in STATELESS}

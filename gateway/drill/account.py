"""The account behind a simulated provider: which keys and models it knows, which objects it made, what it says to a request.

Apart from the server because this is the healthy part: no clock, no socket, no fault. Objects belong to the account that made them;
a follow-up call that reaches another account gets 404 there, which is how a gateway that moves them is found out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import unquote

import orjson

from gateway.drill import answers, refusals
from gateway.drill.address import Address
from gateway.drill.answers import Ask, Events, Voice, Whole
from gateway.drill.faults import Call

_MODELS = ("gpt-4o", "gpt-4o-mini", "text-embedding-3-small")
_MANY_OBJECTS = 10_000
MAKERS: dict[str, tuple[str, Callable[[Ask], Whole | Events]]] = {
    "/v1/chat/completions": ("messages", answers.chat),
    "/v1/completions": ("prompt", answers.completions),
    "/v1/responses": ("input", answers.responses),
    "/v1/embeddings": ("input", answers.embeddings),
    "/v1/moderations": ("input", answers.moderations),
}
"""Inference: the parameter it cannot do without, and who makes the answer."""


class Account:
    """One upstream account. `keys`: the credentials it knows, None for any or none; `models`: None for any name."""

    def __init__(self, voice: Voice, *, keys: Collection[str] | None = None, models: Collection[str] | None = None) -> None:
        self.voice = voice
        self.keys = None if keys is None else frozenset(keys)
        self.models = None if models is None else tuple(models)
        self._objects: dict[str, dict[str, Any]] = {}

    def answer(
        self,
        call: Call,
        address: Address,
        body: dict[str, Any] | None,
        raw: bytes,
        *,
        content_type: str,
        number: int,
        unix_s: int,
    ) -> Whole | Events:
        """What this account says to a request that nothing has disturbed.

        `body` is `raw` parsed, None if it is no JSON object; `number` goes into the ids of what is made.
        """
        azure = address.azure
        if self.keys is not None and call.key not in self.keys:
            return refusals.bad_key(call.key, azure)
        if address.missing:
            return refusals.no_path(call.method, call.path, azure)
        ask = Ask(self.voice, number, unix_s, call.model, body or {}, azure)
        if call.path in MAKERS:
            needed, make = MAKERS[call.path]
            if call.method != "POST":
                return refusals.wrong_method(call.method, call.path)
            if body is None:
                return refusals.bad_json()
            if not call.model:
                return refusals.missing("model")
            if self.models is not None and call.model not in self.models:
                return refusals.no_model(call.model, azure)
            if needed not in body:
                return refusals.missing(needed)
            if call.path == "/v1/responses" and body.get("store") is not False:
                self._keep(answers.response_object(ask))
            return make(ask)
        return self._object(call, ask, raw, content_type)

    def _object(self, call: Call, ask: Ask, raw: bytes, content_type: str) -> Whole:
        """Models, and the objects this account made: stored responses and files."""
        if call.method == "POST" and call.path == "/v1/files":
            made = answers.file_object(ask, *answers.upload(content_type, raw))
            self._keep(made)
            return Whole(200, orjson.dumps(made))
        collection, _, name = call.path.removeprefix("/v1/").partition("/")
        name = unquote(name)
        if collection == "models" and call.method in {"GET", "HEAD"}:
            listed = self.models if self.models is not None else _MODELS
            if not name:
                return _listed([answers.model_object(model, self.voice.name) for model in listed])
            if self.models is not None and name not in self.models:
                return refusals.no_model(name, ask.azure)
            return Whole(200, orjson.dumps(answers.model_object(name, self.voice.name)))
        kind = {"responses": "response", "files": "file"}.get(collection)
        if kind is None or (not name and kind == "response"):
            return refusals.no_path(call.method, call.path, ask.azure)
        if not name:
            return _listed([one for one in self._objects.values() if one["object"] == kind])
        found = self._objects.get(name)
        if found is None or found["object"] != kind:
            return refusals.no_object(kind.capitalize(), name)
        if call.method == "DELETE":
            del self._objects[name]
            return Whole(200, orjson.dumps({"id": name, "object": kind, "deleted": True}))
        if call.method in {"GET", "HEAD"}:
            return Whole(200, orjson.dumps(found))
        return refusals.wrong_method(call.method, call.path)

    def _keep(self, made: dict[str, Any]) -> None:
        if len(self._objects) >= _MANY_OBJECTS:
            del self._objects[next(iter(self._objects))]
        self._objects[made["id"]] = made


def _listed(objects: list[dict[str, Any]]) -> Whole:
    return Whole(200, orjson.dumps({"object": "list", "data": objects, "has_more": False}))

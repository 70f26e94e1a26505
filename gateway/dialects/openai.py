"""The `openai` dialect: OpenAI itself, and everyone who speaks its wire format.

Addresses are the provider's base path plus whatever the client asked for below the API root, byte for byte (law 4): an endpoint
that was invented yesterday works today. What errors mean stands in `faults_openai`, what streams say in `streams`.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.core.matcher import Rule
from gateway.core.message import Header, header
from gateway.core.plan import Family
from gateway.core.verdicts import Outcome, Verdict
from gateway.dialects.base import Inbound, StreamReader
from gateway.dialects.faults_openai import OPENAI_RULES
from gateway.dialects.inbound import parameter, with_parameter, without_parameter
from gateway.dialects.judge import hides_an_error, judge
from gateway.dialects.streams import reader_for
from gateway.dialects.usage import usage_of_body


class OpenAI:
    """OpenAI's wire format, as OpenAI and compatible providers speak it."""

    name = "openai"

    def target(self, inbound: Inbound, *, base_path: bytes, api_version: str | None, model: str | None) -> bytes:
        """Return base path + path + query as the client sent them.

        Two things are translated: an `api-version` from an Azure-style address is dropped, and a Realtime session's model, which
        travels in the query, is set.
        """
        del api_version
        query = inbound.query
        if inbound.azure:
            query = without_parameter(query, b"api-version")
        if inbound.family is Family.REALTIME and inbound.model is not None:
            wanted = model or inbound.model
            if parameter(query, b"model") != wanted.encode("utf-8"):
                query = with_parameter(without_parameter(query, b"deployment"), b"model", wanted)
        return base_path + inbound.path + query

    def authorize(self, secret: str) -> Header:
        return header(b"Authorization", b"Bearer " + secret.encode("utf-8"))

    def model_in_path(self, inbound: Inbound, *, api_version: str | None) -> bool:
        del api_version
        return inbound.family is Family.REALTIME

    def classify(self, outcome: Outcome, *, own_key: bool, now_unix: float, errors: Sequence[Rule] = ()) -> Verdict:
        return judge(outcome, OPENAI_RULES, own_key=own_key, now_unix=now_unix, errors=errors)

    def suspects(self, body: bytes) -> bool:
        return hides_an_error(body)

    def stream(self, family: Family) -> StreamReader:
        return reader_for(family)

    def usage(self, body: bytes) -> tuple[int, int] | None:
        return usage_of_body(body)

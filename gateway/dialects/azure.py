"""The `azure` dialect: OpenAI models in Azure, where a model is a deployment.

The bodies are OpenAI's; the addresses are not. With an `api_version` the dated addresses are used, which put the deployment into
the path of model calls; without one the v1 addresses, which take the deployment's name as `model` in the body.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

from gateway.core.matcher import Rule
from gateway.core.message import Header, header
from gateway.core.plan import Family
from gateway.core.verdicts import Outcome, Verdict
from gateway.dialects.base import Inbound, StreamReader
from gateway.dialects.faults_openai import AZURE_RULES
from gateway.dialects.inbound import parameter, with_parameter, without_parameter
from gateway.dialects.judge import hides_an_error, judge
from gateway.dialects.streams import reader_for
from gateway.dialects.usage import usage_of_body

_BY_DEPLOYMENT: Final = frozenset(
    {
        b"/chat/completions",
        b"/completions",
        b"/embeddings",
        b"/audio/speech",
        b"/audio/transcriptions",
        b"/audio/translations",
        b"/images/generations",
        b"/images/edits",
    },
)
"""Dated addresses that name the deployment in the path (the list that openai-python's `lib/azure.py` rewrites)."""

_V1_VERSIONS: Final = frozenset({b"preview", b"latest", b"v1"})
"""Values of `api-version` that the v1 addresses know; a client's dated one is meant for the dated addresses."""


class Azure:
    """Azure OpenAI's addresses, credentials and errors around OpenAI's bodies."""

    name = "azure"

    def target(self, inbound: Inbound, *, base_path: bytes, api_version: str | None, model: str | None) -> bytes:
        """Return `{root}/openai/...`; `base_path` may be the resource's root or already end in `/openai` or `/openai/v1`."""
        root = base_path.removesuffix(b"/").removesuffix(b"/openai/v1").removesuffix(b"/openai") + b"/openai"
        deployment = model or inbound.model
        query = inbound.query
        if api_version is None:
            asked = parameter(query, b"api-version")
            if asked is not None and asked not in _V1_VERSIONS:
                query = without_parameter(query, b"api-version")
            if inbound.family is Family.REALTIME and deployment and parameter(query, b"model") != deployment.encode("utf-8"):
                query = with_parameter(without_parameter(query, b"deployment"), b"model", deployment)
            return root + b"/v1" + inbound.path + query
        query = with_parameter(query, b"api-version", api_version)
        if deployment and inbound.path in _BY_DEPLOYMENT:
            return root + b"/deployments/" + quote(deployment, safe="").encode("ascii") + inbound.path + query
        if deployment and inbound.family is Family.REALTIME:
            query = with_parameter(without_parameter(query, b"model"), b"deployment", deployment)
        return root + inbound.path + query

    def authorize(self, secret: str) -> Header:
        return header(b"api-key", secret.encode("utf-8"))

    def model_in_path(self, inbound: Inbound, *, api_version: str | None) -> bool:
        if inbound.family is Family.REALTIME:
            return True
        return api_version is not None and inbound.path in _BY_DEPLOYMENT

    def classify(self, outcome: Outcome, *, own_key: bool, now_unix: float, errors: Sequence[Rule] = ()) -> Verdict:
        return judge(outcome, AZURE_RULES, own_key=own_key, now_unix=now_unix, errors=errors)

    def suspects(self, body: bytes) -> bool:
        return hides_an_error(body)

    def stream(self, family: Family) -> StreamReader:
        return reader_for(family)

    def usage(self, body: bytes) -> tuple[int, int] | None:
        return usage_of_body(body)

"""What a request's address means: the endpoint as OpenAI spells it, its family, and whether it came the Azure way.

Apart because Azure has two ways of its own, which everything behind this file may then forget: `/openai/v1/...` with the deployment
as `model`, and the dated `/openai/deployments/{deployment}/...?api-version=` (other endpoints: `/openai/...?api-version=`).
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qs, unquote

_FAMILIES = (
    ("/v1/chat/", "chat"),
    ("/v1/completions", "chat"),
    ("/v1/responses", "responses"),
    ("/v1/messages", "messages"),
    ("/v1/embeddings", "embeddings"),
    ("/v1/images", "images"),
    ("/v1/audio", "audio"),
    ("/v1/moderations", "moderations"),
    ("/v1/files", "files"),
    ("/v1/batches", "batches"),
    ("/v1/fine_tuning", "fine_tuning"),
    ("/v1/realtime", "realtime"),
    ("/v1/videos", "videos"),
)


@dataclass(frozen=True, slots=True)
class Address:
    """An endpoint. `path` is percent-encoded as received; `missing`: there is nothing at this address."""

    path: str
    family: str
    azure: bool = False
    deployment: str = ""
    missing: bool = False


def parse_address(target: str) -> Address:
    """Read a request target in origin form."""
    path, _, query = target.partition("?")
    if path.startswith("/openai/v1/"):
        path = path.removeprefix("/openai")
        return Address(path, _family(path), azure=True)
    if path.startswith("/openai/"):
        rest = path.removeprefix("/openai/")
        deployment = ""
        if rest.startswith("deployments/"):
            deployment, _, rest = rest.removeprefix("deployments/").partition("/")
        path = f"/v1/{rest}"
        dated = bool(parse_qs(query).get("api-version"))
        return Address(path, _family(path), azure=True, deployment=unquote(deployment), missing=not dated)
    return Address(path, _family(path), missing=not path.startswith("/v1/"))


def _family(path: str) -> str:
    return next((family for prefix, family in _FAMILIES if path.startswith(prefix)), "other")

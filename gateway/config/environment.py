"""A configuration from nothing but the environment, and the file that `gateway init` writes.

The two are one: zero configuration is the starter file, loaded, so what serves without a file is what an operator gets to edit.
The law: each key serves its own provider's models. Which company sees a prompt is decided by the model's name alone; nothing fails
over to another company, since only a file may say so. A name that no pattern knows goes to the first provider, which answers for
itself. `OPENAI_BASE_URL` is not read: it points apps at this gateway.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final, NamedTuple

from gateway.config.addresses import azure_root, base_url
from gateway.config.load import load_text
from gateway.config.snapshot import Snapshot
from gateway.config.units import Mistake, integer
from gateway.errors import ConfigError, Problem

SOURCE: Final = "environment"


class Known(NamedTuple):
    """A provider that a key in the environment stands for."""

    name: str
    variable: str
    url: str
    models: tuple[str, ...]
    """Patterns of its models' names; empty where only its owner knows them."""


KNOWN: Final = (
    Known(
        "openai",
        "OPENAI_API_KEY",
        "https://api.openai.com/v1",
        (
            "gpt-*",
            "o[1-9]*",
            "chatgpt-*",
            "codex-*",
            "computer-use-*",
            "text-*",
            "davinci-*",
            "babbage-*",
            "dall-e-*",
            "sora-*",
            "whisper-1",
            "tts-*",
            "omni-moderation-*",
            "ft:*",
        ),
    ),
    Known("azure", "AZURE_OPENAI_API_KEY", "", ()),
    Known("anthropic", "ANTHROPIC_API_KEY", "https://api.anthropic.com/v1", ("claude-*",)),
    Known(
        "gemini",
        "GEMINI_API_KEY",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        ("gemini-*", "gemma-*", "imagen-*", "veo-*", "models/*"),
    ),
    Known("xai", "XAI_API_KEY", "https://api.x.ai/v1", ("grok-*",)),
    Known(
        "groq",
        "GROQ_API_KEY",
        "https://api.groq.com/openai/v1",
        ("llama-*", "llama3-*", "meta-llama/*", "openai/gpt-oss-*", "qwen/*", "moonshotai/*", "groq/*", "whisper-large-*"),
    ),
    Known(
        "mistral",
        "MISTRAL_API_KEY",
        "https://api.mistral.ai/v1",
        (
            "mistral-*",
            "codestral-*",
            "devstral-*",
            "ministral-*",
            "magistral-*",
            "pixtral-*",
            "voxtral-*",
            "open-mistral-*",
            "open-mixtral-*",
        ),
    ),
    Known("deepseek", "DEEPSEEK_API_KEY", "https://api.deepseek.com/v1", ("deepseek-*",)),
    Known("openrouter", "OPENROUTER_API_KEY", "https://openrouter.ai/api/v1", ("*/*",)),
)
"""In order of precedence where two providers have a name in common; the first one found is home to what no pattern names."""


def from_environment(environ: Mapping[str, str]) -> Snapshot:
    """Return the configuration that the keys in the environment amount to; raises ConfigError where they contradict themselves.

    `PORT` changes the data port's port; it goes on listening on loopback only. Without any key the client's own is passed on.
    """
    providers, notes = _found(environ)
    try:
        return load_text(_render(providers, environ), file=SOURCE, environ=environ, notes=(*_said(providers), *notes))
    except ConfigError as error:  # lines of a file that nobody has seen would not help
        problems = [Problem(SOURCE, 0, 0, problem.path, problem.message) for problem in error.problems]
    raise ConfigError(problems)


def starter_yaml(environ: Mapping[str, str]) -> str:
    """Return a commented configuration made from the keys in the environment; it holds their names, never their values."""
    return _render(_found(environ)[0], environ)


def _set(environ: Mapping[str, str], variable: str) -> bool:
    return bool(environ.get(variable, "").strip())


def _found(environ: Mapping[str, str]) -> tuple[list[tuple[Known, bool]], list[str]]:
    """Return the providers found, each with whether its key was, and sentences about what was left alone."""
    notes: list[str] = []
    if environ.get("PORT"):
        try:
            integer(environ["PORT"], 0, 65535)
        except Mistake:
            raise _wrong("PORT", "not a port number") from None
    providers = [(known, True) for known in KNOWN if _set(environ, known.variable)]
    azure = KNOWN[1]
    if not _set(environ, "AZURE_OPENAI_ENDPOINT"):
        if (azure, True) in providers:
            providers.remove((azure, True))
            message = "AZURE_OPENAI_API_KEY is set, but AZURE_OPENAI_ENDPOINT is not"
            if not providers:
                raise _wrong("", f"{message}: set it to the resource's address, e.g. https://my-resource.openai.azure.com")
            notes.append(f"{message}: azure is left out")
    elif (azure, True) not in providers:
        if providers:
            notes.append("AZURE_OPENAI_ENDPOINT is set, but AZURE_OPENAI_API_KEY is not: azure is left out")
        else:
            providers.append((azure, False))
    if any(known is azure for known, _ in providers):
        try:
            azure_root(base_url(environ["AZURE_OPENAI_ENDPOINT"]))
        except Mistake as mistake:
            raise _wrong("AZURE_OPENAI_ENDPOINT", mistake.message) from None
    if not providers:
        providers.append((KNOWN[0], False))
    if _set(environ, "OPENAI_BASE_URL"):
        notes.append("OPENAI_BASE_URL is not read: it points apps at this gateway, and must not point the gateway at itself")
    return providers, notes


def _wrong(variable: str, message: str) -> ConfigError:
    return ConfigError([Problem(SOURCE, 0, 0, variable, message)])


def _said(providers: list[tuple[Known, bool]]) -> list[str]:
    home, keyed = providers[0]
    if not keyed:
        found = "AZURE_OPENAI_ENDPOINT is set, but no key" if home.variable.startswith("AZURE") else "no provider's key is set"
        return [f"{found}: requests go to {home.name}, each with its client's own key"]
    if len(providers) == 1:
        return [f"{home.variable} found: {home.name} serves every model"]
    said = []
    for known, _ in providers:
        served = f"serves {', '.join(known.models)}" if known.models else "serves no model by name, only you know its deployments"
        said.append(f"{known.variable} found: {known.name} {served}")
    return [*said, f"every other model goes to {home.name}; no provider stands in for another: only a file can say so"]


_HEAD: Final = """\
# yaml-language-server: $schema=./gateway.schema.json
#
# A configuration of the gateway, made from the keys found in the environment. Check it with `gateway check FILE`, run it with
# `gateway serve --config FILE`, and point apps at it: OPENAI_BASE_URL=http://127.0.0.1:{port}/v1

server:
  # Another address than loopback needs `clients`, or `open: true` where everybody who reaches it may call.
  listen: "127.0.0.1:${{PORT:-8080}}"

admin:
  # /metrics, /status.json, /healthz, /readyz. Another address than loopback needs the token.
  listen: 127.0.0.1:9901
  token: "${{GATEWAY_ADMIN_TOKEN:-}}"

# Without clients, whoever reaches the port may call. Name them to know who is who; `gateway key new` makes a key and its hash:
# clients:
#   - {{name: search-team, key: "sha256:<hex of the key's SHA-256>", models: ["gpt-*"], limits: {{requests: 600/min}}}}

providers:
"""

_ROUTES: Final = """
# The first route that matches wins. Its targets are tried in order: a second one is where requests go when the first fails, and
# its company then sees the prompts. None is assumed here.
routes:
"""

_POLICIES: Final = """
# All routes follow the policy `default`. These are its numbers; say only what you want to be different.
# policies:
#   default:
#     deadline: 600s
#     attempts: 4
#     timeouts: {first_token: 120s, stall: 120s, answer: 600s, max_stream: 60m}
#     backoff: {base: 500ms, cap: 8s, jitter: full}
#     rate_limit_wait: 3s
"""


def _render(providers: list[tuple[Known, bool]], environ: Mapping[str, str]) -> str:
    parts = [_HEAD.format(port=environ.get("PORT") or "8080")]
    for known, keyed in providers:
        parts.append(_provider(known, keyed, environ))
    parts.append(_ROUTES)
    if len(providers) > 1:
        parts += [_route(known) for known, _ in providers if known.models]
    home = providers[0][0].name
    parts.append(
        f"  # Everything else, also requests that name no model.\n  - name: home\n    match: {{}}\n    targets: [{home}]\n"
    )
    parts.append(_POLICIES)
    return "".join(parts)


def _provider(known: Known, keyed: bool, environ: Mapping[str, str]) -> str:
    lines = [f"  {known.name}:"]
    if known.url:
        lines += ["    dialect: openai", f"    base_url: {known.url}"]
    else:
        lines += ["    dialect: azure", '    base_url: "${AZURE_OPENAI_ENDPOINT}"']
        if _set(environ, "OPENAI_API_VERSION"):
            lines.append('    api_version: "${OPENAI_API_VERSION}"  # remove it for the v1 addresses')
    if keyed:
        lines.append(f'    api_key: "${{{known.variable}}}"')
    else:
        lines.append(f'    # Without a key of its own, the client\'s is passed on. To use yours: api_key: "${{{known.variable}}}"')
    return "\n".join(lines) + "\n"


def _route(known: Known) -> str:
    patterns = ", ".join(json.dumps(pattern) for pattern in known.models)
    return f"  - name: {known.name}\n    match:\n      models: [{patterns}]\n    targets: [{known.name}]\n"

"""Without a file: which key means which provider, and that the starter file is the same configuration."""

from __future__ import annotations

from fnmatch import fnmatchcase
from itertools import combinations

import pytest

from gateway.config.describe import describe
from gateway.config.environment import KNOWN, from_environment, starter_yaml
from gateway.config.load import load_text
from gateway.errors import ConfigError

AZURE = {"AZURE_OPENAI_ENDPOINT": "https://res.openai.azure.com/"}
KEYS = {known.variable: f"sk-{known.name}" for known in KNOWN}


def serves(snapshot, model):
    """The providers that a model's name leads to, in order."""
    for route in snapshot.routes:
        if route.models is None or any(fnmatchcase(model, glob) for glob in route.models):
            return [target.provider.name for target in route.targets]
    return []


@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_the_starter_file_loads_and_is_what_runs_without_a_file(count):
    for chosen in combinations(KEYS, count):
        environ = AZURE | {variable: KEYS[variable] for variable in chosen}
        text = starter_yaml(environ)
        written = load_text(text, file="environment", environ=environ)
        running = from_environment(environ)
        assert (written.providers.keys(), written.routes, written.digest) == (
            running.providers.keys(),
            running.routes,
            running.digest,
        )
        assert text.startswith("# yaml-language-server: $schema=./gateway.schema.json\n")
        assert not any(key in text + "".join(describe(running)) for key in KEYS.values())


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("gpt-4o-mini", "openai"),
        ("gpt-6.2-astra", "openai"),
        ("o4-mini", "openai"),
        ("ft:gpt-4o:acme::x", "openai"),
        ("text-embedding-3-small", "openai"),
        ("whisper-1", "openai"),
        ("claude-sonnet-4-5", "anthropic"),
        ("gemini-3.5-flash", "gemini"),
        ("models/gemini-3.5-flash", "gemini"),
        ("grok-4.6", "xai"),
        ("llama-3.3-70b-versatile", "groq"),
        ("openai/gpt-oss-120b", "groq"),
        ("whisper-large-v3", "groq"),
        ("mistral-large-latest", "mistral"),
        ("codestral-latest", "mistral"),
        ("deepseek-chat", "deepseek"),
        ("anthropic/claude-sonnet-4-5", "openrouter"),
        ("my-own-model", "openai"),
    ],
)
def test_each_key_serves_its_own_providers_models_and_no_other(model, provider):
    assert serves(from_environment(KEYS | AZURE), model) == [provider]


def test_every_known_provider_is_asked_with_its_own_key_at_its_own_address():
    snapshot = from_environment(KEYS | AZURE)
    said = {name: (p.origin.host, p.base_path, [key.reveal() for key in p.credentials]) for name, p in snapshot.providers.items()}
    assert said == {
        "openai": ("api.openai.com", b"/v1", ["sk-openai"]),
        "azure": ("res.openai.azure.com", b"", ["sk-azure"]),
        "anthropic": ("api.anthropic.com", b"/v1", ["sk-anthropic"]),
        "gemini": ("generativelanguage.googleapis.com", b"/v1beta/openai", ["sk-gemini"]),
        "xai": ("api.x.ai", b"/v1", ["sk-xai"]),
        "groq": ("api.groq.com", b"/openai/v1", ["sk-groq"]),
        "mistral": ("api.mistral.ai", b"/v1", ["sk-mistral"]),
        "deepseek": ("api.deepseek.com", b"/v1", ["sk-deepseek"]),
        "openrouter": ("openrouter.ai", b"/api/v1", ["sk-openrouter"]),
    }


@pytest.mark.parametrize("variable", [variable for variable in KEYS if variable != "AZURE_OPENAI_API_KEY"])
def test_one_key_alone_serves_everything(variable):
    snapshot = from_environment({variable: "k"})
    (route,) = snapshot.routes
    assert (route.models, len(route.targets), len(snapshot.providers)) == (None, 1, 1)
    assert snapshot.notes[0] == f"{variable} found: {route.targets[0].provider.name} serves every model"


@pytest.mark.parametrize("environ", [{}, {"OPENAI_API_KEY": ""}, {"OPENAI_API_KEY": "  "}])
def test_without_a_key_the_clients_own_is_passed_on(environ):
    snapshot = from_environment(environ)
    (provider,) = snapshot.providers.values()
    assert (provider.name, provider.credentials) == ("openai", ())
    assert snapshot.notes[0] == "no provider's key is set: requests go to openai, each with its client's own key"


def test_an_azure_endpoint_alone_takes_the_clients_own_key():
    snapshot = from_environment(AZURE)
    assert [(p.name, p.dialect.name, p.credentials) for p in snapshot.providers.values()] == [("azure", "azure", ())]


def test_an_azure_version_means_the_dated_addresses():
    environ = AZURE | {"AZURE_OPENAI_API_KEY": "k"}
    assert from_environment(environ).providers["azure"].api_version is None
    assert from_environment(environ | {"OPENAI_API_VERSION": "2024-10-21"}).providers["azure"].api_version == "2024-10-21"


def test_half_of_azure_is_left_out_and_said():
    by_key = from_environment({"OPENAI_API_KEY": "k", "AZURE_OPENAI_API_KEY": "k"})
    by_endpoint = from_environment({"OPENAI_API_KEY": "k"} | AZURE)
    assert [*by_key.providers] == [*by_endpoint.providers] == ["openai"]
    assert "AZURE_OPENAI_API_KEY is set, but AZURE_OPENAI_ENDPOINT is not: azure is left out" in by_key.notes
    assert "AZURE_OPENAI_ENDPOINT is set, but AZURE_OPENAI_API_KEY is not: azure is left out" in by_endpoint.notes


def test_the_apps_base_url_is_not_ours():
    snapshot = from_environment({"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://127.0.0.1:8080/v1"})
    assert snapshot.providers["openai"].origin.host == "api.openai.com"
    assert any("OPENAI_BASE_URL is not read" in note for note in snapshot.notes)


def test_port_changes_the_port_and_nothing_else():
    assert [(s.server.host, s.server.port) for s in (from_environment({"PORT": "9000"}), from_environment({"PORT": ""}))] == [
        ("127.0.0.1", 9000),
        ("127.0.0.1", 8080),
    ]


def test_the_admin_token_comes_from_its_variable():
    token = from_environment({"GATEWAY_ADMIN_TOKEN": "t"}).admin.token
    assert token is not None
    assert token.reveal() == "t"
    assert from_environment({}).admin.token is None


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"PORT": "http"}, "environment: PORT: not a port number"),
        ({"PORT": "70000"}, "environment: PORT: not a port number"),
        ({"AZURE_OPENAI_ENDPOINT": "res"}, ("environment: AZURE_OPENAI_ENDPOINT: must begin with https:// or http:// and a host, "
                                           "like https://api.openai.com/v1")),
        ({"AZURE_OPENAI_API_KEY": "k"}, ("environment: AZURE_OPENAI_API_KEY is set, but AZURE_OPENAI_ENDPOINT is not: "
                                        "set it to the resource's address, e.g. https://my-resource.openai.azure.com")),
        ({"OPENAI_API_KEY": "a b"}, ("environment: providers.openai.api_key: a key cannot contain spaces, line breaks, control or "
                                    "non-ASCII characters")),
    ],
)  # fmt: skip
def test_an_environment_that_contradicts_itself_is_refused(environ, line):
    with pytest.raises(ConfigError) as caught:
        from_environment(environ)
    assert str(caught.value) == line

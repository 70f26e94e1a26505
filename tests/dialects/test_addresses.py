"""Where requests go and how they are authorised."""

import pytest

from gateway.dialects.inbound import read_target
from gateway.dialects.registry import DIALECTS

OPENAI, AZURE = DIALECTS["openai"], DIALECTS["azure"]


@pytest.mark.parametrize(
    ("called", "base", "sent"),
    [
        (b"/v1/chat/completions", b"/v1", b"/v1/chat/completions"),
        (b"/v1/chat/completions", b"", b"/chat/completions"),
        (b"/v1/chat/completions", b"/openai/v1", b"/openai/v1/chat/completions"),
        (b"/v1/files?limit=%32&api-version=x", b"/v1", b"/v1/files?limit=%32&api-version=x"),
        (b"/v1/chat/completions?", b"/v1", b"/v1/chat/completions?"),
        (b"/v1/new/thing/%2F?a=b?c", b"/api/v1", b"/api/v1/new/thing/%2F?a=b?c"),
        (b"/foo", b"/v1", b"/v1/foo"),
        (b"/openai/deployments/d/chat/completions?api-version=2024-10-21", b"/v1", b"/v1/chat/completions"),
        (b"/openai/files?api-version=2024-10-21&limit=2", b"/v1", b"/v1/files?limit=2"),
        (b"/openai/v1/responses?api-version=preview", b"/v1", b"/v1/responses"),
        (b"/providers/openai/v1/models?x", b"/v1", b"/v1/models?x"),
    ],
)
def test_openai_gets_what_was_asked_for_below_its_base_path(called, base, sent):
    assert OPENAI.target(read_target(called), base_path=base, api_version=None, model="gpt-4o") == sent


@pytest.mark.parametrize(
    ("called", "sent"),
    [
        (b"/v1/realtime?model=gpt-realtime&x=1", b"/v1/realtime?model=gpt-realtime&x=1"),
        (b"/openai/realtime?api-version=1&deployment=d", b"/v1/realtime?model=gpt-realtime"),
        (b"/v1/realtime?call_id=rtc_1", b"/v1/realtime?call_id=rtc_1"),
        (b"/v1/realtime?model=other", b"/v1/realtime?model=gpt-realtime"),
    ],
)
def test_a_realtime_session_s_model_is_set_in_the_query(called, sent):
    assert OPENAI.target(read_target(called), base_path=b"/v1", api_version=None, model="gpt-realtime") == sent


V = b"?api-version=2024-10-21"


@pytest.mark.parametrize(
    ("called", "model", "sent"),
    [
        (b"/v1/chat/completions", "gpt-4o-prod", b"/openai/deployments/gpt-4o-prod/chat/completions" + V),
        (b"/v1/chat/completions", "my gpt/é", b"/openai/deployments/my%20gpt%2F%C3%A9/chat/completions" + V),
        (b"/v1/audio/speech", "tts", b"/openai/deployments/tts/audio/speech" + V),
        (b"/v1/images/edits", "img", b"/openai/deployments/img/images/edits" + V),
        (b"/v1/images/variations", "img", b"/openai/images/variations" + V),
        (b"/v1/responses", "gpt-4o", b"/openai/responses" + V),
        (b"/v1/files?limit=2", None, b"/openai/files?limit=2&api-version=2024-10-21"),
        (
            b"/v1/chat/completions?x=%31&api-version=old",
            "d",
            b"/openai/deployments/d/chat/completions?x=%31&api-version=2024-10-21",
        ),
        (b"/openai/deployments/d/chat/completions?api-version=2023-05-15", "e", b"/openai/deployments/e/chat/completions" + V),
        (b"/openai/deployments/d/chat/completions?api-version=2023-05-15", None, b"/openai/deployments/d/chat/completions" + V),
        (b"/v1/chat/completions", None, b"/openai/chat/completions" + V),
        (b"/v1/realtime?model=gpt-realtime", "rt", b"/openai/realtime?api-version=2024-10-21&deployment=rt"),
    ],
)
@pytest.mark.parametrize("base", [b"", b"/openai", b"/openai/v1", b"/"])
def test_azure_s_dated_addresses(called, model, sent, base):
    assert AZURE.target(read_target(called), base_path=base, api_version="2024-10-21", model=model) == sent


@pytest.mark.parametrize(
    ("called", "model", "sent"),
    [
        (b"/v1/chat/completions", "gpt-4o", b"/openai/v1/chat/completions"),
        (b"/v1/files?limit=2", None, b"/openai/v1/files?limit=2"),
        (b"/openai/deployments/d/chat/completions?api-version=2024-10-21", "e", b"/openai/v1/chat/completions"),
        (b"/openai/v1/responses?api-version=preview", "e", b"/openai/v1/responses?api-version=preview"),
        (b"/v1/realtime?model=a", "b", b"/openai/v1/realtime?model=b"),
        (b"/v1/realtime?model=b", "b", b"/openai/v1/realtime?model=b"),
    ],
)
@pytest.mark.parametrize("base", [b"", b"/openai", b"/openai/v1"])
def test_azure_s_v1_addresses(called, model, sent, base):
    assert AZURE.target(read_target(called), base_path=base, api_version=None, model=model) == sent


def test_a_prefix_in_front_of_azure_is_kept():
    chat = read_target(b"/v1/chat/completions")
    assert AZURE.target(chat, base_path=b"/apim/v1", api_version=None, model="d") == b"/apim/v1/openai/v1/chat/completions"
    assert (
        AZURE.target(chat, base_path=b"/apim/openai", api_version="1", model="d")
        == b"/apim/openai/deployments/d/chat/completions?api-version=1"
    )


@pytest.mark.parametrize(
    ("called", "version", "in_path"),
    [
        (b"/v1/chat/completions", "2024-10-21", True),
        (b"/openai/deployments/d/embeddings", "2024-10-21", True),
        (b"/v1/responses", "2024-10-21", False),
        (b"/v1/chat/completions", None, False),
        (b"/v1/realtime?model=x", None, True),
    ],
)
def test_where_azure_reads_the_model(called, version, in_path):
    assert AZURE.model_in_path(read_target(called), api_version=version) is in_path


def test_where_openai_reads_the_model():
    assert not OPENAI.model_in_path(read_target(b"/openai/deployments/d/embeddings"), api_version=None)
    assert OPENAI.model_in_path(read_target(b"/v1/realtime?model=x"), api_version=None)


def test_keys_travel_in_each_provider_s_own_header():
    assert OPENAI.authorize("sk-1") == (b"authorization", b"Authorization", b"Bearer sk-1")
    assert AZURE.authorize("k1") == (b"api-key", b"api-key", b"k1")
    with pytest.raises(ValueError, match="Authorization"):
        OPENAI.authorize("sk-1\r\nx: y")


def test_the_registry_knows_each_dialect_by_its_own_name():
    assert {name: dialect.name for name, dialect in DIALECTS.items()} == {"openai": "openai", "azure": "azure"}

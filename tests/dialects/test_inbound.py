"""What clients call: every address style, and what must not be mistaken for a model call."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.plan import Family
from gateway.dialects.inbound import body_model_kind, parameter, read_target, with_parameter, without_parameter


def facts(target):
    inbound = read_target(target)
    return inbound.family, inbound.api, inbound.path, inbound.query, inbound.model, inbound.provider, inbound.shape, inbound.azure


@pytest.mark.parametrize(
    ("target", "family"),
    [
        (b"/v1/chat/completions", Family.CHAT),
        (b"/v1/completions", Family.COMPLETIONS),
        (b"/v1/responses", Family.RESPONSES),
        (b"/v1/responses/compact", Family.RESPONSES),
        (b"/v1/responses/input_tokens", Family.RESPONSES),
        (b"/v1/embeddings", Family.EMBEDDINGS),
        (b"/v1/moderations", Family.MODERATIONS),
        (b"/v1/images/generations", Family.IMAGES),
        (b"/v1/images/edits", Family.IMAGES),
        (b"/v1/audio/speech", Family.AUDIO),
        (b"/v1/audio/transcriptions", Family.AUDIO),
        (b"/v1/files", Family.FILES),
        (b"/v1/files/file-abc/content", Family.FILES),
        (b"/v1/uploads/upload_1/parts", Family.FILES),
        (b"/v1/batches/batch_1/cancel", Family.BATCHES),
        (b"/v1/fine_tuning/jobs/ftjob-1", Family.FINE_TUNING),
        (b"/v1/videos/video_1", Family.VIDEOS),
        (b"/v1/realtime/client_secrets", Family.REALTIME),
        # Objects of one account: never replayed blindly, hence not in the family of the calls that made them.
        (b"/v1/responses/resp_1", Family.OTHER),
        (b"/v1/responses/resp_1/input_items", Family.OTHER),
        (b"/v1/chat/completions/chatcmpl-1", Family.OTHER),
        (b"/v1/audio/voices", Family.OTHER),
        (b"/v1/models", Family.OTHER),
        (b"/v1/threads/thread_1/runs", Family.OTHER),
        # Spellings that nobody uses are relayed as they are.
        (b"/v1/chat/completions/", Family.OTHER),
        (b"/v1/chat/%63ompletions", Family.OTHER),
        (b"/v1/files/../chat/completions", Family.FILES),
        (b"/v1/filesystem", Family.OTHER),
    ],
)
def test_openai_paths(target, family):
    assert facts(target) == (family, target.decode(), target[3:], b"", None, None, "openai", False)


@pytest.mark.parametrize(
    "target", [b"/", b"/foo/bar", b"*", b"", b"/v1", b"/v2/chat/completions", b"//v1/chat/completions", b"/openai"]
)
def test_an_address_that_nobody_knows_is_kept_whole(target):
    assert facts(target) == (Family.OTHER, target.decode(), target, b"", None, None, "openai", False)


def test_the_query_is_kept_byte_for_byte():
    assert read_target(b"/v1/files?limit=2&after=%E2%9C%93&&x").query == b"?limit=2&after=%E2%9C%93&&x"
    assert read_target(b"/v1/chat/completions?").query == b"?"
    assert read_target(b"/v1/chat/completions?a?b").query == b"?a?b"


@pytest.mark.parametrize(
    ("target", "family", "api", "path", "model"),
    [
        (b"/openai/deployments/my-gpt/chat/completions", Family.CHAT, "/v1/chat/completions", b"/chat/completions", "my-gpt"),
        (b"/openai/deployments/gpt%204o%C3%A9/embeddings", Family.EMBEDDINGS, "/v1/embeddings", b"/embeddings", "gpt 4oé"),
        (b"/openai/deployments/d/images/generations", Family.IMAGES, "/v1/images/generations", b"/images/generations", "d"),
        (b"/openai/deployments", Family.OTHER, "/v1/deployments", b"/deployments", None),
        (b"/openai/deployments/d", Family.OTHER, "/v1/deployments/d", b"/deployments/d", None),
        (b"/openai/v1/responses", Family.RESPONSES, "/v1/responses", b"/responses", None),
        (b"/openai/v1/responses/resp_1", Family.OTHER, "/v1/responses/resp_1", b"/responses/resp_1", None),
        (b"/openai/files/file-1", Family.FILES, "/v1/files/file-1", b"/files/file-1", None),
        (b"/openai/assistants", Family.OTHER, "/v1/assistants", b"/assistants", None),
    ],
)
def test_azure_paths(target, family, api, path, model):
    assert facts(target) == (family, api, path, b"", model, None, "openai", True)
    version = b"?api-version=2024-10-21"
    assert facts(target + version) == (family, api, path, version, model, None, "openai", True)


@pytest.mark.parametrize(
    ("target", "family", "path"),
    [
        (b"/v1/messages", Family.MESSAGES, b"/messages"),
        (b"/v1/messages/count_tokens", Family.MESSAGES, b"/messages/count_tokens"),
        (b"/v1/messages/batches", Family.BATCHES, b"/messages/batches"),
        (b"/v1/messages/batches/msgbatch_1/results", Family.BATCHES, b"/messages/batches/msgbatch_1/results"),
    ],
)
def test_anthropic_paths(target, family, path):
    assert facts(target) == (family, target.decode(), path, b"", None, None, "anthropic", False)


@pytest.mark.parametrize(
    ("target", "plain", "provider"),
    [
        (b"/providers/openai/v1/chat/completions", b"/v1/chat/completions", "openai"),
        (b"/providers/openai/chat/completions", b"/v1/chat/completions", "openai"),
        (
            b"/providers/my%20azure/openai/deployments/d/embeddings?api-version=1",
            b"/openai/deployments/d/embeddings?api-version=1",
            "my azure",
        ),
        (b"/providers/anthropic/v1/messages", b"/v1/messages", "anthropic"),
        (b"/providers/openai/rerank?x=1", b"/v1/rerank?x=1", "openai"),
    ],
)
def test_one_provider_addressed_directly(target, plain, provider):
    expected = list(facts(plain))
    expected[5] = provider
    assert list(facts(target)) == expected


@pytest.mark.parametrize("target", [b"/providers/", b"/providers/openai", b"/providers//v1/chat/completions"])
def test_a_provider_path_without_name_or_rest_is_nobody_s(target):
    assert facts(target)[:2] == (Family.OTHER, target.decode())
    assert read_target(target).provider is None


def test_a_realtime_session_names_its_model_in_the_query():
    assert read_target(b"/v1/realtime?model=gpt-realtime%2D2&x=1").model == "gpt-realtime-2"
    assert read_target(b"/openai/realtime?api-version=1&deployment=my+rt").model == "my rt"
    assert read_target(b"/v1/realtime?call_id=rtc_1").model is None
    assert read_target(b"/v1/chat/completions?model=x").model is None


@given(
    st.binary(max_size=80)
    | st.builds(
        lambda a, b: a + b, st.sampled_from([b"/v1/", b"/openai/deployments/", b"/providers/", b"/openai/"]), st.binary(max_size=40)
    )
)
def test_no_target_makes_it_raise(target):
    inbound = read_target(target)
    assert inbound.query in {b"", target[target.find(b"?") :]}
    assert body_model_kind(inbound, b"") in {"json", "multipart", "none"}


@pytest.mark.parametrize(
    ("target", "content_type", "kind"),
    [
        (b"/v1/chat/completions", b"application/json", "json"),
        (b"/v1/chat/completions", b"", "json"),
        (b"/v1/chat/completions", b"text/plain", "json"),
        (b"/v1/audio/transcriptions", b"multipart/form-data; boundary=x", "multipart"),
        (b"/v1/images/edits", b"Multipart/Form-Data; boundary=x", "multipart"),
        (b"/v1/rerank", b"application/json", "json"),
        (b"/foo", b"application/json", "json"),
        (b"*", b"", "json"),
        (b"/v1/files", b"multipart/form-data; boundary=x", "none"),
        (b"/v1/fine_tuning/jobs", b"application/json", "none"),
        (b"/v1/videos", b"application/json", "none"),
        (b"/v1/assistants", b"application/json", "none"),
        (b"/v1/responses/resp_1/cancel", b"application/json", "none"),
        (b"/v1/chat/completions/chatcmpl-1", b"application/json", "none"),
        (b"/v1/realtime/client_secrets", b"application/json", "none"),
    ],
)
def test_where_a_body_names_the_model_that_routes(target, content_type, kind):
    assert body_model_kind(read_target(target), content_type) == kind


def test_query_parameters_are_edited_without_touching_the_others():
    assert without_parameter(b"?a=1&api-version=x&b=%20", b"api-version") == b"?a=1&b=%20"
    assert without_parameter(b"?api%2Dversion=x", b"api-version") == b""
    assert without_parameter(b"?a&&b", b"api-version") == b"?a&&b"
    assert without_parameter(b"?", b"api-version") == b"?"
    assert without_parameter(b"", b"api-version") == b""
    assert with_parameter(b"", b"v", "a b&c") == b"?v=a%20b%26c"
    assert with_parameter(b"?", b"v", "1") == b"?v=1"
    assert with_parameter(b"?v=0&x=1&v=2", b"v", "é") == b"?x=1&v=%C3%A9"
    assert parameter(b"?a=1&a=2", b"a") == b"1"
    assert parameter(b"?b", b"b") == b""
    assert parameter(b"?b", b"a") is None

"""Error answers and their verdicts. Bodies are the providers' published or captured ones."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.message import header
from gateway.core.verdicts import Fault, IOFault, Outcome, Scope
from gateway.dialects.registry import DIALECTS

OPENAI, AZURE = DIALECTS["openai"], DIALECTS["azure"]
NOW = 1_755_780_060.0
JSON = [header(b"Content-Type", b"application/json")]
HTML = [header(b"Content-Type", b"text/html; charset=UTF-8")]
PAGE = b"<!DOCTYPE html>\n<html><head><title>Attention Required! | Cloudflare</title></head></html>"


def error(message="m", *, code=None, kind=None, **more):
    return {"error": {"message": message, "type": kind, "param": None, "code": code, **more}}


def classify(status, body, *, dialect=OPENAI, own_key=True, headers=JSON, **how):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return dialect.classify(Outcome(status=status, headers=headers, body=raw, **how), own_key=own_key, now_unix=NOW)


QUOTA = "You exceeded your current quota, please check your plan and billing details."
TPM = "Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Used 29000, Requested 1500."
TOO_LARGE = (
    "Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Requested 30704. "
    "The input or output tokens must be reduced in order to run successfully. Please try again in 1.4s."
)
GOOGLE_INFO = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}


def google_quota(quota_id):
    return {
        "error": {
            "code": 429,
            "message": QUOTA,
            "status": "RESOURCE_EXHAUSTED",
            "details": [
                {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": quota_id}]},
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "31s"},
            ],
        },
    }


BOTH = [
    # The request itself.
    (400, error("This model's maximum context length is 8192 tokens.", code="context_length_exceeded"), Fault.CONTEXT_LENGTH),
    (400, error("This endpoint's maximum context length is 131072 tokens.", code=400), Fault.CONTEXT_LENGTH),
    (400, {"object": "error", "message": "Prompt is too long", "type": "invalid_request_error"}, Fault.CONTEXT_LENGTH),
    (400, error("Please reduce the length of the messages or completion.", kind="invalid_request_error"), Fault.CONTEXT_LENGTH),
    (400, error("Your request was rejected.", code="content_policy_violation"), Fault.CONTENT_POLICY),
    (400, error("Invalid prompt", code="invalid_prompt"), Fault.CONTENT_POLICY),
    (400, error("x", code="content_filter", innererror={"code": "ResponsibleAIPolicyViolation"}), Fault.CONTENT_POLICY),
    (400, error("x", code="BadRequest", innererror={"code": "ResponsibleAIPolicyViolation"}), Fault.CONTENT_POLICY),
    (
        400,
        error("Rejected by the safety system", kind="image_generation_user_error", code="moderation_blocked"),
        Fault.CONTENT_POLICY,
    ),
    (403, {"code": "The caller does not have permission", "error": "Content violates usage guidelines."}, Fault.CONTENT_POLICY),
    (
        403,
        {"error": {"code": 403, "message": "refused", "metadata": {"reasons": ["x"], "flagged_input": "y"}}},
        Fault.CONTENT_POLICY,
    ),
    (400, error("Unsupported parameter: 'max_tokens'", kind="invalid_request_error", code="unsupported_parameter"), Fault.CALLER),
    (400, {"detail": [{"type": "missing", "loc": ["body", "messages"], "msg": "Field required"}]}, Fault.CALLER),
    (400, b"", Fault.CALLER),
    (404, error("No response found with id 'resp_1'.", kind="invalid_request_error"), Fault.CALLER),
    (404, {"detail": "Not Found"}, Fault.CALLER),
    (404, PAGE, Fault.CALLER),
    (405, error(), Fault.CALLER),
    (413, error("Request entity too large"), Fault.CALLER),
    (413, PAGE, Fault.CALLER),
    (415, error(), Fault.CALLER),
    (418, error(), Fault.CALLER),
    (422, {"detail": [{"msg": "Input should be a valid string"}]}, Fault.CALLER),
    (499, error(), Fault.CALLER),
    # Our key, our account.
    (401, error("Incorrect API key provided: sk-abc***xyz.", code="invalid_api_key"), Fault.CREDENTIAL),
    (401, error("You must be a member of an organization to use the API"), Fault.CREDENTIAL),
    (401, error("IP not authorized"), Fault.CREDENTIAL),
    (401, b"", Fault.CREDENTIAL),
    (403, error("Country not supported", code="unsupported_country_region_territory"), Fault.CREDENTIAL),
    (403, {"code": "blocked", "error": "Your team is blocked."}, Fault.CREDENTIAL),
    (400, {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: xa***."}, Fault.CREDENTIAL),
    (400, [{"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}], Fault.CREDENTIAL),
    (400, [{"error": {"code": 400, "message": "Bad", "status": "INVALID_ARGUMENT", "details": [GOOGLE_INFO]}}], Fault.CREDENTIAL),
    (400, {"error": {"code": 400, "message": "User location", "status": "FAILED_PRECONDITION"}}, Fault.CREDENTIAL),
    (400, {"code": "Client specified an invalid argument", "error": "Invalid role"}, Fault.CALLER),
    (402, error("Insufficient Balance", kind="unknown_error", code="invalid_request_error"), Fault.BILLING),
    (402, {"error": {"code": 402, "message": "Insufficient credits"}}, Fault.BILLING),
    (
        403,
        {"code": "x", "error": "Your team has either used all available credits or reached its monthly spending limit"},
        Fault.BILLING,
    ),
    (
        402,
        {"error": {"code": 402, "message": "x", "metadata": {"limit_source": "openrouter_in_flight_budget"}}},
        Fault.RATE_LIMITED,
    ),
    (403, error("You have insufficient permissions for this operation. Missing scopes: api.files.read."), Fault.CALLER),
    # The model.
    (404, error("The model `gpt-9` does not exist or you do not have access to it.", code="model_not_found"), Fault.MODEL_GONE),
    (403, error("Project `proj_x` does not have access to model `gpt-4`", code="model_not_found"), Fault.CREDENTIAL),
    (404, {"code": "Some requested entity was not found", "error": "The model grok-9 does not exist or ..."}, Fault.MODEL_GONE),
    (404, {"object": "error", "message": "The model `x` does not exist.", "type": "NotFoundError", "code": 404}, Fault.MODEL_GONE),
    (400, {"object": "error", "message": "Invalid model: mistral-x", "type": "invalid_model", "code": "1500"}, Fault.MODEL_GONE),
    (400, error("Model Not Exist", kind="invalid_request_error", code="invalid_request_error"), Fault.MODEL_GONE),
    (400, {"error": {"code": 400, "message": "vendor/x is not a valid model ID"}}, Fault.MODEL_GONE),
    (404, {"error": {"code": 404, "message": "No endpoints found for vendor/x."}}, Fault.MODEL_GONE),
    (400, error("The model `llama` has been decommissioned", code="model_decommissioned"), Fault.MODEL_GONE),
    # 429 and its disguises.
    (429, error(TPM, kind="tokens", code="rate_limit_exceeded"), Fault.RATE_LIMITED),
    (429, error("Traffic rose too fast", kind="rate_limit_error", code="slow_down"), Fault.RATE_LIMITED),
    (429, error(), Fault.RATE_LIMITED),
    (429, {"message": "Requests rate limit exceeded"}, Fault.RATE_LIMITED),
    (429, b"Too Many Requests", Fault.RATE_LIMITED),
    (429, google_quota("GenerateRequestsPerMinutePerProjectPerModel"), Fault.RATE_LIMITED),
    (429, google_quota("GenerateRequestsPerDayPerProjectPerModel-FreeTier"), Fault.BILLING),
    (429, error(QUOTA, kind="insufficient_quota", code="insufficient_quota"), Fault.BILLING),
    (429, error("x", kind="insufficient_quota", code="credit_balance_exhausted"), Fault.BILLING),
    (429, error("x", code="organization_spend_limit_exceeded"), Fault.BILLING),
    (429, error("x", code="project_spend_limit_exceeded"), Fault.BILLING),
    (429, error("x", code="organization_usage_limit_exceeded"), Fault.BILLING),
    (429, error(QUOTA), Fault.BILLING),
    (429, {"status": "come back later"}, Fault.OVERLOADED),
    (429, b"", Fault.OVERLOADED),
    (429, error("System is experiencing high demand. Please retry after 10 seconds."), Fault.OVERLOADED),
    (429, error("That model is currently overloaded with other requests."), Fault.OVERLOADED),
    (429, error("Model vendor/x-large is at capacity"), Fault.OVERLOADED),
    (429, error("We're experiencing high demand right now"), Fault.OVERLOADED),
    (429, b"come back later", Fault.OVERLOADED),
    (429, error("The engine is currently overloaded, please try again later", kind="engine_overloaded_error"), Fault.OVERLOADED),
    # The provider.
    (408, error("Request timed out"), Fault.SERVER_ERROR),
    (409, error("conflict"), Fault.SERVER_ERROR),
    (498, error("capacity", code="capacity_exceeded"), Fault.OVERLOADED),
    (498, b"", Fault.OVERLOADED),
    (500, error("The server had an error", kind="server_error"), Fault.SERVER_ERROR),
    (500, b"", Fault.SERVER_ERROR),
    (500, error("x", kind="service_unavailable_error", code="server_is_overloaded"), Fault.OVERLOADED),
    (501, error(), Fault.UNKNOWN),
    (502, error("Bad gateway", kind="cf_bad_gateway"), Fault.SERVER_ERROR),
    (503, error("x", kind="cf_service_unavailable"), Fault.OVERLOADED),
    (503, b"", Fault.OVERLOADED),
    (504, b"upstream request timeout", Fault.SERVER_ERROR),
    (529, error("Overloaded", kind="overloaded_error"), Fault.OVERLOADED),
    *((status, b"", Fault.EDGE_BLOCKED) for status in (407, 520, 521, 522, 523, 524, 525, 526, 530)),
    (301, b"", Fault.UNKNOWN),
    (302, PAGE, Fault.UNKNOWN),
]


@pytest.mark.parametrize("dialect", [OPENAI, AZURE], ids=["openai", "azure"])
@pytest.mark.parametrize(("status", "body", "fault"), BOTH)
def test_an_error_answer_is_classified_by_status_and_body(status, body, fault, dialect):
    headers = HTML if body is PAGE else JSON
    assert classify(status, body, dialect=dialect, headers=headers).fault is fault


@pytest.mark.parametrize("status", [200, 401, 403, 429, 500, 502, 503, 504, 520, 530])
@pytest.mark.parametrize(
    ("headers", "body"), [(HTML, b""), ([], PAGE), ([], b"\n  <html>"), ([header(b"content-type", b"text/plain")], PAGE)]
)
def test_a_page_from_an_api_host_is_the_edge_and_not_the_model(status, headers, body):
    for own_key in (True, False):
        assert classify(status, body, headers=headers, own_key=own_key).fault is Fault.EDGE_BLOCKED


def test_an_answer_that_says_json_is_no_page_whatever_it_contains():
    assert classify(503, PAGE).fault is Fault.OVERLOADED


@pytest.mark.parametrize(
    ("status", "body", "fault"),
    [
        (404, error("The API deployment for this resource does not exist.", code="DeploymentNotFound"), Fault.MODEL_GONE),
        (404, error("Resource not found", code="404"), Fault.MODEL_GONE),
        (404, error("File not found", code="404"), Fault.CALLER),
        (401, error("Access denied due to invalid subscription key or wrong API endpoint.", code="401"), Fault.CREDENTIAL),
        (401, error("The principal lacks the required data action", code="PermissionDenied"), Fault.CREDENTIAL),
        (403, error("Access denied due to Virtual Network/Firewall rules.", code="403"), Fault.CREDENTIAL),
        (424, error("failed dependency", code="424"), Fault.SERVER_ERROR),
        (429, error("... have exceeded call rate limit ... Please retry after 37 seconds.", code="429"), Fault.RATE_LIMITED),
        (400, error("x", code="content_filter", kind=None, status=400), Fault.CONTENT_POLICY),
    ],
)
def test_azure_s_own_errors(status, body, fault):
    assert classify(status, body, dialect=AZURE).fault is fault


def test_424_is_the_callers_outside_azure():
    assert classify(424, error("failed dependency")).fault is Fault.CALLER


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, error(code="invalid_api_key")),
        (403, error("Country not supported", code="unsupported_country_region_territory")),
        (402, error("Insufficient Balance")),
        (429, error(QUOTA, code="insufficient_quota")),
        (429, error(QUOTA)),
        (400, {"code": "Client specified an invalid argument", "error": "Incorrect API key provided"}),
        (403, error(code="model_not_found")),
        (404, error(code="model_not_found")),
        (404, error(code="DeploymentNotFound")),
    ],
)
@pytest.mark.parametrize("dialect", [OPENAI, AZURE], ids=["openai", "azure"])
def test_what_a_client_s_own_key_caused_is_the_callers(status, body, dialect):
    assert classify(status, body, dialect=dialect, own_key=False).fault is Fault.CALLER


@pytest.mark.parametrize(
    ("status", "body", "fault"),
    [
        (429, error(TPM, code="rate_limit_exceeded"), Fault.RATE_LIMITED),
        (429, {"status": "come back later"}, Fault.OVERLOADED),
        (500, error(), Fault.SERVER_ERROR),
        (400, error(code="context_length_exceeded"), Fault.CONTEXT_LENGTH),
    ],
)
def test_a_passed_through_key_changes_nothing_else(status, body, fault):
    assert classify(status, body, own_key=False).fault is fault


@pytest.mark.parametrize(
    "echoed",
    [
        "Incorrect API key provided",
        "API key not valid",
        "the model x does not exist",
        "insufficient balance",
        "billing hard limit",
        "You exceeded your current quota",
        "Request too large: Limit 1, Requested 2",
        "high demand",
    ],
)
def test_what_a_client_makes_a_400_echo_hurts_nobody_else(echoed):
    message = f"Invalid value: '{echoed}'. Supported values are: 'system', 'assistant', 'user'."
    for body in (
        error(message, kind="invalid_request_error", code="invalid_value"),
        {"code": "Client specified an invalid argument", "error": message},
        {"detail": [{"msg": message}]},
    ):
        for status in (400, 404, 422):
            assert classify(status, body).fault is Fault.CALLER


CHOSEN = [
    "blocked",
    "disabled-x",
    "insufficient balance",
    "credit balance is",
    "spending limit",
    "does not exist",
    "leaked",
    "high demand",
]
"""Names of models, chosen by clients, which providers repeat in their sentences."""


@pytest.mark.parametrize("model", CHOSEN)
@pytest.mark.parametrize(
    "sentence",
    [
        "Project `proj_x` may not use model {}.",
        "Your team is not allowed to sample from model {}.",
        "Your API key has no access to {}",
        "The model parameter '{}' is invalid.",
        "Model alias '{}' is ambiguous",
        "Rate limit reached for '{}' in organization org-x",
    ],
)
def test_the_name_of_a_model_takes_no_key_from_other_models_and_blames_no_other_target(model, sentence):
    for body in (error(sentence.format(model)), {"code": "The caller does not have permission", "error": sentence.format(model)}):
        assert (classify(403, body).fault, classify(403, body).scope) == (Fault.CREDENTIAL, Scope.KEY_ON_MODEL)
        assert (classify(429, body).fault, classify(429, body).scope) == (Fault.RATE_LIMITED, Scope.KEY_ON_MODEL)
        assert classify(404, body).fault is Fault.CALLER
        assert classify(400, body).fault is Fault.CALLER


@pytest.mark.parametrize("status", [413, 429])
def test_a_request_larger_than_the_whole_limit_is_not_waited_for(status):
    verdict = classify(status, error(TOO_LARGE, kind="tokens", code="rate_limit_exceeded"), headers=[header(b"Retry-After", b"2")])
    assert (verdict.fault, verdict.code, verdict.delay) == (Fault.RATE_LIMITED, "request_too_large", None)
    assert not verdict.retry_same
    assert verdict.scope is Scope.NOBODY


def test_a_large_request_that_fits_the_limit_is_an_ordinary_rate_limit():
    verdict = classify(429, error("Request too large: Limit 30,000, Requested 1,500. Please try again in 1.4s"))
    assert (verdict.fault, verdict.delay, verdict.retry_same) == (Fault.RATE_LIMITED, 1.4, True)


@pytest.mark.parametrize(
    ("body", "delay"),
    [
        (error("Please try again in 300ms."), 0.3),
        (error("Please retry after 37 seconds."), 37),
        (google_quota("PerMinute"), 31),
        ([google_quota("PerMinute")], 31),
        (error(), None),
    ],
)
def test_a_delay_is_read_from_the_body_where_the_headers_name_none(body, delay):
    assert classify(429, body).delay == delay
    assert classify(429, body, headers=[*JSON, header(b"Retry-After-Ms", b"1200")]).delay == 1.2


def test_a_delay_echoed_in_a_caller_s_error_is_ignored():
    assert classify(400, error("Invalid value: 'try again in 9000s'")).delay is None


@pytest.mark.parametrize("status", [*range(400, 600), 200])
def test_a_quick_try_is_worth_it_for_a_500_that_is_no_page(status):
    assert classify(status, error(), in_stream=status == 200).quick is (status in {500, 200})
    assert not classify(status, PAGE, headers=HTML).quick


def test_a_500_that_says_overloaded_is_left_alone():
    assert not classify(500, error(kind="service_unavailable_error", code="server_is_overloaded")).quick


@pytest.mark.parametrize(("value", "allowed"), [(b"false", False), (b" False ", False), (b"true", True), (b"", True)])
def test_x_should_retry_false_forbids_the_same_target(value, allowed):
    verdict = classify(500, error(), headers=[*JSON, header(b"X-Should-Retry", value)])
    assert (verdict.fault, verdict.retry_same) == (Fault.SERVER_ERROR, allowed)


@pytest.mark.parametrize("status", [408, 500, 502, 504, 520, 524])
def test_work_that_may_have_been_done_is_ambiguous(status):
    assert classify(status, error()).ambiguous
    assert classify(status, PAGE, headers=HTML).ambiguous


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 413, 422, 429, 498, 503, 521, 529, 530])
def test_work_that_was_refused_is_not_ambiguous(status):
    assert not classify(status, error()).ambiguous
    assert not classify(status, PAGE, headers=HTML).ambiguous


@pytest.mark.parametrize(
    ("io", "sent", "fault", "ambiguous"),
    [
        (IOFault.DNS, False, Fault.CONNECT, False),
        (IOFault.CONNECT, False, Fault.CONNECT, False),
        (IOFault.CONNECT_TIMEOUT, False, Fault.CONNECT, False),
        (IOFault.TLS, False, Fault.CONNECT, False),
        (IOFault.TLS, True, Fault.CONNECT, False),
        (IOFault.POOL_TIMEOUT, False, Fault.CONNECT, False),
        (IOFault.RESET, True, Fault.SERVER_ERROR, True),
        (IOFault.RESET, False, Fault.CONNECT, False),
        (IOFault.MALFORMED, True, Fault.SERVER_ERROR, True),
        (IOFault.TIMEOUT, True, Fault.TIMEOUT, True),
        (IOFault.TIMEOUT, False, Fault.TIMEOUT, False),
        (IOFault.STALLED, True, Fault.STALLED, True),
    ],
)
def test_io_faults(io, sent, fault, ambiguous):
    for status in (0, 200):
        verdict = classify(status, b"", io=io, sent=sent, detail="why")
        assert (verdict.fault, verdict.ambiguous, verdict.code, verdict.message) == (fault, ambiguous, io.value, "why")
        assert verdict.quick is (io in {IOFault.CONNECT, IOFault.RESET})


def test_every_io_fault_has_a_meaning():
    assert all(classify(0, b"", io=io).fault is not None for io in IOFault)


def test_an_error_answer_whose_body_broke_off_is_still_that_error():
    assert classify(429, b'{"error":{"code":"rate_li', io=IOFault.RESET).fault is Fault.OVERLOADED
    assert classify(503, b"", io=IOFault.RESET).fault is Fault.OVERLOADED


@pytest.mark.parametrize(
    ("payload", "fault"),
    [
        (error("The server had an error", kind="server_error"), Fault.SERVER_ERROR),
        (error("x", kind="overloaded_error"), Fault.OVERLOADED),
        (error("x", code="rate_limit_exceeded", kind="tokens"), Fault.RATE_LIMITED),
        (error("x", code="insufficient_quota", kind="insufficient_quota"), Fault.BILLING),
        (error("x", code="context_length_exceeded", kind="invalid_request_error"), Fault.CONTEXT_LENGTH),
        (error("x", code="content_filter"), Fault.CONTENT_POLICY),
        (error("x", kind="invalid_request_error"), Fault.CALLER),
        (error("x", kind="authentication_error"), Fault.CREDENTIAL),
        (error("x", code="model_not_found", kind="invalid_request_error"), Fault.MODEL_GONE),
        ({"type": "error", "code": "server_error", "message": "x", "param": None, "sequence_number": 3}, Fault.SERVER_ERROR),
        ({"type": "error", "code": "rate_limit_exceeded", "message": "x"}, Fault.RATE_LIMITED),
        ({"type": "response.failed", "response": {"error": {"code": "server_error", "message": "x"}}}, Fault.SERVER_ERROR),
        ({"type": "response.failed", "response": {"error": {"code": "rate_limit_exceeded", "message": "x"}}}, Fault.RATE_LIMITED),
        ({"type": "response.failed", "response": {"error": {"code": "invalid_image_url", "message": "x"}}}, Fault.CALLER),
        ({"type": "response.failed", "response": {"error": {"code": "image_content_policy_violation"}}}, Fault.CONTENT_POLICY),
        ({"error": {"code": 502, "message": "Provider disconnected"}, "choices": []}, Fault.SERVER_ERROR),
        ({"error": {"code": 503, "message": "No provider"}}, Fault.OVERLOADED),
        ({"error": {"code": 429, "message": "slow"}}, Fault.RATE_LIMITED),
        ({"error": {"code": 503, "message": "x", "status": "UNAVAILABLE"}}, Fault.OVERLOADED),
        ({"error": {"message": "x", "status": "DEADLINE_EXCEEDED"}}, Fault.SERVER_ERROR),
        ({"error": "Internal error"}, Fault.SERVER_ERROR),
        ({"message": "x"}, Fault.SERVER_ERROR),
        ({"choices": [{"finish_reason": "error"}]}, Fault.SERVER_ERROR),
        (b"gone", Fault.SERVER_ERROR),
        (b"<html>", Fault.SERVER_ERROR),
        (b"", Fault.SERVER_ERROR),
    ],
)
def test_errors_inside_a_stream_are_classified_by_what_they_call_themselves(payload, fault):
    verdict = classify(200, payload, in_stream=True, headers=[])
    assert verdict.fault is fault
    assert verdict.ambiguous == (fault is Fault.SERVER_ERROR)


GOOD = [
    {"id": "chatcmpl-1", "choices": [{"message": {"content": "Hi"}}], "usage": {}},
    {"id": "x", "choices": [{"message": {"content": '{"error": {"code": 500}}'}}]},
    {"error": None, "id": "resp_1", "output": [{}], "status": "completed"},
    {"id": "resp_1", "object": "response", "status": "completed", "error": None, "output": []},
    {"error": {"code": "x", "message": "late"}, "choices": [{"message": {"content": "Hi"}}]},
    {"object": "list", "data": [{"embedding": [0.1]}], "error": {"message": "odd"}},
    {"id": "x", "metadata": {"error": {"a": 1}}, "choices": []},
    [],
    {},
]


@pytest.mark.parametrize("document", GOOD)
def test_a_good_answer_is_ok(document):
    for body in (json.dumps(document), json.dumps(document, separators=(",", ":")), "\n\n " + json.dumps(document)):
        verdict = classify(200, body.encode())
        assert verdict.fault is None
    assert classify(201, b"", headers=[]).fault is None
    assert classify(200, b'{"error": {"cut', headers=JSON).fault is None


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        ({"error": {"code": 502, "message": "Provider returned error"}, "user_id": "u"}, Fault.SERVER_ERROR),
        ({"error": {"code": 429, "message": "slow"}}, Fault.RATE_LIMITED),
        ({"id": "gen-1", "error": {"message": "x", "code": 503}, "choices": []}, Fault.OVERLOADED),
        ({"error": "Internal error"}, Fault.SERVER_ERROR),
        ([{"error": {"code": 503, "status": "UNAVAILABLE", "message": "x"}}], Fault.OVERLOADED),
        ({"object": "error", "message": "x", "code": 400}, Fault.CALLER),
        ({"id": "resp_1", "status": "failed", "error": {"code": "server_error", "message": "x"}, "output": []}, Fault.SERVER_ERROR),
        ({"id": "resp_1", "status": "failed", "error": {"code": "server_error"}, "output": [{}]}, Fault.SERVER_ERROR),
    ],
)
def test_an_error_in_the_clothes_of_a_200_is_an_error(document, fault):
    for prefix in (b"", b"\n" * 4000):
        verdict = classify(200, prefix + json.dumps(document).encode())
        assert verdict.fault is fault


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (error(code="invalid_api_key", kind="invalid_request_error"), "invalid_api_key"),
        (error(kind="server_error"), "server_error"),
        ({"error": {"code": 429, "message": "x", "status": "RESOURCE_EXHAUSTED"}}, "RESOURCE_EXHAUSTED"),
        ({"error": {"code": 502, "message": "x"}}, "502"),
        ({"detail": {"error": {"code": "busy", "message": "x"}}}, "busy"),
        ({"detail": {"code": "busy", "message": "x"}}, "busy"),
        (error(code="busy", details={"error_code": "very_busy"}), "busy"),
        (error(code="busy", details=["odd", {"violations": ["odd"], "reason": 1}]), "busy"),
        (error(code="a\r\nb\x00\u2028c" + "d" * 100), "abc" + "d" * 61),
        ({"code": "Client specified an invalid argument", "error": "x"}, "Client specified an invalid argument"),
        (error(code={"a": 1}, kind=["b"]), ""),
        (error(code=True), ""),
        (b"gone", ""),
    ],
)
def test_a_code_is_the_provider_s_own_word_printable_and_short(body, code):
    assert classify(500, body).code == code


def test_keys_do_not_reach_the_verdict():
    verdict = classify(401, error("Incorrect API key provided: sk-proj-abcdefghijklmnop. Find yours at https://x."))
    assert "abcdefgh" not in verdict.message
    assert verdict.message == "Incorrect API key provided: [key] Find yours at https://x."


def test_messages_are_short():
    assert len(classify(500, error("x" * 10_000)).message) <= 300


names = st.sampled_from(
    [
        "error",
        "code",
        "type",
        "message",
        "status",
        "details",
        "detail",
        "innererror",
        "metadata",
        "response",
        "object",
        "violations",
        "quotaId",
        "retryDelay",
        "reason",
        "choices",
        "output",
    ]
)
documents = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["error", "400", "Limit 1, Requested 2", "31s", "try again in 5s"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)


@given(
    st.one_of(
        st.binary(max_size=300),
        documents.map(lambda d: json.dumps(d).encode()),
        st.binary(max_size=30).map(lambda b: b'{"error":{"message":"' + b),
    ),
    st.integers(0, 599),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, *IOFault]),
    st.sampled_from([JSON, HTML, [], [header(b"retry-after", b"x\xff")]]),
)
def test_no_answer_makes_it_raise_and_every_error_gets_a_fault(body, status, own_key, in_stream, io, headers):
    for dialect in (OPENAI, AZURE):
        outcome = Outcome(status=status, headers=headers, body=body, io=io, in_stream=in_stream)
        verdict = dialect.classify(outcome, own_key=own_key, now_unix=NOW)
        if status >= 300 or in_stream or io:
            assert verdict.fault is not None
        assert len(verdict.code) <= 64
        assert verdict.code.isprintable()
        assert verdict.delay is None or 0 <= verdict.delay <= 86_400


def test_every_row_of_the_tables_can_decide():
    from gateway.dialects.faults_openai import AZURE_RULES

    for index, rule in enumerate(AZURE_RULES):
        earlier = AZURE_RULES[:index]
        assert not any(_covers(other, rule) for other in earlier), rule


def _covers(wide, narrow):
    """Whether every answer that fits `narrow` certainly fits `wide`."""
    ranges = all(any(a <= low and high <= b for a, b in wide.statuses) for low, high in narrow.statuses or ((0, 10**9),))
    flags = all(
        getattr(wide, name) is None or getattr(wide, name) == getattr(narrow, name)
        for name in ("html", "shaped", "oversize", "stated_delay", "own_key", "text")
    )
    return (not wide.statuses or ranges) and flags and (not wide.names or (bool(narrow.names) and narrow.names <= wide.names))

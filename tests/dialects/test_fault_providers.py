"""The error references of OpenAI and those who speak its format, row by row.

Statuses and names are the providers' published ones, bodies have each provider's own shape. What a row means is what the provider
says about it (wait, other account, other model, our key, the caller's), never what the tables happen to answer.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest

from gateway.core.message import header
from gateway.core.verdicts import Fault, Outcome, Scope
from gateway.dialects.registry import DIALECTS

NOW = 1_755_780_060.0
"""2025-08-21T12:41:00Z"""


class Row(NamedTuple):
    """One error answer, and what it means."""

    status: int
    body: Any
    fault: Fault
    scope: Scope
    delay: float | None = None
    ambiguous: bool = False
    quick: bool = False
    retry_same: bool = True
    headers: dict[str, str] | None = None
    quota_left: bool = False


NOBODY, CREDENTIAL, KEY_ON_MODEL, TARGET, PROVIDER = (
    Scope.NOBODY, Scope.CREDENTIAL, Scope.KEY_ON_MODEL, Scope.TARGET, Scope.PROVIDER,
)  # fmt: skip
HTML = {"content-type": "text/html; charset=UTF-8"}
BLOCKED = (
    b"<!DOCTYPE html>\n<html><head><title>Attention Required! | Cloudflare</title></head><body>Sorry, you have been blocked</body>"
)
GATEWAY_PAGE = b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body><center><h1>502 Bad Gateway</h1></center>\r\n"


def openai(message, *, kind=None, code=None, **more):
    return {"error": {"message": message, "type": kind, "param": None, "code": code, **more}}


def xai(code, text):
    return {"code": code, "error": text}


def mistral(message, kind, code=None):
    return {"object": "error", "message": message, "type": kind, "param": None, "code": code}


def google(code, status, message, *details):
    return [{"error": {"code": code, "message": message, "status": status, "details": list(details)}}]


def openrouter(code, message, **metadata):
    return {"error": {"code": code, "message": message, **({"metadata": metadata} if metadata else {})}, "user_id": "user_2x"}


def error_info(reason):
    return {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "googleapis.com"}


def quota_failure(quota_id):
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": quota_id, "quotaValue": "15"}]}


RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "31s"}
QUOTA = "You exceeded your current quota, please check your plan and billing details. For more information on this error, read the docs."
TPM = "Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Used 29000, Requested 1150. "
OPENAI_TOO_LARGE = (
    "Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Requested 30704. "
    "The input or output tokens must be reduced in order to run successfully."
)
GROQ_TOO_LARGE = (
    "Request too large for model `llama-3.3-70b-versatile` in organization `org_x` service tier `on_demand` on tokens per minute (TPM): "
    "Limit 6000, Requested 7034, please reduce your message size and try again."
)
GROQ_LIMIT = (
    "Rate limit reached for model `llama-3.3-70b-versatile` in organization `org_x` on requests per day (RPD): Limit 1000, Used 1000, "
    "Requested 1. Please try again in 1m26.4s."
)

OPENAI = [
    Row(400, openai("This model's maximum context length is 128000 tokens. However, your messages resulted in 130000 tokens.",
                    kind="invalid_request_error", code="context_length_exceeded"), Fault.CONTEXT_LENGTH, NOBODY),
    Row(400, openai("Invalid prompt: your prompt was flagged as potentially violating our usage policy.",
                    kind="invalid_request_error", code="invalid_prompt"), Fault.CONTENT_POLICY, NOBODY),
    Row(400, openai("Your request was rejected as a result of our safety system.", kind="invalid_request_error",
                    code="content_policy_violation"), Fault.CONTENT_POLICY, NOBODY),
    Row(400, openai("Unsupported parameter: 'max_tokens' is not supported with this model.", kind="invalid_request_error",
                    code="unsupported_parameter"), Fault.CALLER, NOBODY),
    Row(401, openai("Incorrect API key provided: sk-proj-********abcd. You can find your API key at https://platform.openai.com.",
                    kind="invalid_request_error", code="invalid_api_key"), Fault.CREDENTIAL, CREDENTIAL),
    Row(401, openai("You must be a member of an organization to use the API", kind="invalid_request_error"),
        Fault.CREDENTIAL, CREDENTIAL),
    Row(401, openai("Your IP address is not authorized to access this resource.", kind="invalid_request_error",
                    code="ip_not_authorized"), Fault.CREDENTIAL, CREDENTIAL),
    Row(401, openai("x", code="invalid_api_key"), Fault.CREDENTIAL, CREDENTIAL, retry_same=False, headers={"x-should-retry": "false"}),
    Row(403, openai("Country, region, or territory not supported", kind="request_forbidden",
                    code="unsupported_country_region_territory"), Fault.CREDENTIAL, CREDENTIAL),
    Row(403, openai("Country, region, or territory not supported", kind="request_forbidden"), Fault.CREDENTIAL, CREDENTIAL),
    Row(403, openai("Your organization must be verified to use the model `gpt-image-1`.", kind="invalid_request_error"),
        Fault.CREDENTIAL, KEY_ON_MODEL),
    Row(403, openai("You are not allowed to sample from this model", kind="invalid_request_error"), Fault.CREDENTIAL, KEY_ON_MODEL),
    Row(403, BLOCKED, Fault.EDGE_BLOCKED, PROVIDER, headers=HTML),
    Row(503, BLOCKED, Fault.EDGE_BLOCKED, PROVIDER, headers=HTML),
    Row(404, openai("The model `gpt-9` does not exist or you do not have access to it.", kind="invalid_request_error",
                    code="model_not_found"), Fault.MODEL_GONE, TARGET),
    Row(404, openai("No such File object: file-abc", kind="invalid_request_error", param="id"), Fault.CALLER, NOBODY),
    Row(408, openai("Request timed out.", kind="timeout"), Fault.SERVER_ERROR, TARGET, ambiguous=True),
    Row(409, openai("Another process is currently operating on this conversation.", code="conversation_locked"),
        Fault.SERVER_ERROR, NOBODY),
    Row(413, openai("Request body too large", kind="invalid_request_error"), Fault.CALLER, NOBODY),
    Row(415, openai("Unsupported content type", kind="invalid_request_error"), Fault.CALLER, NOBODY),
    Row(422, openai("Unprocessable", kind="invalid_request_error"), Fault.CALLER, NOBODY),
    Row(429, openai(TPM + "Please try again in 300ms. Visit https://platform.openai.com/account/rate-limits to learn more.",
                    kind="tokens", code="rate_limit_exceeded"), Fault.RATE_LIMITED, KEY_ON_MODEL, 0.3),
    Row(429, openai(TPM, kind="tokens", code="rate_limit_exceeded"), Fault.RATE_LIMITED, KEY_ON_MODEL, 1.5,
        headers={"retry-after-ms": "1500", "retry-after": "2", "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"}),
    Row(429, openai("Rate limit reached for requests", kind="requests", code="rate_limit_exceeded"),
        Fault.RATE_LIMITED, KEY_ON_MODEL, None, headers={"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}),
    Row(429, openai("Rate limit reached for requests", kind="requests", code="rate_limit_exceeded"), Fault.RATE_LIMITED, KEY_ON_MODEL,
        quota_left=True, headers={"x-ratelimit-remaining-requests": "9998", "x-ratelimit-remaining-tokens": "1999000"}),
    Row(429, openai(OPENAI_TOO_LARGE, kind="tokens", code="rate_limit_exceeded"), Fault.RATE_LIMITED, NOBODY, retry_same=False,
        headers={"retry-after": "2", "x-ratelimit-remaining-tokens": "30000"}),
    Row(429, openai("Your traffic has increased too quickly. Please slow down.", kind="rate_limit_error", code="slow_down"),
        Fault.RATE_LIMITED, KEY_ON_MODEL, 15, headers={"retry-after": "15"}),
    *(Row(429, openai("x", kind="insufficient_quota", code=code), Fault.BILLING, CREDENTIAL)
      for code in ("credit_balance_exhausted", "organization_spend_limit_exceeded", "project_spend_limit_exceeded",
                   "organization_usage_limit_exceeded", "insufficient_quota")),
    Row(429, openai(QUOTA, kind="insufficient_quota", code="insufficient_quota"), Fault.BILLING, CREDENTIAL,
        headers={"retry-after": "1", "x-ratelimit-remaining-requests": "499"}),
    Row(429, {"status": "come back later"}, Fault.OVERLOADED, TARGET),
    Row(500, openai("The server had an error while processing your request. Sorry about that!", kind="server_error"),
        Fault.SERVER_ERROR, TARGET, ambiguous=True, quick=True),
    Row(502, openai("Bad gateway", kind="cf_bad_gateway", code="cf_bad_gateway"), Fault.SERVER_ERROR, TARGET, ambiguous=True),
    Row(503, openai("Service unavailable", kind="cf_service_unavailable", code="cf_service_unavailable"), Fault.OVERLOADED, TARGET),
    Row(503, openai("Our servers are currently overloaded. Please try again later.", kind="service_unavailable_error",
                    code="server_is_overloaded"), Fault.OVERLOADED, TARGET, 30, headers={"retry-after": "30"}),
    Row(500, GATEWAY_PAGE, Fault.EDGE_BLOCKED, PROVIDER, ambiguous=True, headers=HTML),
    Row(502, GATEWAY_PAGE, Fault.EDGE_BLOCKED, PROVIDER, ambiguous=True, headers=HTML),
    Row(504, GATEWAY_PAGE, Fault.EDGE_BLOCKED, PROVIDER, ambiguous=True, headers=HTML),
    Row(504, b"upstream request timeout", Fault.SERVER_ERROR, TARGET, ambiguous=True, headers={"content-type": "text/plain"}),
    *(Row(status, BLOCKED, Fault.EDGE_BLOCKED, PROVIDER, ambiguous=status in {520, 524}, headers=HTML)
      for status in (520, 521, 522, 523, 524, 525, 526, 530)),
]  # fmt: skip

AZURE = [
    Row(400, openai("The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
                    code="content_filter", status=400,
                    innererror={"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}}),
        Fault.CONTENT_POLICY, NOBODY),
    Row(401, openai("Access denied due to invalid subscription key or wrong API endpoint.", code="401"), Fault.CREDENTIAL, CREDENTIAL),
    Row(401, openai("The principal `x` lacks the required data action", code="PermissionDenied"), Fault.CREDENTIAL, CREDENTIAL),
    Row(403, openai("Access denied due to Virtual Network/Firewall rules.", code="403"), Fault.CREDENTIAL, CREDENTIAL),
    Row(403, openai("Public access is disabled. Please configure private endpoint.", code="403"), Fault.CREDENTIAL, CREDENTIAL),
    Row(403, openai("Your resource has been temporarily blocked because we detected behavior that may violate our content policy.",
                    code="403"), Fault.CREDENTIAL, CREDENTIAL),
    Row(404, openai("The API deployment for this resource does not exist.", code="DeploymentNotFound"), Fault.MODEL_GONE, TARGET),
    Row(404, openai("Resource not found", code="404"), Fault.MODEL_GONE, TARGET),
    Row(429, openai("Requests to the ChatCompletions_Create Operation under Azure OpenAI API version 2024-10-21 have exceeded call rate "
                    "limit of your current OpenAI S0 pricing tier. Please retry after 37 seconds.", code="429"),
        Fault.RATE_LIMITED, KEY_ON_MODEL, 37),
    Row(429, openai("Too Many Requests", kind="too_many_requests", code="too_many_requests"), Fault.RATE_LIMITED, KEY_ON_MODEL,
        headers={"x-ratelimit-limit-requests": "-1", "x-ratelimit-remaining-requests": "-1", "x-ratelimit-reset-requests": "0"}),
    Row(429, openai("Too Many Requests", code="429"), Fault.RATE_LIMITED, KEY_ON_MODEL, 21,
        headers={"retry-after": "21", "retry-after-ms": "21000", "x-ratelimit-reset-requests": "21"}),
    Row(429, openai("The system is currently experiencing high demand and cannot process your request.", code="429"),
        Fault.OVERLOADED, TARGET),
    Row(408, openai("The operation was timeout.", code="Timeout"), Fault.SERVER_ERROR, TARGET, ambiguous=True),
    Row(424, openai("Failed dependency", code="424"), Fault.SERVER_ERROR, TARGET),
    Row(500, openai("The server had an error while processing your request.", kind="server_error", code="InternalServerError"),
        Fault.SERVER_ERROR, TARGET, ambiguous=True, quick=True),
    Row(503, openai("The service is temporarily unable to process your request.", code="ServiceUnavailable"), Fault.OVERLOADED, TARGET),
]  # fmt: skip

XAI = [
    Row(400, xai("Client specified an invalid argument", "Invalid role: developer"), Fault.CALLER, NOBODY),
    Row(400, xai("Client specified an invalid argument", "Incorrect API key provided: xa***yz. You can obtain one from "
                 "https://console.x.ai."), Fault.CREDENTIAL, CREDENTIAL),
    Row(400, xai("Client specified an invalid argument", "Content violates usage guidelines. Team: x, API key ID: y, Model: grok-4."),
        Fault.CONTENT_POLICY, NOBODY),
    Row(401, xai("Unauthenticated", "No authorization header or an invalid authorization token is provided."),
        Fault.CREDENTIAL, CREDENTIAL),
    Row(403, xai("The caller does not have permission to execute the specified operation", "Your API key/team is blocked."),
        Fault.CREDENTIAL, CREDENTIAL),
    Row(403, xai("The caller does not have permission to execute the specified operation",
                 "Your newly created teams doesn't have any credits yet. You can purchase those on https://console.x.ai."),
        Fault.BILLING, CREDENTIAL),
    Row(403, xai("The caller does not have permission to execute the specified operation",
                 "The API key x has no permission to use the model grok-4."), Fault.CREDENTIAL, KEY_ON_MODEL),
    Row(404, xai("Some requested entity was not found", "The model grok-9 does not exist or your team x does not have access to it."),
        Fault.MODEL_GONE, TARGET),
    Row(405, xai("Method not allowed", "x"), Fault.CALLER, NOBODY),
    Row(415, xai("Unsupported media type", "Expected request with `Content-Type: application/json`"), Fault.CALLER, NOBODY),
    Row(422, b"Failed to deserialize the JSON body into the target type: missing field `messages`", Fault.CALLER, NOBODY,
        headers={"content-type": "text/plain"}),
    Row(429, xai("Some resource has been exhausted", "Too many requests for team x and model grok-4."), Fault.RATE_LIMITED, KEY_ON_MODEL),
    Row(429, xai("Some resource has been exhausted", "Your team f81d4fae-7dec has either used all available credits or reached its "
                 "monthly spending limit."), Fault.BILLING, CREDENTIAL),
]  # fmt: skip

GROQ = [
    Row(400, openai("Failed to call a function. Please adjust your prompt.", kind="invalid_request_error", code="tool_use_failed"),
        Fault.CALLER, NOBODY),
    Row(400, openai("The model `mixtral-8x7b-32768` has been decommissioned and is no longer supported.",
                    kind="invalid_request_error", code="model_decommissioned"), Fault.MODEL_GONE, TARGET),
    Row(400, openai("Organization has been restricted. Please reach out to support.", kind="invalid_request_error",
                    code="organization_restricted"), Fault.CREDENTIAL, CREDENTIAL),
    Row(401, openai("Invalid API Key", kind="invalid_request_error", code="invalid_api_key"), Fault.CREDENTIAL, CREDENTIAL),
    Row(403, openai("The model `x` is blocked at the project level.", kind="permissions_error", code="model_permission_blocked_project"),
        Fault.CREDENTIAL, KEY_ON_MODEL),
    Row(404, openai("The model `x` does not exist or you do not have access to it.", kind="invalid_request_error",
                    code="model_not_found"), Fault.MODEL_GONE, TARGET),
    Row(413, openai(GROQ_TOO_LARGE, kind="tokens", code="rate_limit_exceeded"), Fault.RATE_LIMITED, NOBODY, retry_same=False),
    Row(413, openai("Request Entity Too Large", kind="invalid_request_error", code="request_too_large"), Fault.CALLER, NOBODY),
    Row(422, openai("The model hallucinated a tool", kind="invalid_request_error"), Fault.CALLER, NOBODY),
    Row(424, openai("Failed dependency: the MCP server refused", kind="invalid_request_error"), Fault.CALLER, NOBODY),
    Row(429, openai(GROQ_LIMIT, kind="requests", code="rate_limit_exceeded"), Fault.RATE_LIMITED, KEY_ON_MODEL, 86.4),
    Row(429, openai(GROQ_LIMIT, kind="requests", code="rate_limit_exceeded"), Fault.RATE_LIMITED, KEY_ON_MODEL, 87,
        headers={"retry-after": "87", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m26.4s",
                 "x-ratelimit-reset-tokens": "7.66s"}),
    Row(498, openai("Flex tier capacity exceeded", kind="server_error", code="capacity_exceeded"), Fault.OVERLOADED, TARGET),
    Row(499, openai("Request cancelled", kind="invalid_request_error"), Fault.CALLER, NOBODY),
    Row(500, openai("Internal Server Error", kind="internal_server_error"), Fault.SERVER_ERROR, TARGET, ambiguous=True, quick=True),
    Row(502, openai("Bad Gateway", kind="internal_server_error"), Fault.SERVER_ERROR, TARGET, ambiguous=True),
    Row(503, openai("Service Unavailable", kind="internal_server_error"), Fault.OVERLOADED, TARGET),
]  # fmt: skip

MISTRAL = [
    Row(401, {"message": "Unauthorized", "request_id": "x"}, Fault.CREDENTIAL, CREDENTIAL),
    Row(401, {"detail": "Unauthorized"}, Fault.CREDENTIAL, CREDENTIAL),
    Row(402, mistral("Payment required", "payment_required"), Fault.BILLING, CREDENTIAL),
    Row(402, {"detail": "Check your plan"}, Fault.BILLING, CREDENTIAL),
    Row(403, mistral("You are not authorized to use this model", "forbidden"), Fault.CREDENTIAL, KEY_ON_MODEL),
    Row(404, mistral("The model `mistral-x` does not exist.", "not_found_error"), Fault.MODEL_GONE, TARGET),
    Row(400, mistral("Invalid model: mistral-x", "invalid_model", "1500"), Fault.MODEL_GONE, TARGET),
    Row(400, mistral("Prompt contains 40000 tokens, too large for model with 32768 maximum context length", "invalid_request_error",
                     "3051"), Fault.CONTEXT_LENGTH, NOBODY),
    Row(422, {"detail": [{"type": "missing", "loc": ["body", "messages"], "msg": "Field required"}]}, Fault.CALLER, NOBODY),
    Row(422, mistral({"detail": [{"msg": "Extra inputs are not permitted"}]}, "invalid_request_error"), Fault.CALLER, NOBODY),
    Row(429, mistral("Requests rate limit exceeded", "rate_limited", "1300"), Fault.RATE_LIMITED, KEY_ON_MODEL,
        headers={"x-ratelimit-limit-tokens-minute": "500000", "x-ratelimit-remaining-tokens-minute": "0"}),
    Row(429, mistral("Requests rate limit exceeded", "rate_limited", "1300"), Fault.RATE_LIMITED, KEY_ON_MODEL, quota_left=True,
        headers={"x-ratelimit-remaining-tokens-minute": "499000"}),
    Row(429, {"message": "Requests rate limit exceeded"}, Fault.RATE_LIMITED, KEY_ON_MODEL, 5, headers={"retry-after": "5"}),
    Row(429, mistral("Service tier capacity exceeded for this model.", "service_tier_capacity_exceeded", "3505"),
        Fault.OVERLOADED, TARGET),
    Row(500, mistral("Service unavailable.", "internal_server_error", "3700"), Fault.SERVER_ERROR, TARGET, ambiguous=True, quick=True),
    Row(502, b"", Fault.SERVER_ERROR, TARGET, ambiguous=True),
    Row(503, mistral("Service unavailable.", "internal_server_error"), Fault.OVERLOADED, TARGET),
    Row(504, b"", Fault.SERVER_ERROR, TARGET, ambiguous=True),
]  # fmt: skip

DEEPSEEK = [
    Row(400, openai("Failed to deserialize the JSON body into the target type", kind="invalid_request_error",
                    code="invalid_request_error"), Fault.CALLER, NOBODY),
    Row(400, openai("Model Not Exist", kind="invalid_request_error", code="invalid_request_error"), Fault.MODEL_GONE, TARGET),
    Row(401, openai("Authentication Fails, Your api key: ****abcd is invalid", kind="authentication_error",
                    code="invalid_request_error"), Fault.CREDENTIAL, CREDENTIAL),
    Row(402, openai("Insufficient Balance", kind="unknown_error", code="invalid_request_error"), Fault.BILLING, CREDENTIAL),
    Row(422, openai("Invalid parameters", kind="invalid_request_error", code="invalid_request_error"), Fault.CALLER, NOBODY),
    Row(429, openai("Rate limit reached", kind="rate_limit_error", code="invalid_request_error"), Fault.RATE_LIMITED, KEY_ON_MODEL),
    Row(500, openai("Internal error", kind="internal_error"), Fault.SERVER_ERROR, TARGET, ambiguous=True, quick=True),
    Row(503, openai("Service is too busy. We advise users to temporarily switch to alternative LLM API service providers.",
                    kind="service_unavailable_error"), Fault.OVERLOADED, TARGET),
]  # fmt: skip

OPENROUTER = [
    Row(400, openrouter(400, "vendor/x is not a valid model ID"), Fault.MODEL_GONE, TARGET),
    Row(400, openrouter(400, 'Input required: specify "prompt" or "messages"'), Fault.CALLER, NOBODY),
    Row(401, openrouter(401, "No auth credentials found"), Fault.CREDENTIAL, CREDENTIAL),
    Row(402, openrouter(402, "Insufficient credits. Add more using https://openrouter.ai/settings/credits"), Fault.BILLING, CREDENTIAL),
    Row(402, openrouter(402, "This request requires more credits, or fewer max_tokens. You requested up to 65536 tokens, but can only "
                        "afford 1234."), Fault.RATE_LIMITED, NOBODY, retry_same=False),
    Row(402, openrouter(402, "Too much in flight", limit_source="openrouter_in_flight_budget"), Fault.RATE_LIMITED, CREDENTIAL),
    Row(403, openrouter(403, 'openai/gpt-4o requires moderation on OpenRouter. Your input was flagged for "harassment".',
                        reasons=["harassment"], flagged_input="x", provider_name="OpenAI"), Fault.CONTENT_POLICY, NOBODY),
    Row(403, openrouter(403, "Key limit exceeded (daily limit). Manage it using https://openrouter.ai/settings/keys"),
        Fault.BILLING, CREDENTIAL),
    Row(404, openrouter(404, "No endpoints found for vendor/x."), Fault.MODEL_GONE, TARGET),
    Row(408, openrouter(408, "Request timed out"), Fault.SERVER_ERROR, TARGET, ambiguous=True),
    Row(429, openrouter(429, "Provider returned error", raw="x is temporarily rate-limited upstream.", provider_name="Chutes"),
        Fault.RATE_LIMITED, KEY_ON_MODEL),
    Row(429, openrouter(429, "Rate limit exceeded"), Fault.RATE_LIMITED, KEY_ON_MODEL, 9, headers={"retry-after": "9"}),
    Row(429, openrouter(429, "Rate limit exceeded: free-models-per-min."), Fault.RATE_LIMITED, KEY_ON_MODEL, 12,
        headers={"X-RateLimit-Limit": "20", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1755780072000"}),
    Row(429, openrouter(429, "Rate limit exceeded: free-models-per-min.", headers={
            "X-RateLimit-Limit": "20", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1755780072000"}, provider_name=None),
        Fault.RATE_LIMITED, KEY_ON_MODEL, 12),
    Row(429, openrouter(429, "Rate limit exceeded"), Fault.RATE_LIMITED, KEY_ON_MODEL, 3,
        headers={"Retry-After": "3", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1755780072000"}),
    Row(429, openrouter(429, "Provider returned error"), Fault.RATE_LIMITED, KEY_ON_MODEL, quota_left=True,
        headers={"X-RateLimit-Remaining": "7", "X-RateLimit-Reset": "1755780072000"}),
    Row(502, openrouter(502, "Provider returned error", raw="x", provider_name="x"), Fault.SERVER_ERROR, TARGET, ambiguous=True),
    Row(503, openrouter(503, "No available model provider that meets your routing requirements"), Fault.OVERLOADED, TARGET, 4,
        headers={"retry-after": "4"}),
    Row(200, openrouter(502, "Provider returned error"), Fault.SERVER_ERROR, TARGET, ambiguous=True),
    Row(200, openrouter(500, "Internal Server Error"), Fault.SERVER_ERROR, TARGET, ambiguous=True, quick=True),
    Row(200, openrouter(429, "Rate limit exceeded"), Fault.RATE_LIMITED, KEY_ON_MODEL),
    Row(200, openrouter(402, "Insufficient credits"), Fault.BILLING, CREDENTIAL),
    Row(200, openrouter(400, "Input required"), Fault.CALLER, NOBODY),
]  # fmt: skip

GEMINI = [
    Row(400, google(400, "INVALID_ARGUMENT", "Request contains an invalid argument."), Fault.CALLER, NOBODY),
    Row(400, google(400, "INVALID_ARGUMENT", "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."),
        Fault.CONTEXT_LENGTH, NOBODY),
    Row(400, google(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", error_info("API_KEY_INVALID")),
        Fault.CREDENTIAL, CREDENTIAL),
    Row(400, google(400, "INVALID_ARGUMENT", "API key expired. Please renew the API key."), Fault.CREDENTIAL, CREDENTIAL),
    Row(400, google(400, "FAILED_PRECONDITION", "User location is not supported for the API use."), Fault.CREDENTIAL, CREDENTIAL),
    Row(402, google(402, "PAYMENT_REQUIRED", "Your prepayment credits are depleted."), Fault.BILLING, CREDENTIAL),
    Row(403, google(403, "PERMISSION_DENIED", "You do not have permission to access the tuned model."), Fault.CREDENTIAL, KEY_ON_MODEL),
    Row(403, google(403, "PERMISSION_DENIED", "Your API key was reported as leaked. Please use another API key."),
        Fault.CREDENTIAL, CREDENTIAL),
    Row(403, google(403, "PERMISSION_DENIED", "Requests from this IP are blocked.", error_info("API_KEY_IP_ADDRESS_BLOCKED")),
        Fault.CREDENTIAL, CREDENTIAL),
    Row(404, google(404, "NOT_FOUND", "models/gemini-9 is not found for API version v1main, or is not supported for generateContent."),
        Fault.MODEL_GONE, TARGET),
    Row(404, google(404, "NOT_FOUND", "Requested entity was not found."), Fault.CALLER, NOBODY),
    Row(429, google(429, "RESOURCE_EXHAUSTED", QUOTA, quota_failure("GenerateRequestsPerMinutePerProjectPerModel-FreeTier"), RETRY_INFO),
        Fault.RATE_LIMITED, KEY_ON_MODEL, 31),
    Row(429, google(429, "RESOURCE_EXHAUSTED", QUOTA, quota_failure("GenerateRequestsPerDayPerProjectPerModel-FreeTier"), RETRY_INFO),
        Fault.BILLING, KEY_ON_MODEL),
    Row(429, google(429, "RESOURCE_EXHAUSTED", QUOTA, quota_failure("GenerateRequestsPerDayPerProject"), RETRY_INFO),
        Fault.BILLING, CREDENTIAL),
    Row(429, google(429, "RESOURCE_EXHAUSTED", QUOTA + " Please retry in 56.43s."), Fault.RATE_LIMITED, KEY_ON_MODEL, 56.43),
    Row(500, google(500, "INTERNAL", "An internal error has occurred."), Fault.SERVER_ERROR, TARGET, ambiguous=True, quick=True),
    Row(503, google(503, "UNAVAILABLE", "The model is overloaded. Please try again later."), Fault.OVERLOADED, TARGET),
    Row(504, google(504, "DEADLINE_EXCEEDED", "The request timed out."), Fault.SERVER_ERROR, TARGET, ambiguous=True),
]  # fmt: skip

PROVIDERS = {
    "openai": OPENAI,
    "azure": AZURE,
    "xai": XAI,
    "groq": GROQ,
    "mistral": MISTRAL,
    "deepseek": DEEPSEEK,
    "openrouter": OPENROUTER,
    "gemini": GEMINI,
}
ROWS = [
    pytest.param(name, row, id=f"{name}-{row.status}-{index}") for name, rows in PROVIDERS.items() for index, row in enumerate(rows)
]


def classify(provider, row, *, own_key=True):
    raw = row.body if isinstance(row.body, bytes) else json.dumps(row.body).encode()
    fields = {"content-type": "application/json"} | (row.headers or {})
    headers = [header(name.encode(), value.encode()) for name, value in fields.items()]
    dialect = DIALECTS["azure" if provider == "azure" else "openai"]
    return dialect.classify(Outcome(status=row.status, headers=headers, body=raw), own_key=own_key, now_unix=NOW)


@pytest.mark.parametrize(("provider", "row"), ROWS)
def test_a_provider_s_error_means_what_its_reference_says(provider, row):
    verdict = classify(provider, row)
    assert (verdict.fault, verdict.scope) == (row.fault, row.scope)
    assert verdict.delay == (None if row.delay is None else pytest.approx(row.delay))
    assert (verdict.ambiguous, verdict.quick, verdict.retry_same) == (row.ambiguous, row.quick, row.retry_same)
    assert verdict.quota_left == row.quota_left


@pytest.mark.parametrize(("provider", "row"), ROWS)
def test_with_a_client_s_own_key_nothing_that_concerns_keys_is_ours(provider, row):
    """And everything else means the same."""
    verdict = classify(provider, row, own_key=False)
    if row.fault in {Fault.CREDENTIAL, Fault.BILLING, Fault.MODEL_GONE}:
        assert verdict.fault in {Fault.CALLER, Fault.CONTENT_POLICY}
        assert verdict.scope is NOBODY
    else:
        assert (verdict.fault, verdict.scope, verdict.ambiguous, verdict.quick) == (row.fault, row.scope, row.ambiguous, row.quick)

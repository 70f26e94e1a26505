"""What the errors of OpenAI-compatible providers mean, as tables (law 3); the first row that fits decides.

Rows are ordered from what is certain to what is general: pages from the edge, then names, then texts, then bare statuses. Names are
the provider's own vocabulary; texts are a last resort where a provider gives no name. A message may echo what the client sent, so
texts that bench a credential or blame a target are anchored at the start of the message, leave no room for more than a name before
the telling words, and are tied to a status or a name that no client can choose (law 11). Sources: the providers' error references,
and captures of their answers.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.core.matcher import Rule
from gateway.core.verdicts import Fault, Scope


def _text(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


_BAD_REQUEST: Final = ((400, 400), (413, 413), (422, 422))
_REFUSED_STATUSES: Final = ((400, 400), (402, 403), (429, 429))
_ANY_ERROR: Final = ((400, 599),)

_CONTEXT_LENGTH_NAMES: Final = frozenset(
    {
        "context_length_exceeded",
        "context_window_exceeded",
        "model_context_window_exceeded",
        "exceed_context_size_error",
    },
)
_CONTEXT_LENGTH_TEXT: Final = _text(
    r"maximum context length|context[ _]length|context[ _]window|prompt is too long|input is too long|"
    r"reduce the length of the (?:messages|prompt|input)|exceeds the (?:available )?context size|"
    r"input token count .{0,60}exceeds the maximum",
)

_CONTENT_POLICY_NAMES: Final = frozenset(
    {
        "content_policy_violation",
        "content_filter",
        "content_filtered",
        "image_content_policy_violation",
        "moderation_blocked",
        "responsibleaipolicyviolation",
        "invalid_prompt",
        "flagged_input",
    },
)
_CONTENT_POLICY_TEXT: Final = _text(
    r"content (?:management )?policy|content violates usage guidelines|safety system|violat\w+ .{0,40}usage polic|"
    r"^content moderation|was flagged",
)

_BILLING_NAMES: Final = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "enforced_spend_limit_reached",
        "contract_spend_limit_reached",
        "linked_organization_spend_limit_reached",
        "billing_hard_limit_reached",
        "billing_not_active",
        "billing_error",
        "billing_disabled",
        "payment_required",
        "insufficient_balance",
        "exceeded_current_quota_error",
        "quota_per_day",
    },
)
_MODEL_QUOTA_NAMES: Final = frozenset({"quota_per_day_and_model"})
"""What is used up until tomorrow is this model's share."""
_BILLING_TEXT: Final = _text(
    r"^you(?:'ve| have)? exceeded your current quota|^insufficient (?:balance|credits?|funds|quota)\b|"
    r"^your (?:credit balance is|account is not active)|^billing hard limit|^you(?: are|'re| have run) out of credits|"
    r"^you(?:'ve| have) reached your [\w /-]{0,40}\bspend(?:ing)? limit|^key limit exceeded|"
    # xAI's name the team, by its name or id.
    r"^your (?:newly created )?teams?(?: [\w.-]{1,64})? "
    r"(?:has (?:either )?(?:used all|reached its)|(?:does|do)n't have any credits)\b",
)

_UNAFFORDABLE_TEXT: Final = _text(r"^this request requires more credits")
"""OpenRouter's for a request whose `max_tokens` the balance would not pay for; it may still pay for smaller ones."""

_CREDENTIAL_NAMES: Final = frozenset(
    {
        "invalid_api_key",
        "incorrect_api_key",
        "api_key_invalid",
        "api_key_expired",
        "authentication_error",
        "account_deactivated",
        "deactivated_workspace",
        "organization_on_hold",
        "organization_restricted",
        "ip_not_authorized",
        "unsupported_country_region_territory",
        "failed_precondition",
        # Google's reasons for refusing a key or the project behind it (google.api.ErrorReason).
        "api_key_service_blocked",
        "api_key_ip_address_blocked",
        "api_key_http_referrer_blocked",
        "consumer_suspended",
        "consumer_invalid",
        "service_disabled",
        "location_policy_violated",
    },
)
"""The key is refused, or the account or network it is used from: for every model."""
_API_KEY_TEXT: Final = _text(r"^(?:incorrect|invalid) api[ _]key\b|^api[ _]key (?:not valid|not found|expired|is invalid)\b")
_WHOLE_KEY_TEXT: Final = _text(
    r"^(?:your|this|the) (?:api[ _]key(?:/team)?|team|account|organization|project)(?: [\w.-]{1,64})? "
    r"(?:is|was|has been)(?: currently| temporarily| permanently| reported as)? "
    r"(?:blocked|suspended|deactivated|disabled|restricted|revoked|leaked)\b|"
    r"^(?:incorrect|invalid) api[ _]key\b|^country, region,? or territory not supported|"
    r"^(?:your )?ip(?: address)?(?: is)? not (?:authorized|allowed)\b",
)
"""Said with a 403, which otherwise is about what was asked for."""
_AZURE_RESOURCE_TEXT: Final = _text(
    r"^access denied due to virtual network|^public access is disabled|^your resource has been (?:temporarily )?blocked\b",
)
_VAGUE_400_NAMES: Final = frozenset({"client specified an invalid argument", "invalid_argument"})
"""What xAI and Google call any 400, a bad API key included; OpenAI answers those with 401."""

_SCOPE_TEXT: Final = _text(r"\bmissing scopes?:|^you have insufficient permissions for this operation")

_MODEL_GONE_NAMES: Final = frozenset(
    {
        "model_not_found",
        "model_not_available",
        "model_decommissioned",
        "model_deprecated",
        "invalid_model",
        "unknown_model",
    },
)
_MODEL_GONE_TEXT: Final = _text(
    r"^(?:the )?(?:requested )?models?(?:[ :/]{1,2}\S{1,256})?(?: (?:is|was|has been))? "
    r"(?:does not exist|not exist|not found|no longer available|decommissioned)\b|"
    r"^\S{1,128} is not a valid model id\b|^no endpoints found for \S",
)

_OVERLOADED_NAMES: Final = frozenset(
    {
        "overloaded_error",
        "overloaded",
        "engine_overloaded",
        "engine_overloaded_error",
        "server_is_overloaded",
        "service_unavailable_error",
        "capacity_exceeded",
        "service_tier_capacity_exceeded",
        "model_overloaded",
        "unavailable",
    },
)
_OVERLOADED_TEXT: Final = _text(
    r"^(?:we(?:'re| are)|"
    r"(?:the |that |this |our )?(?:system|engine|model|server|service|provider|region)s?(?: \S{1,128})?(?: is| are)?)"
    r"(?: currently| temporarily)?(?: experiencing)? (?:high demand|overloaded|at capacity|out of capacity)\b|"
    r"^(?:there is )?no capacity\b|^(?:please )?come back later\b",
)
_RATE_LIMIT_TEXT: Final = _text(r"rate.?limit|too many requests|quota")

_RATE_LIMIT_NAMES: Final = frozenset({"openrouter_in_flight_budget"})
"""A 402 that is none: OpenRouter's limit on money in flight."""

_SHARED_RULES: Final[tuple[Rule, ...]] = (
    # The edge, not the model: pages, statuses that only a CDN or a proxy makes.
    Rule(Fault.EDGE_BLOCKED, ((500, 500), (502, 502), (504, 504), (520, 520), (524, 524)), html=True, ambiguous=True),
    Rule(Fault.EDGE_BLOCKED, ((200, 299), (401, 401), (403, 403), (407, 407), (429, 429), (500, 599)), html=True),
    Rule(Fault.EDGE_BLOCKED, ((520, 520), (524, 524)), ambiguous=True),
    Rule(Fault.EDGE_BLOCKED, ((407, 407), (521, 523), (525, 527), (530, 530))),
    # A limit that this request exceeds all by itself. Elsewhere it may fit; here neither waiting nor repeating helps, and nobody
    # else's requests are affected: hence no delay, not the same target again, and nobody's failure.
    Rule(
        Fault.RATE_LIMITED,
        ((413, 413), (429, 429)),
        oversize=True,
        code="request_too_large",
        waits=False,
        retry_same=False,
        scope=Scope.NOBODY,
    ),
    Rule(
        Fault.RATE_LIMITED,
        ((402, 402),),
        text=_UNAFFORDABLE_TEXT,
        code="request_too_large",
        waits=False,
        retry_same=False,
        scope=Scope.NOBODY,
    ),
    # Names of what is wrong with the request.
    Rule(Fault.CONTEXT_LENGTH, _BAD_REQUEST, _CONTEXT_LENGTH_NAMES),
    Rule(Fault.CONTENT_POLICY, ((400, 400), (403, 403), (422, 422), (451, 451)), _CONTENT_POLICY_NAMES),
    # Money, keys and models: ours, or the caller's own. An empty wallet is not full again after the delay that comes with a 429.
    Rule(Fault.RATE_LIMITED, ((402, 402),), _RATE_LIMIT_NAMES, scope=Scope.CREDENTIAL),
    Rule(Fault.BILLING, _REFUSED_STATUSES, _BILLING_NAMES, own_key=True, waits=False),
    Rule(Fault.BILLING, ((429, 429),), _MODEL_QUOTA_NAMES, own_key=True, waits=False, scope=Scope.KEY_ON_MODEL),
    Rule(Fault.CALLER, _REFUSED_STATUSES, _BILLING_NAMES | _MODEL_QUOTA_NAMES),
    # Not 403: there the model exists, and this key may not use it.
    Rule(Fault.MODEL_GONE, ((400, 402), (404, 410), (422, 422)), _MODEL_GONE_NAMES, own_key=True),
    Rule(Fault.MODEL_GONE, ((400, 400), (404, 404), (410, 410)), text=_MODEL_GONE_TEXT, own_key=True),
    Rule(Fault.CREDENTIAL, ((400, 403),), _CREDENTIAL_NAMES, own_key=True),
    Rule(Fault.CREDENTIAL, ((400, 400),), _VAGUE_400_NAMES, _API_KEY_TEXT, own_key=True),
    # Texts, where no name said it.
    Rule(Fault.CONTEXT_LENGTH, _BAD_REQUEST, text=_CONTEXT_LENGTH_TEXT),
    Rule(Fault.CONTENT_POLICY, ((400, 400), (403, 403)), text=_CONTENT_POLICY_TEXT),
    Rule(Fault.BILLING, ((403, 403),), text=_BILLING_TEXT, own_key=True, waits=False),
    # Our key lacks a right that only this endpoint needs: it goes on serving the others.
    Rule(Fault.CALLER, ((401, 401), (403, 403)), text=_SCOPE_TEXT),
    Rule(Fault.CREDENTIAL, ((401, 401),), own_key=True),
    Rule(Fault.CREDENTIAL, ((403, 403),), text=_WHOLE_KEY_TEXT, own_key=True),
    # Any other 403 was about what was asked for: other models may still be served with this key.
    Rule(Fault.CREDENTIAL, ((403, 403),), own_key=True, scope=Scope.KEY_ON_MODEL),
    Rule(Fault.BILLING, ((402, 402),), own_key=True, waits=False),
    # 429: a rate limit, an empty wallet, or an overload that borrows the number.
    Rule(Fault.RATE_LIMITED, ((429, 429),), frozenset({"resource_exhausted"})),
    Rule(Fault.BILLING, ((429, 429),), text=_BILLING_TEXT, own_key=True, waits=False),
    Rule(Fault.CALLER, ((429, 429),), text=_BILLING_TEXT),
    Rule(Fault.OVERLOADED, _ANY_ERROR, _OVERLOADED_NAMES),
    Rule(Fault.OVERLOADED, ((429, 429),), text=_OVERLOADED_TEXT),
    Rule(Fault.RATE_LIMITED, ((429, 429),), shaped=True),
    Rule(Fault.RATE_LIMITED, ((429, 429),), stated_delay=True),
    Rule(Fault.RATE_LIMITED, ((429, 429),), text=_RATE_LIMIT_TEXT),
    Rule(Fault.OVERLOADED, ((429, 429),)),
    # Bare statuses.
    Rule(Fault.SERVER_ERROR, ((408, 408),), ambiguous=True),
    # A conflict may pass, but two requests of one client for the same conversation make one, too.
    Rule(Fault.SERVER_ERROR, ((409, 409),), scope=Scope.NOBODY),
    Rule(Fault.OVERLOADED, ((498, 498), (503, 503), (529, 529))),
    Rule(Fault.SERVER_ERROR, ((500, 500),), ambiguous=True, quick=True),
    Rule(Fault.SERVER_ERROR, ((502, 502), (504, 504)), ambiguous=True),
    Rule(Fault.CALLER, ((400, 499),)),
    Rule(Fault.UNKNOWN),
)

OPENAI_RULES: Final[tuple[Rule, ...]] = _SHARED_RULES
"""OpenAI and everyone compatible. 424 and 499 are the caller's (Groq: a failed tool server, a cancelled request)."""

AZURE_RULES: Final[tuple[Rule, ...]] = (
    Rule(Fault.MODEL_GONE, ((404, 404),), frozenset({"deploymentnotfound"}), own_key=True),
    # A wrong `api_version` or resource: the configuration's fault, which only another target can mend.
    Rule(Fault.MODEL_GONE, ((404, 404),), frozenset({"404"}), _text(r"^resource not found"), own_key=True),
    # The account is blocked or fenced in, whatever the sentence says of policies.
    Rule(Fault.CREDENTIAL, ((403, 403),), text=_AZURE_RESOURCE_TEXT, own_key=True),
    Rule(Fault.SERVER_ERROR, ((424, 424),), html=False),
    *_SHARED_RULES,
)
"""Azure's own rows, then the shared ones."""

IN_BAND_STATUS: Final[dict[str, int]] = {
    **dict.fromkeys(("rate_limit_exceeded", "rate_limit_error", "slow_down", "resource_exhausted", "tokens", "requests"), 429),
    **dict.fromkeys(_BILLING_NAMES, 429),
    **dict.fromkeys(_OVERLOADED_NAMES, 503),
    **dict.fromkeys(_CONTEXT_LENGTH_NAMES | _CONTENT_POLICY_NAMES, 400),
    **dict.fromkeys(("invalid_request_error", "invalid_argument", "bad_request", "request_too_large"), 400),
    **dict.fromkeys(("invalid_image", "invalid_image_format", "invalid_base64_image", "invalid_image_url"), 400),
    **dict.fromkeys(("image_too_large", "image_too_small", "image_parse_error", "invalid_image_mode"), 400),
    **dict.fromkeys(("image_file_too_large", "unsupported_image_media_type", "empty_image_file"), 400),
    **dict.fromkeys(("failed_to_download_image", "image_file_not_found"), 400),
    **dict.fromkeys(_CREDENTIAL_NAMES | {"authentication_error", "unauthenticated"}, 401),
    **dict.fromkeys(("permission_error", "permission_denied"), 403),
    **dict.fromkeys(_MODEL_GONE_NAMES | {"not_found_error", "not_found", "deploymentnotfound"}, 404),
    "timeout_error": 504,
    "deadline_exceeded": 504,
}
"""The status which the name of an error inside a 200 stands for, where it states no number."""

DEFAULT_IN_BAND_STATUS: Final = 500
"""An error inside a 200 that nobody knows: the provider's."""

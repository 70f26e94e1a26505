"""The shape of a configuration file: every key, its reader, its default and what it means.

Reads like the file itself: defaults are written as an operator writes them and go through the same readers. Every section refuses
unknown keys and is frozen. No key is required here: what must be said is listed in `REQUIRED` and looked for in the file itself, so
that one missing key hides no other mistake (its field holds a blank, which no compiled configuration ever shows). What a key means
beyond its own value (names that must exist, routes that can never match) is `checks`' business. Descriptions serve editors.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from gateway.config.quotas import ClientLimits, Group, Quota, RateLimit
from gateway.config.section import Section, said
from gateway.config.values import (
    OFF,
    Address,
    ApiVersion,
    BaseUrl,
    BodyPattern,
    Certificates,
    ClientKey,
    Duration,
    FaultName,
    Glob,
    Headers,
    HedgeAfter,
    Hold,
    Keys,
    Label,
    Learned,
    Model,
    Name,
    PathGlob,
    PositiveDuration,
    PositiveShare,
    PrefillName,
    Proxy,
    Pulse,
    RuledFault,
    ScopeName,
    Share,
    Size,
    Statuses,
    Switch,
    Token,
    Weight,
    choice,
    count,
    short_for,
)
from gateway.core.plan import Balance, Priority
from gateway.core.verdicts import Fault

DIALECTS: Final = ("openai", "azure", "anthropic", "gemini")


class ServerLimits(Section):
    """What one client connection, and all together, may take."""

    header_bytes: Size = said("64KiB", "A request's head, at most.")
    headers: Annotated[int, *count(1, 10_000)] = Field(description="Header lines in a request, at most.", default=100)
    body_bytes: Size = said("512MiB", "A request's body, at most.")
    replay_bytes: Size = said("32MiB", "Largest body that is kept for another attempt; larger ones get one attempt.")
    replay_total: Size = said("256MiB", "Memory for all kept bodies together, and for streams held back.")
    connections: Annotated[int, *count(1, 1_000_000)] = Field(description="Client connections, at most.", default=20_000)


class ServerTimeouts(Section):
    """How long a client may take over a request."""

    header: PositiveDuration = said("10s", "From a request's first byte to the end of its head.")
    body_idle: PositiveDuration = said("30s", "Silence within a request's body.")
    keepalive: PositiveDuration = said("75s", "How long an idle connection stays; keep it above your clients' own.")


class Drain(Section):
    """How the gateway leaves."""

    delay: Duration = said("5s", "Not ready, but still accepting: load balancers need time to notice.")
    timeout: Duration = said("300s", "For requests under way, counted from the end of the delay.")


class Server(Section):
    """The data port, which apps call."""

    listen: Address = said("127.0.0.1:8080", "Host and port; beyond loopback, `clients` must be named or `open` be on.")
    open: Switch = Field(description="Let everybody who reaches the port call, without `clients`.", default=False)
    limits: ServerLimits = Field(description="Sizes and counts.", default_factory=ServerLimits)
    timeouts: ServerTimeouts = Field(description="Times of a client's connection.", default_factory=ServerTimeouts)
    drain: Drain = Field(description="How the gateway leaves.", default_factory=Drain)


class Admin(Section):
    """The admin port: metrics, health, status."""

    listen: Address = said("127.0.0.1:9901", "Host and port; beyond loopback a token is required.")
    token: Token = Field(
        description="Guards the status and admin pages; empty: none. `file:/path` is re-read on change.",
        default=None,
        validate_default=False,
        repr=False,
    )


class Client(Section):
    """An app that may call."""

    name: Name = Field(description="Its name in logs and metrics.", default="", validate_default=False)
    key: ClientKey = Field(
        description="Its key, or `sha256:` and the lower-case hex SHA-256 of the key.",
        default=b"",
        validate_default=False,
        repr=False,
    )
    models: tuple[Glob, ...] | None = Field(
        description="Models it may name, as patterns; all where left out.", default=None, min_length=1
    )
    priority: Annotated[str, *choice(*(priority.label for priority in Priority))] = said(
        "standard",
        "Whose turn it is where requests wait for room: interactive before standard before batch, each with a share that is kept "
        "for it; a request may lower its own with `x-gateway-priority`.",
    )
    weight: Weight = Field(
        description="Its share of a busy target, in tokens, beside the other clients of its priority.", default=1.0
    )
    limits: ClientLimits | None = Field(
        description="How much it may send to all models together; without limits of its own where left out.", default=None
    )


class Tls(Section):
    """How a provider's certificate is checked."""

    ca: Certificates | None = Field(description="PEM file of the authorities to trust instead of the system's.", default=None)
    server_name: Label | None = Field(description="The name to ask for and to check, where it is not the host's.", default=None)


class Breaker(Section):
    """When traffic is led away from a failing target, and how it comes back."""

    consecutive: Annotated[int, *count(1, 10_000)] = Field(description="Failures in a row that open it.", default=5)
    failure_rate: PositiveShare = said("50%", "Failed share of the window that opens it.")
    min_requests: Annotated[int, *count(1, 1_000_000)] = Field(
        description="Requests in the window before its rate counts.", default=20
    )
    window: PositiveDuration = said("30s", "How far back the rate looks.")
    open: PositiveDuration = said("5s", "How long it stays open at first; doubles up to `max_open`.")
    max_open: PositiveDuration = said("30s", "How long it stays open at most.")
    ramp: Duration = said("30s", "How long a recovered target takes to get its full share back.")


class RetryBudget(Section):
    """How many requests may be repeated at this provider."""

    ratio: Share = said("20%", "Repeats per first attempt.")
    floor: Annotated[float, *count(0, 100_000)] = Field(description="Repeats per 10 s that are always allowed.", default=3)


class Queue(Section):
    """Where requests wait for room at a target that is at its limit."""

    depth: Annotated[int, *count(0, 1_000_000)] = Field(
        description="Requests that may wait, per target or group of models; a full queue lets its newest one of a lower priority "
        "go for one of a higher, else it refuses the newcomer. 0: nobody waits.",
        default=1000,
    )
    wait: Duration = said("10s", "All waiting of one request together, at most; 0s: never wait.")


class ErrorRule(Section):
    """What one kind of error answer means; looked at before the gateway's own tables."""

    status: Statuses | None = Field(
        description="Statuses it is for: 400, 5xx, 500-599, or a list of such; any error where it is not said. An error inside a "
        "200 counts as the status it stands for.",
        default=None,
    )
    body: BodyPattern | None = Field(
        description="Regular expression (Python's `re`, case-sensitive unless it begins with `(?i)`) that is searched in the first "
        "16 KiB of the answer's body.",
        default=None,
    )
    fault: RuledFault = Field(description="What such an answer is.", default=Fault.CALLER, validate_default=False)
    scope: ScopeName | None = Field(
        description="Whose failure it is, where not the fault's usual: credential or key_on_model for billing, credential and "
        "rate_limited; nobody for caller, context_length and content_policy; target or provider for the others.",
        default=None,
    )


class Provider(Section):
    """An upstream account."""

    dialect: Annotated[str, *choice(*DIALECTS)] = said("openai", "What it speaks.")
    base_url: BaseUrl = Field(description="Where it is; endpoints' paths are added to this.", default=None, validate_default=False)
    api_key: Keys = Field(
        description="Its key, or several of which the first usable one serves; `${VAR}`, or `file:/path`, re-read on change. "
        "Left out: the client's own key is passed on.",
        default_factory=tuple,
        validate_default=False,
        repr=False,
    )
    api_version: ApiVersion | None = Field(
        description="Azure only: use the dated addresses of this version; left out: the v1 addresses.", default=None
    )
    domain: Name | None = Field(description="What fails together; the provider's name where it is not said.", default=None)
    region: Label | None = Field(description="Where it is, for the status page.", default=None)
    headers: Headers = Field(description="Added to every request.", default_factory=dict, validate_default=False, repr=False)
    tls: Tls = Field(description="How its certificate is checked.", default_factory=Tls)
    proxy: Proxy = Field(
        description="http://[user:password@]host:port, or off; the environment's HTTPS_PROXY and kin where it is not said.",
        default=None,
        validate_default=False,
        repr=False,
    )
    connect: PositiveDuration = said("5s", "For DNS, TCP and TLS together.")
    pool: Annotated[int, *count(1, 100_000)] = Field(description="Connections, at most.", default=1000)
    breaker: Breaker = Field(description="When to lead traffic away.", default_factory=Breaker)
    retry_budget: RetryBudget = Field(description="How many requests may be repeated here.", default_factory=RetryBudget)
    quota: Quota | None = Field(
        description="What the account lets each of its keys send to each model; learned from its answers where left out.",
        default=None,
    )
    queue: Queue = Field(description="Where requests wait for room.", default_factory=Queue)
    stream_usage: Switch = Field(
        description="Whether it takes `stream_options.include_usage`, so that the gateway may ask for the usage of streams whose "
        "clients did not.",
        default=False,
    )
    errors: tuple[ErrorRule, ...] = Field(
        description="What its error answers mean, where you know better; the first that fits decides. A provider's own list stands "
        "for itself: that of `provider_defaults` is not added to it.",
        default=(),
    )


class Match(Section):
    """Which requests a route takes; all of what is said must fit, `{}` takes everything."""

    models: tuple[Glob, ...] | None = Field(description="Names of models, as patterns.", default=None, min_length=1)
    paths: tuple[PathGlob, ...] | None = Field(description="Paths of endpoints, as patterns.", default=None, min_length=1)
    clients: tuple[Name, ...] | None = Field(description="Names of clients.", default=None, min_length=1)


class Target(Section):
    """A place that can serve."""

    provider: Name = Field(description="One of `providers`.", default="", validate_default=False)
    model: Model | None = Field(description="The model's name there; the client's where it is not said.", default=None)
    weight: Weight = Field(description="Its share, with `balance: weighted` or least_busy.", default=1.0)
    only_for: tuple[FaultName, ...] | None = Field(description="Tried only after one of these faults.", default=None, min_length=1)
    hedge: Switch = Field(
        description="May stand in for a slow target in a hedge though its dialect or its model's name is another.", default=False
    )
    prefill: PrefillName = said(
        "none",
        "How it takes the beginning of its answer, for streams that are resumed: none: not at all; plain: as a last "
        "message of the assistant; prefix: with `prefix: true` on that (DeepSeek's beta addresses); prefix_echoed: the same, and "
        "its answer repeats the beginning (Mistral); continue_final: with `continue_final_message: true` (vLLM, SGLang).",
    )


class Route(Section):
    """A rule: which requests, to which targets, under which policy. The first that matches wins."""

    name: Name = Field(description="Its name in logs, metrics and headers.", default="", validate_default=False)
    match: Match = Field(description="Which requests; `{}` takes everything.", default_factory=Match)
    targets: tuple[Annotated[Target, short_for("provider")], ...] = Field(
        description="In order of preference; a bare name keeps the client's model name.", default=()
    )
    balance: Annotated[str, *choice(*Balance)] = said(
        "ordered",
        "Which target is tried first: ordered: the first; weighted: by their weights; fastest: by how soon each begins to answer; "
        "least_busy: by the work under way there, against its limits and weight. The others stand in for it.",
    )
    policy: Name = said("default", "One of `policies`.")


class LearnedLimit(Section):
    """A limit that follows what the target usually takes for requests of that size."""

    learned: Learned | None = Field(description="A percentile of its last minutes, p50 to p99, times 1 to 100.", default=None)
    floor: PositiveDuration = said("20s", "Never shorter than this.")
    initially: PositiveDuration | None = Field(
        description="The limit until enough is known; what it would be without `learned`, where it is not said.", default=None
    )


AttemptLimit = Annotated[LearnedLimit, short_for("initially", learned=None)]


class PolicyTimeouts(Section):
    """Limits of one attempt."""

    first_token: AttemptLimit = said("120s", "From send to first content, for streams.")
    stall: PositiveDuration = said("120s", "Silence after the answer's first byte.")
    answer: AttemptLimit = said("600s", "From send to the end of a whole non-streamed answer.")
    max_stream: PositiveDuration = said("60m", "From send to the end of a stream.")


class Backoff(Section):
    """How long to wait before the same target is asked again: min(cap, base * 2^n), randomised."""

    base: PositiveDuration = said("500ms", "The first wait.")
    cap: PositiveDuration = said("8s", "The longest wait.")
    jitter: Annotated[str, *choice("full", "equal", "decorrelated")] = said("full", "How it is randomised.")


class Hedge(Section):
    """When a second attempt is started beside a slow one."""

    after: HedgeAfter = said(
        "p95", "Without content for so long: a percentile of what the target usually takes, p10 to p99, or a time."
    )
    floor: PositiveDuration = said("300ms", "Never sooner than this.")
    budget: PositiveShare = said("5%", "Hedges per request of the route.")
    max: Annotated[int, *count(1, 3)] = Field(description="Hedges per client request.", default=1)
    non_stream: Switch = Field(description="Also where the answer is not a stream.", default=False)


class Stream(Section):
    """How streams are relayed."""

    hold: Hold = said(
        "none",
        "How long the first content is held back, so that an early break is mended unseen: none, a time, or all of the answer.",
    )
    resume: Switch = Field(
        description="Continue a stream that broke by another request, which another model may answer.", default=False
    )
    keepalive: Pulse = said("15s", "Silence in a stream after which a comment is sent, or off.")
    early_keepalive: Pulse = Field(
        description="The same before the first content, or off. It fixes the status: later errors come inside the stream.",
        default=False,
    )


class Policy(Section):
    """A route's numbers."""

    deadline: PositiveDuration = said("600s", "Until the answer begins; a client's own patience shortens it.")
    attempts: Annotated[int, *count(1, 10)] = Field(description="Upstream requests per client request, of any kind.", default=4)
    timeouts: PolicyTimeouts = Field(description="Limits of one attempt.", default_factory=PolicyTimeouts)
    backoff: Backoff = Field(description="Waiting before the same target is asked again.", default_factory=Backoff)
    rate_limit_wait: Duration = said(
        "3s", "How long to wait for a preferred target that is at its limit, before the next is used; 0s: never."
    )
    hedge: Annotated[Hedge | None, OFF] = Field(
        description="A second attempt beside a slow one, or off.", default=None, json_schema_extra={"default": False}
    )
    stream: Stream = Field(description="How streams are relayed.", default_factory=Stream)
    content_policy: Annotated[str, *choice("return", "failover")] = said(
        "return", "What to do with a refusal on content: return it, or try another target."
    )


class Configuration(Section):
    """Configuration of the gateway."""

    server: Server = Field(description="The data port, which apps call.", default_factory=Server)
    admin: Admin = Field(description="The admin port: metrics, health, status.", default_factory=Admin)
    clients: tuple[Client, ...] | None = Field(
        description="Who may call; left out: whoever reaches the port, with their own key where a provider has none.",
        default=None,
        min_length=1,
    )
    providers: dict[str, Provider] = Field(
        description="Upstream accounts by name.", default_factory=dict, validate_default=False, min_length=1
    )
    provider_defaults: Provider = Field(description="The same keys, for all providers.", default_factory=Provider)
    routes: tuple[Route, ...] | None = Field(
        description="First match wins; may be left out where there is only one provider, which then takes everything.",
        default=None,
        min_length=1,
    )
    policies: dict[str, Policy] = Field(
        description="Named sets of numbers; all start from `default`, which is built in and may be changed.", default_factory=dict
    )


REQUIRED: Final[dict[type[Section], tuple[str, ...]]] = {
    Configuration: ("providers",),
    Client: ("name", "key"),
    ErrorRule: ("fault",),
    Route: ("name", "match", "targets"),
    Target: ("provider",),
    Group: ("name", "models"),
    RateLimit: ("rate",),
}
"""Keys that must be written. A provider's `dialect` and `base_url` must be too, but may come from `provider_defaults`."""

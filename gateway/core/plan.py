"""What an operator wants, compiled: the immutable plan that exchanges are decided by.

Everything here is complete: no optional setting reaches the request path. Durations are seconds as `float`, shares are 0 to 1,
sizes are bytes. Built by `gateway.config.compile`, never mutated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Final

from gateway.core.verdicts import Fault


class Family(StrEnum):
    """The kind of endpoint a request is for."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    RESPONSES = "responses"
    MESSAGES = "messages"
    EMBEDDINGS = "embeddings"
    IMAGES = "images"
    AUDIO = "audio"
    MODERATIONS = "moderations"
    FILES = "files"
    BATCHES = "batches"
    FINE_TUNING = "fine_tuning"
    REALTIME = "realtime"
    VIDEOS = "videos"
    OTHER = "other"


INFERENCE: Final = frozenset(
    {
        Family.CHAT,
        Family.COMPLETIONS,
        Family.RESPONSES,
        Family.MESSAGES,
        Family.EMBEDDINGS,
        Family.IMAGES,
        Family.AUDIO,
        Family.MODERATIONS,
    },
)
"""Stateless model calls: replayable after their first byte was sent (law 10), held until complete when JSON (law 5)."""


class Jitter(StrEnum):
    """How a backoff is randomised; formulas in `core.backoff`."""

    FULL = "full"
    EQUAL = "equal"
    DECORRELATED = "decorrelated"


@dataclass(frozen=True, slots=True)
class BackoffPlan:
    """Exponential backoff with jitter: `min(cap, 2**n * base)`, randomised."""

    base_s: float = 0.5
    cap_s: float = 8.0
    jitter: Jitter = Jitter.FULL


@dataclass(frozen=True, slots=True)
class Learned:
    """A limit that follows a target's own history: a quantile of it, times a factor, and never below the floor."""

    quantile: float = 0.99
    factor: float = 3.0
    floor_s: float = 20.0


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits of one attempt, in seconds."""

    first_token_s: float = 120.0
    """From send to first content, for streams."""
    stall_s: float = 120.0
    """Silence after the first byte of the answer."""
    answer_s: float = 600.0
    """From send to the end of a non-streamed answer; one that flows unheld is bound by `stall_s` once it began."""
    max_stream_s: float = 3600.0
    """From send to the end of a stream."""
    learned_first_token: Learned | None = None
    """Takes the place of `first_token_s` once enough is known of the target."""
    learned_answer: Learned | None = None
    """Takes the place of `answer_s` likewise."""


@dataclass(frozen=True, slots=True)
class HedgePlan:
    """When a second attempt is started beside one that is slow to show content."""

    after_s: float | None = None
    """A fixed time; None: the `quantile` of the target's own history."""
    quantile: float = 0.95
    floor_s: float = 0.3
    """Never sooner than this."""
    budget: float = 0.05
    """Hedges per request of the route."""
    max: int = 1
    """Hedges per exchange."""
    non_stream: bool = False
    """Also where the answer is no stream."""


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """How streams are delivered."""

    hold_s: float = 0.0
    """How long the first content is held back, so that an early break can be mended unseen; infinite: until the answer is whole."""
    resume: bool = False
    """Continue a stream that broke after its commit by another request."""
    keepalive_s: float = float("inf")
    """Silence after which a committed stream gets a comment; infinite: never."""
    early_keepalive_s: float = float("inf")
    """The same before the commit, which fixes the status: later errors are in-band ones. Infinite: never."""


class Prefill(StrEnum):
    """How a target takes the beginning of its answer, as its operator declares."""

    NONE = "none"
    """It does not: it is asked the same again, and what the client already has is dropped where it comes out the same."""
    PLAIN = "plain"
    """As a last message of the assistant, without more."""
    PREFIX = "prefix"
    """With `"prefix": true` on that message: DeepSeek's beta addresses."""
    PREFIX_ECHOED = "prefix_echoed"
    """The same, and the answer repeats the beginning: Mistral."""
    CONTINUE_FINAL = "continue_final"
    """With `add_generation_prompt: false` and `continue_final_message: true` beside the messages: vLLM, SGLang."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A route's numbers."""

    name: str = "default"
    deadline_s: float = 600.0
    """Until commit; a client's own patience shortens it."""
    attempts: int = 4
    """Upstream requests per exchange, of any kind."""
    timeouts: Timeouts = field(default_factory=Timeouts)
    backoff: BackoffPlan = field(default_factory=BackoffPlan)
    hedge: HedgePlan | None = None
    stream: StreamPlan = field(default_factory=StreamPlan)
    rate_limit_wait_s: float = 3.0
    """How long to wait for a preferred target that is at its limit, before using the next; 0 = never."""
    failover_content_policy: bool = False

    @property
    def measures(self) -> bool:
        """Whether the times of targets must be known: something is learned from them."""
        limits = self.timeouts
        return self.hedge is not None or limits.learned_first_token is not None or limits.learned_answer is not None


@dataclass(frozen=True, slots=True)
class BreakerPlan:
    """When a breaker opens and how it comes back."""

    consecutive: int = 5
    failure_rate: float = 0.5
    min_requests: int = 20
    window_s: float = 30.0
    open_s: float = 5.0
    max_open_s: float = 30.0
    ramp_s: float = 30.0


@dataclass(frozen=True, slots=True)
class BudgetPlan:
    """A provider's retry budget: `ratio` tokens per first attempt, `floor` per 10 s come by themselves."""

    ratio: float = 0.2
    floor: float = 3.0


class Resource(StrEnum):
    """What a limit counts."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    """Input and output together."""
    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    CONCURRENT = "concurrent"
    """Requests under way at the same time."""


@dataclass(frozen=True, slots=True)
class RatePlan:
    """So much of one resource per time, and so much of it at once. Not for `Resource.CONCURRENT`, which knows no time."""

    resource: Resource
    amount: float
    period_s: float
    burst: float


@dataclass(frozen=True, slots=True)
class QuotaPlan:
    """Limits that hold together; without any it is empty, and nothing is configured."""

    rates: tuple[RatePlan, ...] = ()
    concurrent: int | None = None


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """Models of one provider that share their limits, as its account counts them. Globs are shell-style, case-sensitive."""

    name: str
    models: tuple[str, ...]
    quota: QuotaPlan


class Priority(IntEnum):
    """Whose turn it is in a queue: the less, the sooner."""

    INTERACTIVE = 0
    STANDARD = 1
    BATCH = 2

    @property
    def label(self) -> str:
        """The name in files, headers and metrics."""
        return self.name.lower()


class Balance(StrEnum):
    """How a route chooses among its targets."""

    ORDERED = "ordered"
    WEIGHTED = "weighted"
    FASTEST = "fastest"
    LEAST_BUSY = "least_busy"


@dataclass(frozen=True, slots=True)
class ClientPlan:
    """What the core must know of a client that is named in the configuration; its key lives in `config.snapshot`."""

    name: str
    priority: Priority = Priority.STANDARD
    weight: float = 1.0
    """Its share of a busy target, beside the others of its priority."""
    quota: QuotaPlan = field(default_factory=QuotaPlan)


@dataclass(frozen=True, slots=True)
class ProviderPlan:
    """What the core must know of a provider; addresses and secrets live in `config.snapshot`."""

    name: str
    domain: str
    """Failure domain; providers of one domain are expected to fail together."""
    credentials: tuple[str, ...] = ()
    """Ids of our own keys (never the keys), in order of preference; empty: the client's own key is passed through."""
    breaker: BreakerPlan = field(default_factory=BreakerPlan)
    budget: BudgetPlan = field(default_factory=BudgetPlan)
    queue_wait_s: float = 10.0
    """All waiting of one exchange for this provider's limits together, at most."""
    queue_depth: int = 1000
    """Requests that may wait for one target, or for one group of models."""
    quota: QuotaPlan = field(default_factory=QuotaPlan)
    """What each key may send to each model that is in no group."""
    groups: tuple[GroupPlan, ...] = ()
    """Models that share their limits; the first whose globs fit counts."""
    dialect: str = "openai"
    """Its wire format's name: targets of one dialect can stand in for each other in a race."""


@dataclass(frozen=True, slots=True)
class Target:
    """A place that can serve: a provider, and the model's name there (None keeps the client's)."""

    provider: ProviderPlan
    model: str | None = None
    only_for: frozenset[Fault] = frozenset()
    """Tried only after one of these faults; empty: an ordinary target."""
    hedge: bool = False
    """May stand in for another target in a hedge though its dialect or model is another."""
    prefill: Prefill = Prefill.NONE
    weight: float = 1.0
    """Its share where targets are balanced."""


@dataclass(frozen=True, slots=True)
class Route:
    """A rule: which requests, to which targets, in which order, under which policy. Globs are shell-style, case-sensitive."""

    name: str
    targets: tuple[Target, ...]
    policy: Policy
    models: tuple[str, ...] | None = None
    """None: the route does not look at the model, and also takes requests that name none."""
    paths: tuple[str, ...] | None = None
    clients: frozenset[str] | None = None
    balance: Balance = Balance.ORDERED

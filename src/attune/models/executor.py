"""The protocols between the executors and what answers: ``Provider``, its events, ``LLMResponse``.

Every provider speaks one protocol: ``open`` returns a stream of events, also for an answer that
did not stream. The events of one attempt are, in order: ``meta`` (at most one), then any of
``ping``, ``content`` and ``usage``, then exactly one ``terminal``. A failure is raised as a
``ProviderError`` from ``open`` or from the iteration; an iteration that ends without a
``terminal`` event raised ``StreamBrokenError``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from attune.models.telemetry import NANOS_PER_USD, CostStatus, TokenUsage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from attune.models.adaptive_routing import RouteDecision
    from attune.models.registry import ModelInfo
    from attune.models.request import ExecutionContext, LLMRequest, Part
    from attune.models.validation import Verdict

__all__ = [
    "AttemptBudget",
    "AttemptSummary",
    "BilledBeside",
    "EventKind",
    "LLMExecutor",
    "LLMResponse",
    "Meta",
    "Provider",
    "ProviderStream",
    "StreamEvent",
    "Terminal",
    "TextDelta",
    "ThinkingDelta",
    "ToolCallDelta",
    "Working",
]


class EventKind(StrEnum):
    """What an event of a provider's stream is."""

    META = "meta"
    PING = "ping"
    CONTENT = "content"
    USAGE = "usage"
    TERMINAL = "terminal"


class Meta(NamedTuple):
    """The answer has begun: the provider's own id and model name of it."""

    response_id: str = ""
    model: str = ""


class TextDelta(NamedTuple):
    """More text."""

    text: str


class ThinkingDelta(NamedTuple):
    """More reasoning; ``signature`` arrives at most once per block."""

    text: str
    signature: str = ""


class ToolCallDelta(NamedTuple):
    """A part of the tool call at place ``position``; ``id`` and ``name`` come with its first part."""

    position: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class Working(NamedTuple):
    """The provider is at work on something that is no part of the answer, such as a search of its own, or a
    thought that it does not show: no content, yet a sign that some will come.
    """


class BilledBeside(NamedTuple):
    """Not the plan pays for the answer, but credits that are billed beside it, since its ``window`` (empty if
    it was not told) is used up for ``resets_in_s`` seconds more (``None`` if that was not told).
    """

    window: str
    resets_in_s: float | None


class Terminal(NamedTuple):
    """The answer is complete.

    ``stop_reason`` is one of ``stop``, ``length``, ``tool_calls``, ``refusal``,
    ``context_window``, ``other``; ``raw_reason`` the provider's own word.
    """

    stop_reason: str
    raw_reason: str = ""


Payload: TypeAlias = (
    "Meta | TextDelta | ThinkingDelta | ToolCallDelta | Working | BilledBeside | TokenUsage | Terminal | None"
)


class StreamEvent(NamedTuple):
    """One event: its kind, the bytes as they arrived, and what they mean.

    A ``usage`` event carries the running total of the attempt, not an increment.
    """

    kind: EventKind
    raw: bytes
    parsed: Payload


class AttemptBudget(NamedTuple):
    """Time limits of one attempt in seconds, already cut to what the call has left. The time that whoever
    reads the events takes for itself does not count.

    ``connect_s`` until the connection stands, ``first_content_s`` until the first content event, anew from
    each sign that the provider is at work (``Working``), ``idle_s`` between two events after it, ``total_s``
    for everything. The provider enforces ``connect_s``; the ``AttemptRunner`` enforces the others.
    """

    connect_s: float = 10.0
    first_content_s: float = 60.0
    idle_s: float = 60.0
    total_s: float = 600.0


class ProviderStream(Protocol):
    """The events of one attempt. ``aclose`` ends the upstream connection at once; idempotent.

    It may also have ``take() -> StreamEvent | None``: the next event if that has come already, and is
    neither the end nor an error. Events that came together are then passed on together.
    """

    def __aiter__(self) -> AsyncIterator[StreamEvent]: ...

    async def __anext__(self) -> StreamEvent: ...

    async def aclose(self) -> None: ...


class Provider(Protocol):
    """A service that answers, with one credential."""

    @property
    def name(self) -> str:
        """The provider's name in the configuration."""

    @property
    def credential(self) -> str:
        """The name of the credential that pays."""

    async def open(self, request: LLMRequest, model: ModelInfo, budget: AttemptBudget) -> ProviderStream:
        """Send the request; return when the response's head has arrived. Raises ``ProviderError``.

        A ``CancelledError`` that leaves it may say in ``sent`` whether the whole request had left; without
        it, it had.
        """

    async def aclose(self) -> None:
        """Release connections and processes; idempotent."""


class AttemptSummary(NamedTuple):
    """One attempt of a call, for the response: ``error_class`` is empty for the successful one."""

    provider: str
    model_id: str
    credential: str
    error_class: str
    message: str
    latency_ms: float


@dataclass(frozen=True)
class LLMResponse:
    """The answer to one call, and what it took.

    ``cost_nanos`` is the cost of **all** attempts of the call; ``None`` if that of any is unknown.
    ``list_cost_nanos`` is what the answer would have cost at list price where a plan paid, else ``None``.
    ``content`` holds the reasoning, the text and the tool calls in the order in which they came, as a
    later request may give them back in an assistant message; ``text`` joins the text. ``verdict`` is what
    the call's validator said of the answer, ``None`` without one, or when the validator itself failed;
    ``validator_error`` then says how.
    """

    call_id: str
    content: tuple[Part, ...]
    stop_reason: str
    provider: str
    model_id: str
    tier: str
    credential: str
    usage: TokenUsage | None
    cost_nanos: int | None
    cost_status: CostStatus
    latency_ms: float
    ttft_ms: float | None
    attempts: tuple[AttemptSummary, ...] = ()
    decision: RouteDecision | None = field(default=None, repr=False)
    verdict: Verdict | None = None
    validator_error: str = ""
    list_cost_nanos: int | None = None

    @property
    def text(self) -> str:
        """All text parts of the answer joined."""
        from attune.models.request import TextPart

        return "".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def cost_usd(self) -> float | None:
        """The cost in USD, or ``None`` if it is unknown."""
        return None if self.cost_nanos is None else self.cost_nanos / NANOS_PER_USD

    @property
    def list_cost_usd(self) -> float | None:
        """``list_cost_nanos`` in USD."""
        return None if self.list_cost_nanos is None else self.list_cost_nanos / NANOS_PER_USD

    @property
    def fallback_used(self) -> bool:
        """Whether another candidate than the first one answered."""
        first = self.attempts[0] if self.attempts else None
        return first is not None and (first.provider, first.model_id, first.credential) != (
            self.provider,
            self.model_id,
            self.credential,
        )


class LLMExecutor(Protocol):
    """Anything that answers a request: the executors themselves, and test doubles of users."""

    async def run(self, request: LLMRequest, context: ExecutionContext | None = None) -> LLMResponse:
        """Answer the request. Raises an ``AttuneError``."""

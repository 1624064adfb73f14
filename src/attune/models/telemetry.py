"""What is recorded: one ``DecisionRecord`` a call, one ``LLMCallRecord`` an attempt, later outcomes.

Times are UTC epoch seconds. Money is integer nano-dollars (1 USD = 1_000_000_000). A cost that
is not known is ``None`` with ``CostStatus.UNKNOWN``, never 0.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal, NamedTuple, TypeAlias

__all__ = [
    "NANOS_PER_USD",
    "TIMED_OUT",
    "CostStatus",
    "Decided",
    "DecisionRecord",
    "DroppedCandidate",
    "LLMCallRecord",
    "Outcome",
    "OutcomeSource",
    "ScoredCandidate",
    "TokenUsage",
    "as_object",
]

NANOS_PER_USD = 1_000_000_000
TIMED_OUT = "timeout"
"""The ``error_code`` of an attempt that a time limit ended."""


class CostStatus(StrEnum):
    """How much a cost is worth: from reported usage, from our own token count, or not known."""

    EXACT = "exact"
    ESTIMATED = "estimated"
    UNKNOWN = "unknown"


class TokenUsage(NamedTuple):
    """Tokens of one attempt.

    ``input_tokens`` is the whole prompt **including** cache reads and writes; the cache fields
    are parts of it. ``cache_write_tokens`` is the whole of what was written, of which
    ``cache_write_1h_tokens`` at the one-hour price.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0


class LLMCallRecord(NamedTuple):
    """One attempt at one candidate, successful or not.

    ``position`` is the attempt's place within its call, from 0; ``chosen_by_policy`` is false
    for the attempts that a retry, a fallback or a hedge made. ``latency_ms`` runs from the
    request to the terminal event or the failure, and is the time that its provider was waited for where the
    attempt was cancelled; ``ttft_ms`` runs to the first content. ``success``
    is the transport's: a later ``Outcome`` says whether the answer was good. ``tier`` and the names are plain
    strings, so that a record outlives the catalog that made it. ``list_cost_nanos`` is what an answer that a
    plan paid for would have cost at list price, ``None`` where no plan did.
    """

    call_id: str
    attempt_id: str
    decision_id: str
    at: float
    workflow: str
    stage: str
    task_type: str
    provider: str
    model_id: str
    tier: str
    credential: str
    success: bool
    latency_ms: float
    ttft_ms: float | None = None
    usage: TokenUsage | None = None
    cost_nanos: int | None = None
    cost_status: CostStatus = CostStatus.UNKNOWN
    price_version: str = ""
    error_class: str = ""
    error_code: str = ""
    stop_reason: str = ""
    position: int = 0
    chosen_by_policy: bool = True
    session_id: str = ""
    list_cost_nanos: int | None = None


Belief: TypeAlias = tuple[float, float, float, float, bool]


class ScoredCandidate(NamedTuple):
    """One eligible candidate of a decision, with the parts of its score.

    ``success_rate`` 0..1, ``avg_latency_ms`` and ``predicted_cost_usd`` (``None`` where the
    price is unknown) are what the score was computed from; ``sample_size`` is the number of calls
    behind them and ``recent_failures`` the failures among the last 20. ``propensity`` is the probability with
    which it was chosen, ``note`` says why it did not come first. ``belief`` is what a policy that learns
    believed of its answers at the key: the mean (0..1) and its standard deviation, the labelled calls there,
    the deviation of the model's mean over all keys, and whether it has lately changed. ``known`` is the share
    of success rate and latency that was measured, the rest is the prior's. Of a prepaid candidate
    ``list_usd`` is what the call would cost at the API prices of the same model, and ``quota_usd`` what the
    quota for it could still save on other calls, which the score counts like a cost (``None``: not known).
    With ``by_credits`` a key's credits pay the ``predicted_cost_usd``, and ``quota_usd`` counts in its place.
    ``cached_tokens`` are those of the prompt that were predicted to be read from its cache, which the
    predicted cost knows.
    """

    provider: str
    model_id: str
    credential: str
    tier: str
    score: float
    success_rate: float
    avg_latency_ms: float
    predicted_cost_usd: float | None
    sample_size: int
    recent_failures: int
    propensity: float
    note: str = ""
    belief: Belief | None = None
    known: float = 1.0
    list_usd: float | None = None
    quota_usd: float | None = None
    by_credits: bool = False
    cached_tokens: int = 0

    @property
    def weighed_usd(self) -> float | None:
        """What it is weighed at, in USD: the predicted cost and what the quota for it is worth."""
        if self.predicted_cost_usd is None:
            return None
        return (0.0 if self.by_credits else self.predicted_cost_usd) + (self.quota_usd or 0.0)


class DroppedCandidate(NamedTuple):
    """A candidate that could not be chosen, and the reason in a short sentence."""

    provider: str
    model_id: str
    credential: str
    tier: str
    reason: str


class DecisionRecord(NamedTuple):
    """One decision: what was eligible, what was dropped and why, and what was chosen.

    ``features`` are the request's properties that the policy used, as (name, value) pairs.
    """

    decision_id: str
    call_id: str
    at: float
    workflow: str
    stage: str
    task_type: str
    base_tier: str
    tier: str
    policy: str
    reason: str
    ranked: tuple[ScoredCandidate, ...]
    dropped: tuple[DroppedCandidate, ...]
    features: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


class Decided(NamedTuple):
    """What decided a call: the policy with its version, the label of the model that was the table's choice
    (both empty where that is not known), and the labels of those that could have been drawn.
    """

    policy: str = ""
    table: str = ""
    among: tuple[str, ...] = ()


OutcomeSource: TypeAlias = Literal["caller", "validator"]


class Outcome(NamedTuple):
    """What became known of an answer: ``success`` and, optionally, a ``score`` in 0..1.

    ``attempt_id`` is the attempt that gave it; empty for the one whose answer the call returned. A
    ``validator`` judges each answer once, as it comes. The ``caller`` knows later, and has the last word.
    """

    call_id: str
    at: float
    success: bool
    score: float | None = None
    attempt_id: str = ""
    source: OutcomeSource = "caller"

    @property
    def label(self) -> float:
        """How good the answer was, 0..1: the score, or else the success."""
        return float(self.success) if self.score is None else self.score


def as_object(record: Any) -> Any:
    """A record, with those in it, as JSON has it: an object by the names of its fields."""
    if hasattr(record, "_asdict"):
        return {name: as_object(value) for name, value in record._asdict().items()}
    if isinstance(record, tuple | list):
        return [as_object(each) for each in record]
    return record

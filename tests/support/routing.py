"""Telemetry for the router's tests: attempts, their roll-ups, a small catalog, a stub of availability."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from attune.models.adaptive_routing import AdaptiveModelRouter
from attune.models.borrowing import NOT_MEASURED
from attune.models.candidate import Refusal
from attune.models.performance import BUCKET_SECONDS, RECENT, LatencySketch, counts, join_recent
from attune.models.prices import PriceSchedule
from attune.models.registry import ModelInfo, ModelRegistry, ModelTier
from attune.models.state import RollupRow
from attune.models.telemetry import LLMCallRecord, Outcome, TokenUsage
from attune.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterable

    from attune.models.borrowing import Row


class Estimate(NamedTuple):
    """A ``Row`` of ``attune.models.borrowing`` by its names, with ``None`` for what was not measured."""

    success_rate: float
    latency_ms: float
    known: float
    own_calls: float
    own_successes: float
    recent_failures: float
    measured_rate: float | None
    measured_calls: float
    measured_latency_ms: float | None

    @classmethod
    def of(cls, row: Row) -> Estimate:
        """The readable form of a row."""
        return cls(*(None if value == NOT_MEASURED else value for value in row))


DAY = 86_400.0
CHEAP, CAPABLE, PREMIUM = ModelTier
EVERYTHING = frozenset({"tools", "vision", "json_schema", "thinking"})


def a_model(
    label: str, tier: ModelTier = CAPABLE, prices: tuple[float, float] | None = (1.0, 5.0), **fields
) -> ModelInfo:
    """The model "provider/id"; ``prices`` in USD per million tokens in and out."""
    provider, model_id = label.split("/")
    schedule = None if prices is None else PriceSchedule.flat(*prices)
    defaults = {"context_window": 100_000, "max_output_tokens": 4000, "abilities": EVERYTHING}
    return ModelInfo(model_id, provider, tier, prices=schedule, **{**defaults, **fields})


MODELS = (
    a_model("a/small", CHEAP, (0.1, 0.5)),
    a_model("b/small", CHEAP, (0.1, 0.5)),
    a_model("a/mid", CAPABLE, (2.0, 10.0)),
    a_model("b/mid", CAPABLE, (2.0, 10.0)),
    a_model("a/big", PREMIUM, (4.0, 20.0)),
    a_model("b/big", PREMIUM, (4.0, 20.0)),
)
"""Two providers with a model in every tier. A call of 1,000 tokens in and 500 out costs 0.00035,
0.007 and 0.014 USD."""

TIER_OF = {model.label: model.tier for model in MODELS}


USUAL = TokenUsage(1000, 500)


def an_attempt(
    label: str = "a/mid",
    success: bool = True,
    *,
    at: float,
    workflow: str = "review",
    stage: str = "check",
    task: str = "",
    latency: float = 1000.0,
    usage: TokenUsage | None = USUAL,
    cost: int | None = 7_000_000,
    error_class: str = "transient",
    error_code: str = "",
    tier: str | None = None,
    call_id: str = "call",
) -> LLMCallRecord:
    """One attempt at "provider/id"; ``cost`` in nano-dollars."""
    provider, model_id = label.split("/", 1)
    return LLMCallRecord(
        call_id=call_id,
        attempt_id=f"{call_id}.0",
        decision_id="decision",
        at=at,
        workflow=workflow,
        stage=stage,
        task_type=task,
        provider=provider,
        model_id=model_id,
        tier=tier or TIER_OF.get(label, CAPABLE).value,
        credential="api_key",
        success=success,
        latency_ms=latency,
        usage=usage,
        cost_nanos=cost,
        error_class="" if success else error_class,
        error_code="" if success else error_code,
    )


def said(success: bool, score: float | None = None, source: str = "caller") -> Outcome:
    """What became known of an attempt's answer."""
    return Outcome("call", 0.0, success, score, "call.0", source)


def rollup_rows(records: Iterable[LLMCallRecord]) -> list[RollupRow]:
    """The roll-ups of attempts, as a store would sum them up, oldest bucket first."""
    groups: dict[tuple[object, ...], list[LLMCallRecord]] = defaultdict(list)
    for record in records:
        if counts(record) or record.error_class == "cancelled":
            cell = (record.workflow, record.stage, record.task_type, record.provider, record.model_id)
            groups[int(record.at // BUCKET_SECONDS), *cell, record.tier].append(record)
    ordered = sorted(groups.items(), key=lambda group: group[0][0])
    return [RollupRow(*key, *_sums(group)) for key, group in ordered]


def _sums(group: list[LLMCallRecord]) -> tuple[object, ...]:
    sketch, recent, recent_count = LatencySketch(), 0, 0
    cancelled = [record for record in group if record.error_class == "cancelled"]
    group = [record for record in group if record.error_class != "cancelled"]
    won = [record for record in group if record.success]
    late = [record for record in group if record.error_code == "timeout"]
    for record in won + late:
        sketch.add(record.latency_ms)
    for record in group:
        recent = join_recent(recent, int(not record.success), 1)
        recent_count = min(recent_count + 1, RECENT)
    costs = [record.cost_nanos for record in group if record.cost_nanos is not None]
    usages = [record.usage for record in group if record.usage is not None]
    return (
        len(group),
        len(won),
        sum(record.latency_ms for record in won + late + cancelled),
        sum(costs),
        len(costs),
        sum(usage.input_tokens for usage in usages),
        sum(usage.output_tokens for usage in usages),
        len(usages),
        sketch.to_bytes(),
        recent,
        recent_count,
    )


class Resting:
    """An ``Availability``: candidates that are refused now, by label or by "label#credential"."""

    def __init__(self, *refused: str) -> None:
        self.refused = set(refused)
        self.asked: list[str] = []

    @property
    def quiet(self) -> bool:
        return not self.refused

    def refusal(self, candidate) -> Refusal | None:
        self.asked.append(candidate.key)
        if {candidate.label, candidate.key} & self.refused:
            return Refusal(candidate.label, f"circuit of {candidate.label} is open", 5.0, None)
        return None


class Program:
    """A router on a clock that a test moves, and a short way to let it see calls."""

    def __init__(self, *models: ModelInfo, tiers=None, clock: FakeClock | None = None, **options) -> None:
        self.clock = FakeClock() if clock is None else clock
        registry = ModelRegistry(models or MODELS, tiers)
        self.router = AdaptiveModelRouter(registry, clock=self.clock, **options)
        self.records: list[LLMCallRecord] = []

    def saw(self, label: str, successes: int, failures: int = 0, **fields) -> Program:
        """Let the router see calls of a model now: the failures first, then the successes."""
        for place in range(failures + successes):
            self.observe(an_attempt(label, place >= failures, at=self.clock.time(), **fields))
        return self

    def observe(self, record: LLMCallRecord) -> None:
        self.records.append(record)
        self.router.observe(record)

    def best(self, **options) -> str:
        """The label of the choice for stage ``check`` of the workflow ``review``."""
        return self.decide(**options).candidate.label

    def decide(self, **options):
        from attune.models.route_request import RouteRequest

        return self.router.decide(RouteRequest(**{"workflow": "review", "stage": "check", **options}))


def drops(decision_or_error) -> dict[str, str]:
    """The reason why each candidate was dropped, by its key, of a decision or a ``NoCandidateError``."""
    if hasattr(decision_or_error, "drops"):
        return dict(decision_or_error.drops)
    return {f"{d.provider}/{d.model_id}#{d.credential}": d.reason for d in decision_or_error.dropped}

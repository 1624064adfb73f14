"""What happened in a workflow: the numbers behind ``get_routing_stats``."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from attune.errors import InvalidRequestError
from attune.models.performance import LatencySketch
from attune.models.registry import EMBEDDINGS, ModelTier
from attune.models.tasks import get_tier_for_task
from attune.models.telemetry import NANOS_PER_USD
from attune.models.tier_movement import upgrade_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from attune.models.registry import ModelInfo, ModelRegistry
    from attune.models.windows import CellWindow, PerformanceStats

__all__ = ["ModelStats", "RoutingStats", "routing_stats"]


class ModelStats(NamedTuple):
    """One candidate's window: latencies in milliseconds of successful calls, cost in USD.

    ``unknown_cost_calls`` are not part of ``cost_usd``.
    """

    provider: str
    model_id: str
    tier: str
    calls: int
    success_rate: float
    cost_usd: float
    unknown_cost_calls: int
    p50_latency_ms: float | None
    p95_latency_ms: float | None
    recent_failures: int


class RoutingStats(NamedTuple):
    """A workflow's (or stage's) window.

    Calls are attempts that say something of the model (see ``performance.counts``).
    ``tier_upgrades`` are calls served by a higher tier than their task's. ``savings_usd`` is what
    the same tokens would have cost at the registry's first premium model with a known price, today,
    less what they cost; ``None`` where no usage or no price is known. ``tier_evidence`` says in words
    whether a stage's tiers should be left upwards and why: of one stage all of them, of a workflow
    those that should. It is of the router's whole window, whatever ``days``.
    """

    workflow: str
    stage: str | None
    days: int
    calls: int
    success_rate: float | None
    cost_usd: float
    unknown_cost_calls: int
    tier_upgrades: int
    savings_usd: float | None
    models: tuple[ModelStats, ...]
    tier_evidence: tuple[str, ...]


class _Sum:
    """The running sums of one candidate over several keys."""

    def __init__(self, tier: str) -> None:
        self.tier = tier
        self.windows: list[CellWindow] = []
        self.sketch = LatencySketch()

    def stats(self, label: str) -> ModelStats:
        provider, _, model_id = label.partition("/")
        calls = sum(w.calls for w in self.windows)
        return ModelStats(
            provider=provider,
            model_id=model_id,
            tier=self.tier,
            calls=calls,
            success_rate=sum(w.successes for w in self.windows) / calls,
            cost_usd=sum(w.cost_nanos for w in self.windows) / NANOS_PER_USD,
            unknown_cost_calls=calls - sum(w.cost_count for w in self.windows),
            p50_latency_ms=self.sketch.quantile(0.5),
            p95_latency_ms=self.sketch.quantile(0.95),
            recent_failures=max(w.recent_failures for w in self.windows),
        )


def routing_stats(
    stats: PerformanceStats, registry: ModelRegistry, workflow: str, stage: str | None, days: int, now: float
) -> RoutingStats:
    """Sum a workflow's cells; see ``AdaptiveModelRouter.get_routing_stats``."""
    if not 1 <= days <= stats.window_days:
        raise InvalidRequestError(f"days must be between 1 and the window of {stats.window_days}, not {days}")
    first = stats.first_bucket(now) + stats.window_days - days
    premium = next((m for m in registry.in_tier(ModelTier.PREMIUM) if m.prices is not None), None)
    sums: dict[str, _Sum] = {}
    upgrades = 0
    saved: float | None = None
    for (_, _, task), level in stats.keys(workflow, stage):
        asked = get_tier_for_task(task).rank
        for label, window in stats.windows(level, first):
            total = sums.setdefault(label, _Sum(window.tier))
            total.windows.append(window)
            total.sketch.merge(window.sketch)
            if window.tier == EMBEDDINGS:
                continue  # no tier could have done it instead
            if ModelTier.parse(window.tier).rank > asked:
                upgrades += window.calls
            if premium is not None and window.usage_count and window.cost_count:
                priced = min(1.0, window.cost_count / window.usage_count)
                instead = priced * _premium_cost(premium, window, now)
                saved = (saved or 0.0) + instead - window.cost_nanos / NANOS_PER_USD
    models = sorted(
        (total.stats(label) for label, total in sums.items()), key=lambda m: (-m.calls, m.model_id)
    )
    calls = sum(m.calls for m in models)
    return RoutingStats(
        workflow=workflow,
        stage=stage,
        days=days,
        calls=calls,
        success_rate=sum(m.success_rate * m.calls for m in models) / calls if calls else None,
        cost_usd=sum(m.cost_usd for m in models),
        unknown_cost_calls=sum(m.unknown_cost_calls for m in models),
        tier_upgrades=upgrades,
        savings_usd=saved,
        models=tuple(models),
        tier_evidence=tuple(_tier_evidence(stats, workflow, stage, stats.first_bucket(now))),
    )


def _tier_evidence(stats: PerformanceStats, workflow: str, stage: str | None, first: int) -> Iterator[str]:
    for name in dict.fromkeys(key[1] for key, _ in stats.keys(workflow, stage)):
        level = stats.levels(workflow, name, "")[0]
        for tier, results in stats.tiers(level, first).items():
            upgrade = upgrade_of(tier, level, results, first)
            if upgrade or stage is not None:
                yield f"{name}: {upgrade.reason}"


def _premium_cost(premium: ModelInfo, window: CellWindow, now: float) -> float:
    price_in, price_out = premium.input_price(now) or 0.0, premium.output_price(now) or 0.0
    return (window.input_tokens * price_in + window.output_tokens * price_out) / 1e6

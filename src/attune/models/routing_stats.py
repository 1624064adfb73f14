"""What happened in a workflow: the numbers behind ``get_routing_stats``."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, NamedTuple

from attune.errors import InvalidRequestError
from attune.models.performance import DENSE, Labels, LatencySketch
from attune.models.registry import EMBEDDINGS, ModelTier
from attune.models.tasks import get_tier_for_task
from attune.models.telemetry import NANOS_PER_USD
from attune.models.tier_movement import upgrade_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from attune.models.registry import ModelInfo
    from attune.models.windows import CellWindow, PerformanceStats

__all__ = ["ModelStats", "RoutingStats", "routing_stats"]


class ModelStats(NamedTuple):
    """One candidate's window: latencies in milliseconds of successful calls, cost in USD.

    ``unknown_cost_calls`` are not part of ``cost_usd``. ``labelled`` are the calls whose answer a validator
    or the caller has judged, ``quality`` the mean of those labels (0..1), ``None`` without any.
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
    labelled: int = 0
    quality: float | None = None


class RoutingStats(NamedTuple):
    """A workflow's (or stage's) window.

    Calls are attempts that say something of the model (see ``performance.counts``).
    ``tier_upgrades`` are calls served by a higher tier than their task's. ``savings_usd`` is what
    the same tokens would have cost at the first enrolled premium model with a known (list) price, today,
    less what they cost; ``None`` where no usage or no price is known. ``tier_evidence`` says in words
    whether a stage's tiers should be left upwards and why: of one stage all of them, of a workflow
    those that should. It is of the router's whole window, whatever ``days``. ``success_rate`` counts a
    call as failed when its transport failed or an outcome says so; that an answer came says nothing of its
    quality, which only the ``labelled`` calls have: a share ``labelled_share`` of all, ``None`` without
    calls. ``doubts`` names the stages whose validator has let every answer pass, ``DENSE`` of them or more:
    one that always says yes tells nothing.
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
    labelled: int = 0
    labelled_share: float | None = None
    quality: float | None = None
    doubts: tuple[str, ...] = ()


class _Sum:
    """The running sums of one candidate over several keys."""

    def __init__(self, tier: str) -> None:
        self.tier = tier
        self.windows: list[CellWindow] = []
        self.sketch = LatencySketch()

    def stats(self, label: str) -> ModelStats:
        provider, _, model_id = label.partition("/")
        calls = sum(w.calls for w in self.windows)
        labels = self.labels
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
            labelled=labels.labelled,
            quality=_quality(labels),
        )

    @property
    def labels(self) -> Labels:
        """What is known of its answers."""
        return _sum_of(window.labels for window in self.windows)


def routing_stats(
    stats: PerformanceStats,
    premium: ModelInfo | None,
    workflow: str,
    stage: str | None,
    days: int,
    now: float,
) -> RoutingStats:
    """Sum a workflow's cells; see ``AdaptiveModelRouter.get_routing_stats``. ``premium`` is what savings are
    counted against, ``None`` without such a model.
    """
    if not 1 <= days <= stats.window_days:
        raise InvalidRequestError(f"days must be between 1 and the window of {stats.window_days}, not {days}")
    first = stats.first_bucket(now) + stats.window_days - days
    sums: dict[str, _Sum] = {}
    verdicts: dict[str, Labels] = {}
    upgrades = 0
    saved: float | None = None
    for (_, name, task), level in stats.keys(workflow, stage):
        asked = get_tier_for_task(task).rank
        for label, window in stats.windows(level, first):
            total = sums.setdefault(label, _Sum(window.tier))
            total.windows.append(window)
            total.sketch.merge(window.sketch)
            verdicts[name] = verdicts.get(name, Labels()).plus(window.labels)
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
    labels = _sum_of(total.labels for total in sums.values())
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
        labelled=labels.labelled,
        labelled_share=min(1.0, labels.labelled / calls) if calls else None,
        quality=_quality(labels),
        doubts=tuple(_doubts(verdicts)),
    )


def _sum_of(all_labels: Iterable[Labels]) -> Labels:
    """What is known of several keys' answers together."""
    return reduce(Labels.plus, all_labels, Labels())


def _quality(labels: Labels) -> float | None:
    return labels.label_sum / labels.labelled if labels.labelled else None


def _doubts(verdicts: Mapping[str, Labels]) -> Iterator[str]:
    for stage, labels in verdicts.items():
        if labels.judged >= DENSE and labels.passed == labels.judged:
            yield (
                f"{stage}: its validator let all {labels.judged} answers pass; "
                "one that always says yes tells nothing of their quality"
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

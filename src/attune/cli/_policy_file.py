"""Policies that can be asked about after the fact: what each would have chosen at a logged decision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from attune.config._document import Document
from attune.errors import InvalidRequestError, UnknownNameError
from attune.models.registry import ModelTier
from attune.models.tasks import normalize_task

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from attune.config._document import Table
    from attune.models.registry import ModelRegistry
    from attune.models.telemetry import DecisionRecord, ScoredCandidate

__all__ = ["LoggedPolicy", "PastPolicy", "read_policy"]

MAX_WEIGHT = 1e6


class PastPolicy(Protocol):
    """A policy that a decision of the past can be put to."""

    @property
    def description(self) -> str:
        """What it is, for people."""
        ...

    def probabilities(self, decision: DecisionRecord, models: Mapping[str, float]) -> list[float]:
        """Of each eligible model; ``models`` maps their labels to the probabilities that were logged."""
        ...


class LoggedPolicy:
    """What decided: the probabilities as they were logged."""

    description = "current (as logged)"

    def probabilities(self, decision: DecisionRecord, models: Mapping[str, float]) -> list[float]:  # noqa: ARG002
        return list(models.values())


class TablePolicy:
    """Always one model of the task's tier: the first of its list, or the one with the highest logged score.

    A tier that has nothing eligible gives way to the next one up, then down. ``tasks`` give tasks other
    tiers, ``"*"`` every one; a tier that the caller asked for stands.
    """

    def __init__(
        self, description: str, registry: ModelRegistry, tasks: Mapping[str, ModelTier], *, by_score: bool
    ) -> None:
        self.description = description
        self._listed = {tier: [m.label for m in registry.in_tier(tier)] for tier in ModelTier}
        self._tasks = tasks
        self._by_score = by_score

    def probabilities(self, decision: DecisionRecord, models: Mapping[str, float]) -> list[float]:
        chosen = self.choice(decision)
        return [float(label == chosen) for label in models]

    def choice(self, decision: DecisionRecord) -> str:
        """The label of the model it would have chosen."""
        eligible = {_label(candidate): candidate for candidate in reversed(decision.ranked)}
        for tier in _upwards_first(self._tier(decision)):
            there = [label for label in self._listed[tier] if label in eligible]
            if there and self._by_score:
                return max(there, key=lambda label: eligible[label].score)
            if there:
                return there[0]
        return _label(decision.ranked[0])  # a model in no list: it was asked for

    def _tier(self, decision: DecisionRecord) -> ModelTier:
        if dict(decision.features).keys() & {"tier", "model"}:
            return ModelTier.parse(decision.base_tier)
        given = self._tasks.get(decision.task_type) or self._tasks.get("*")
        return given or ModelTier.parse(decision.base_tier)


class MixPolicy:
    """Draws among the eligible models by fixed weights; the table's choice where none of them is eligible or
    the caller asked for a tier or a model.
    """

    def __init__(self, description: str, weights: Mapping[str, float], otherwise: TablePolicy) -> None:
        self.description = description
        self._weights = weights
        self._otherwise = otherwise

    def probabilities(self, decision: DecisionRecord, models: Mapping[str, float]) -> list[float]:
        weights = [self._weights.get(label, 0.0) for label in models]
        total = sum(weights)
        if not total or dict(decision.features).keys() & {"tier", "model"}:
            return self._otherwise.probabilities(decision, models)
        return [weight / total for weight in weights]


def _label(candidate: ScoredCandidate) -> str:
    return f"{candidate.provider}/{candidate.model_id}"


def _upwards_first(tier: ModelTier) -> list[ModelTier]:
    tiers = list(ModelTier)
    return [*tiers[tier.rank :], *reversed(tiers[: tier.rank])]


# -- the file --------------------------------------------------------------------------------------------

KINDS = ("static", "best", "mix")


def read_policy(file: Path, registry: ModelRegistry) -> PastPolicy:
    """The policy in a TOML file. Raises ``ConfigError``, which names the line and the nearest name.

    ``[policy] kind`` is ``static`` (the first model of the task's tier), ``best`` (the highest score) or
    ``mix`` (``[weights]``, model = weight). ``[tiers]`` (tier = list of models) and ``[tasks]`` (task = tier)
    stand in for those of the configuration.
    """
    root = Document.read(file).root
    root.check_keys(("policy", "tiers", "tasks", "weights"))
    policy = root.table("policy")
    policy.check_keys(("kind",))
    kind = policy.text("kind")
    if kind not in KINDS:
        raise policy.unknown("kind of policy", kind, KINDS, "kind")
    registry = _with_tiers(root.table("tiers"), registry)
    tasks = {normalize_task(task) or "*": tier for task, tier in _tasks(root.table("tasks"))}
    table = TablePolicy(f"{kind} ({file.name})", registry, tasks, by_score=kind == "best")
    weights = root.table("weights")
    if kind == "mix":
        return MixPolicy(table.description, _weights(weights, registry), table)
    if weights.values:
        raise root.error("weights", f'only a policy of kind = "mix" has weights, this one is {kind!r}')
    return table


def _with_tiers(table: Table, registry: ModelRegistry) -> ModelRegistry:
    table.check_keys([tier.value for tier in ModelTier])
    tiers = {ModelTier(name): table.texts(name) for name in table.values}
    for tier, names in tiers.items():
        _labels(table, tier.value, names, registry)
    try:
        return registry.with_tiers(tiers)
    except InvalidRequestError as error:
        raise table.error(None, str(error)) from None


def _tasks(table: Table) -> Iterable[tuple[str, ModelTier]]:
    for task in table.values:
        name = table.text(task)
        if name not in list(ModelTier):
            raise table.unknown("tier", name, [tier.value for tier in ModelTier], task)
        yield task, ModelTier(name)


def _weights(table: Table, registry: ModelRegistry) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in table.values:
        weight = table.number(name, None, 0, MAX_WEIGHT) or 0.0
        (label,) = _labels(table, name, [name], registry, single=True)
        found[label] = found.get(label, 0.0) + weight
    if not sum(found.values()):
        raise table.error(None, 'a mix needs at least one weight above 0, such as "provider/model" = 0.5')
    return found


def _labels(
    table: Table, key: str, names: Sequence[str], registry: ModelRegistry, *, single: bool = False
) -> list[str]:
    """The labels of the models that are named at a key."""
    labels = []
    for name in names:
        try:
            models = registry.find(name)
        except UnknownNameError:
            known = [each for model in registry.models for each in (model.label, model.id)]
            raise table.unknown("model", name, known, key) from None
        if single and len(models) > 1:
            raise table.error(key, f"names several: {', '.join(model.label for model in models)}; choose one")
        labels += [model.label for model in models]
    return labels

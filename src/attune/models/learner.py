"""What is predicted of each candidate for a call: the key's evidence, the prompt's features, and changes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from attune.models.change import ChangeDetector, Changes
from attune.models.evidence import Evidence
from attune.models.features import FeatureModel, Scale, prompt_features
from attune.models.log_odds import logit, sigmoid
from attune.models.performance import BUCKET_SECONDS
from attune.models.policies.policy import Prospect

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from attune.models.evidence import Path
    from attune.models.features import Features
    from attune.models.policies.shared import Sums

__all__ = ["Labels", "Learner", "Prediction"]

Labels: TypeAlias = "dict[str, dict[Path, tuple[float, float]]]"
"""Labelled calls and the sum of their rewards, by model and key."""

KEPT_AFTER_CHANGE = 5.0
"""Calls that a model's past still counts as once it has changed."""
LOOKS_FROM_CALLS = 30.0
LOOKS_AGAIN_FROM_CALLS = 10.0
"""Labelled calls of a model before it is watched for changes; of one that has fallen, and gets few, before it
is watched for its return.
"""
FADES_OVER = 300
FADE_RATE = math.log(2) / FADES_OVER
FADES_EVERY = 25
"""The past of a model that has fallen counts half after 300 labelled calls of any model, step by step. It
gets few calls, which else would be outweighed by those of its fall long after it recovered.
"""
AVOIDED_BELOW = 0.1
"""The share of recent calls from which a model that was found to have fallen is a usual one again, once 300
calls have shown it: its own are many enough to tell how good it is. So a false alarm ends, too.
"""


class Prediction(NamedTuple):
    """The prospects for one call, and what is needed to learn from its outcome."""

    path: Path
    prospects: list[Prospect]
    means: list[float]
    costs: list[float | None]
    raw: list[float] | None
    features: list[float] | None


class Learner:
    """Predicts rewards and costs of ``models`` (in the static table's order) and learns from outcomes.

    ``ranks`` are the tiers that are known, 0 the cheapest. ``prices`` of a model are what its costs are
    counted in: a cost is predicted as that of the past times today's price over the price then, so a new
    price needs no learning. With a prompt, its features correct the prediction where that has helped.
    """

    def __init__(self, ranks: Mapping[str, int] | None = None) -> None:
        self.evidence = Evidence(ranks)
        self._ranks = dict(ranks or {})
        self._features: dict[str, FeatureModel] = {}
        self._scale = Scale()
        self._detectors: dict[str, ChangeDetector] = {}
        self._changes = Changes()
        self._labelled = 0
        self._fell_at: dict[str, int] = {}

    def predict(
        self,
        path: Path,
        models: Sequence[str],
        prompt: str | None = None,
        prices: Mapping[str, float] | None = None,
    ) -> Prediction:
        """What to expect of each model; ``prices`` in any unit, 1 where none is given."""
        beliefs = self.evidence.beliefs(path, models)
        means = [b.mean for b in beliefs]
        costs = [b.cost for b in beliefs]
        raw = prompt_features(prompt) if prompt is not None else None
        x = self._scale(raw) if raw is not None else None
        prospects = []
        for model, belief in zip(models, beliefs, strict=True):
            mean, cost = belief.mean, belief.cost
            feature_model = self._features.get(model)
            if x is not None and feature_model is not None:
                mean = self._corrected(model, mean, x)
                if cost is not None and feature_model.cost_gain.on:
                    cost *= feature_model.size(x)
            if cost is not None and prices:
                cost *= prices.get(model, 1.0)
            prospects.append(
                Prospect(
                    model,
                    mean,
                    belief.sd,
                    belief.calls,
                    cost,
                    self._ranks.get(model),
                    changed=model in self._changes.fallen,
                    ability_sd=belief.ability_sd,
                )
            )
        return Prediction(path, prospects, means, costs, raw, x)

    def forecast(
        self,
        path: Path,
        models: Sequence[str],
        costs: Sequence[float | None],
        scores: Sequence[float],
        features: Sequence[float] | None = None,
    ) -> list[Prospect]:
        """What to expect of each model where its cost is predicted by others; ``features`` of the prompt."""
        x = self._scale(list(features)) if features is not None else None
        ranks, changed = self._ranks, self._changes.fallen
        prospects = []
        for model, belief, cost, score in zip(
            models, self.evidence.beliefs(path, models), costs, scores, strict=True
        ):
            mean, sd, calls, _, ability_sd = belief
            if x is not None:
                mean = self._corrected(model, mean, x)
            prospects.append(
                Prospect(model, mean, sd, calls, cost, ranks.get(model), score, model in changed, ability_sd)
            )
        return prospects

    def judge(
        self, path: Path, model: str, reward: float, at: float, features: Sequence[float] | None = None
    ) -> bool:
        """Learn the reward of a call that was made ``at``; whether its model was found to have changed."""
        belief = self.evidence.beliefs(path, [model])[0]
        raw = list(features) if features is not None else None
        x = self._scale(raw) if raw is not None else None
        mean = self._corrected(model, belief.mean, x) if x is not None else belief.mean
        prospect = Prospect(model, mean, belief.sd)
        return self.observe(Prediction(path, [prospect], [belief.mean], [None], raw, x), 0, reward, None, at)

    def _corrected(self, model: str, mean: float, x: Features) -> float:
        """A mean with what the features say beyond it, where they help."""
        of_model = self._features.get(model)
        if of_model is None or not of_model.reward_gain.on:
            return mean
        return sigmoid(logit(mean) + of_model.shift(x))

    def observe(
        self,
        prediction: Prediction,
        index: int,
        reward: float | None,
        cost: float | None,
        now: float,
        *,
        price: float = 1.0,
    ) -> bool:
        """Learn what came of choosing one prospect; whether its model was found to have changed."""
        prospect = prediction.prospects[index]
        model = prospect.model
        units = cost / price if cost is not None and price > 0 else None
        if prediction.raw is not None:
            self._scale.learn(prediction.raw)
        changed = reward is not None and self._has_changed(prediction.path, prospect, reward, now)
        if prediction.features is not None and reward is not None:
            self._learn_features(prediction, index, reward, units)
        self.evidence.observe(prediction.path, model, reward, units, now)
        if reward is not None:
            self._changes.count(prediction.path, model, now, reward)
            self._labelled += 1
            if self._labelled % FADES_EVERY == 0:
                self._fade()
        return changed

    def _fade(self) -> None:
        for model in list(self._changes.fallen):
            self.evidence.fade(model, FADES_EVERY * FADE_RATE)
            share = self.evidence.calls(model) * FADE_RATE
            if share >= AVOIDED_BELOW and self._labelled >= self._fell_at.get(model, 0) + FADES_OVER:
                self._changes.fallen.discard(model)

    def correct(self, path: Path, model: str, at: float, previous: float, reward: float) -> None:
        """Replace the reward of one call of ``at``: the last word counts."""
        self.evidence.correct(path, model, at, previous, reward)
        self._changes.count(path, model, at, reward - previous, 0)

    def _learn_features(self, prediction: Prediction, index: int, reward: float, units: float | None) -> None:
        model = prediction.prospects[index].model
        mean, expected = prediction.means[index], prediction.costs[index]
        relative = min(units / expected, 20.0) if units is not None and expected else None
        dispersion = self.evidence.noise(prediction.path, model, 0.5) * 4
        self._features.setdefault(model, FeatureModel()).learn(
            prediction.features or [], mean, reward, dispersion, relative
        )

    def _has_changed(self, path: Path, prospect: Prospect, reward: float, at: float) -> bool:
        model, fallen = prospect.model, self._changes.fallen
        root = self.evidence.beliefs(path[:1], [model])[0]
        if root.calls < (LOOKS_AGAIN_FROM_CALLS if model in fallen else LOOKS_FROM_CALLS):
            return False
        variance = self.evidence.noise(path, model, prospect.mean) + prospect.sd**2
        detector = self._detectors.setdefault(model, ChangeDetector())
        direction = detector.look(reward, prospect.mean, variance)
        if direction:
            self._fell_at[model] = self._labelled
            self._changes.found(model, at, fell=direction < 0)
            self._let_go(model)
        return direction != 0

    def _let_go(self, model: str) -> None:
        """Of a model that has changed the past counts little, and what its features said nothing."""
        self.evidence.forget(model, KEPT_AFTER_CHANGE)
        self._features.pop(model, None)

    # -- what outlasts a process -----------------------------------------------------------------

    def tell(self) -> dict[str, Sums]:
        """The changes that were found, for other processes and the next one; see ``GuardedPolicy.tell``."""
        return self._changes.tell()

    def hear(self, totals: Mapping[str, Sums]) -> None:
        """Take over the changes that any process found: here too the past of such a model counts little."""
        for change in self._changes.hear(totals):
            self._let_go(change.model)
            self._detectors.pop(change.model, None)

    def restore(self, days: Mapping[int, Labels]) -> None:
        """Take in the labelled calls of past buckets of time, one after the other as they were made, with the
        changes that were heard of: within a bucket, or its part before or after a change, calls are taken
        for evenly spread.
        """
        fallen: set[str] = set()
        for bucket in sorted({*days, *self._changes.buckets()}):
            self._restore(bucket, days.get(bucket, {}), fallen)
        self._changes.fallen &= fallen
        self.evidence.restored()

    def _restore(self, bucket: int, labels: Labels, fallen: set[str]) -> None:
        at = (bucket + 0.5) * BUCKET_SECONDS
        changes = self._changes.of_bucket(bucket)
        everyone = sum(calls for keys in labels.values() for calls, _ in keys.values())
        for model in dict.fromkeys((*labels, *sorted(fallen), *(change.model for change in changes))):
            left, rest = everyone, labels.get(model, {})  # of any model, and its own, that are not added yet
            for change in changes:
                if change.model == model:
                    after = {path: _within(change.after(path), calls) for path, calls in rest.items()}
                    before = {path: (n - after[path][0], r - after[path][1]) for path, (n, r) in rest.items()}
                    self._add(model, before, at, left - change.labelled, fallen)
                    self.evidence.forget(model, KEPT_AFTER_CHANGE)
                    (fallen.add if change.fell else fallen.discard)(model)
                    left, rest = change.labelled, after
            self._add(model, rest, at, left, fallen)

    def _add(
        self,
        model: str,
        keys: Mapping[Path, tuple[float, float]],
        at: float,
        labelled: float,
        fallen: set[str],
    ) -> None:
        """Add labelled calls, without each one's square, as if all were yes or no; ``labelled`` ones of any
        model came meanwhile. If it has fallen and is avoided, what was known before faded, and these from
        when they came.
        """
        own = sum(calls for calls, _ in keys.values())
        if labelled >= FADES_OVER and own >= AVOIDED_BELOW * labelled:
            fallen.discard(model)
        rate = FADE_RATE * max(labelled, 0.0) if model in fallen else 0.0
        share = -math.expm1(-rate) / rate if rate else 1.0
        self.evidence.fade(model, rate)
        for path, (number, reward) in keys.items():
            self.evidence.restore(path, model, at, (share * number, share * reward, share * reward))


def _within(part: tuple[float, float], whole: tuple[float, float]) -> tuple[float, float]:
    """What of a part lies within the whole, which may have come to less since: calls and their rewards."""
    calls = min(part[0], whole[0])
    least, most = max(whole[1] - (whole[0] - calls), 0.0), min(calls, whole[1])
    return calls, min(max(part[1], least), most)

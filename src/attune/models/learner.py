"""What is predicted of each candidate for a call: the key's evidence, the prompt's features, and changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from attune.models.change import ChangeDetector
from attune.models.evidence import Evidence
from attune.models.features import FeatureModel, Scale, prompt_features
from attune.models.log_odds import logit, sigmoid
from attune.models.policies.policy import Prospect

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from attune.models.evidence import Path
    from attune.models.features import Features

__all__ = ["Learner", "Prediction"]

KEPT_AFTER_CHANGE = 5.0
"""Calls that a model's past still counts as once it has changed."""
LOOKS_FROM_CALLS = 30.0
LOOKS_AGAIN_FROM_CALLS = 10.0
"""Labelled calls of a model before it is watched for changes; of one that has fallen, and gets few, before it
is watched for its return.
"""
FADES_EVERY = 25
FADED = 0.944
"""Labelled calls of any model after which the past of one that has fallen counts so much: half after 300. It
gets few calls, which else would be outweighed by those of its fall long after it recovered.
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
        self._changed: set[str] = set()
        self._labelled = 0

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
                    changed=model in self._changed,
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
        ranks, changed = self._ranks, self._changed
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
        changed = reward is not None and self._changes(prediction.path, prospect, reward)
        if prediction.features is not None and reward is not None:
            self._learn_features(prediction, index, reward, units)
        self.evidence.observe(prediction.path, model, reward, units, now)
        if reward is not None:
            self._fade(prediction.path[:1])
        return changed

    def _fade(self, root: Path) -> None:
        """Count one labelled call, and let go of the past of the models that have fallen."""
        self._labelled += 1
        if self._labelled % FADES_EVERY == 0:
            for model in self._changed:
                self.evidence.forget(model, FADED * self.evidence.beliefs(root, [model])[0].calls)

    def _learn_features(self, prediction: Prediction, index: int, reward: float, units: float | None) -> None:
        model = prediction.prospects[index].model
        mean, expected = prediction.means[index], prediction.costs[index]
        relative = min(units / expected, 20.0) if units is not None and expected else None
        dispersion = self.evidence.noise(prediction.path, model, 0.5) * 4
        self._features.setdefault(model, FeatureModel()).learn(
            prediction.features or [], mean, reward, dispersion, relative
        )

    def _changes(self, path: Path, prospect: Prospect, reward: float) -> bool:
        model = prospect.model
        root = self.evidence.beliefs(path[:1], [model])[0]
        if root.calls < (LOOKS_AGAIN_FROM_CALLS if model in self._changed else LOOKS_FROM_CALLS):
            return False
        variance = self.evidence.noise(path, model, prospect.mean) + prospect.sd**2
        detector = self._detectors.setdefault(model, ChangeDetector())
        direction = detector.look(reward, prospect.mean, variance)
        if not direction:
            return False
        if direction < 0:
            self._changed.add(model)
        else:
            self._changed.discard(model)
        self.evidence.forget(model, KEPT_AFTER_CHANGE)
        self._features.pop(model, None)
        return True

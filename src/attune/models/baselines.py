"""What a policy is compared with: chance, one model, and LiteLLM's adaptive router."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from attune.models.policies.policy import certain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from attune.models.policies.policy import Feedback, Prospect, Setting

__all__ = ["LiteLLMBeta", "RandomPolicy", "SinglePolicy"]


class RandomPolicy:
    """Every candidate as often."""

    name = "random"

    def probabilities(self, prospects: Sequence[Prospect], setting: Setting) -> list[float]:  # noqa: ARG002
        return [1 / len(prospects)] * len(prospects)

    def settle(self, feedback: Feedback) -> None:
        """Nothing to learn."""


class SinglePolicy:
    """One model where it is a candidate, else the first."""

    def __init__(self, model: str) -> None:
        self.name = f"always {model}"
        self._model = model

    def probabilities(self, prospects: Sequence[Prospect], setting: Setting) -> list[float]:  # noqa: ARG002
        models = [p.model for p in prospects]
        return certain(models.index(self._model) if self._model in models else 0, len(models))

    def settle(self, feedback: Feedback) -> None:
        """Nothing to learn."""


_PRIOR_MEANS = (0.3, 0.5, 0.7)
_PRIOR_MASS = 10.0
_FULL = 200.0
_QUALITY_WEIGHT = 0.7


class LiteLLMBeta:
    """LiteLLM's adaptive router as it is described: a Beta posterior a key and model with prior mean .3, .5
    or .7 by tier (.5 unknown) and mass 10, a Thompson draw, score .7 x quality + .3 x cheapness (linear over
    the pool's prices), and no more updates once alpha + beta reaches 200.

    ``prices`` are each model's mean cost, known in advance. The posterior is sampled, so the vector given is
    certain of what was drawn.
    """

    name = "litellm-beta"

    def __init__(self, prices: Mapping[str, float], seed: int) -> None:
        self._low, self._high = min(prices.values()), max(prices.values())
        self._prices = dict(prices)
        self._random = random.Random(seed)  # noqa: S311  (a simulation)
        self._posteriors: dict[tuple[str, str], tuple[float, float]] = {}

    def probabilities(self, prospects: Sequence[Prospect], setting: Setting) -> list[float]:
        """Certain of the candidate whose sampled score is the highest."""
        scores = [self._score(p, setting.path[-1]) for p in prospects]
        return certain(max(range(len(scores)), key=scores.__getitem__), len(scores))

    def settle(self, feedback: Feedback) -> None:
        """Update the posterior of the chosen model."""
        chosen = next(p for p in feedback.prospects if p.model == feedback.model)
        a, b = self._posterior(chosen, feedback.path[-1])
        if feedback.reward is not None and a + b < _FULL:
            key = feedback.path[-1], feedback.model
            self._posteriors[key] = a + feedback.reward, b + 1 - feedback.reward

    def _posterior(self, prospect: Prospect, key: str) -> tuple[float, float]:
        rank = 1 if prospect.rank is None else min(max(prospect.rank, 0), 2)
        prior = _PRIOR_MEANS[rank]
        fresh = _PRIOR_MASS * prior, _PRIOR_MASS * (1 - prior)
        return self._posteriors.get((key, prospect.model), fresh)

    def _score(self, prospect: Prospect, key: str) -> float:
        quality = self._random.betavariate(*self._posterior(prospect, key))
        span = self._high - self._low
        cheapness = (self._high - self._prices[prospect.model]) / span if span else 1.0
        return _QUALITY_WEIGHT * quality + (1 - _QUALITY_WEIGHT) * cheapness

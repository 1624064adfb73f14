"""Routing learned from labelled prompts and judged on others: how well the predicted gap ranks them.

The learner, its features and all their constants are the product's own: nothing is tuned on any fold. Of a
training row both results are learned, of a tested one none.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from attune.models.learner import Learner

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from attune.models.simulation import Row

SHARES = (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95)
WEAK, STRONG = "weak", "strong"
MODELS = (STRONG, WEAK)
RANKS = {WEAK: 0, STRONG: 1}


def of_labels(rows: Sequence[Row], labels: int, seed: int) -> float:
    """The APGR on all the rest of the rows once ``labels`` of them, drawn at random, were learned."""
    drawn = random.Random(seed).sample(rows, len(rows))
    return apgr(_scored(drawn[:labels], drawn[labels:]))


def of_folds(rows: Sequence[Row], folds: int, seed: int) -> float:
    """The mean APGR of the folds of a random split, each scored by what the others taught."""
    drawn = random.Random(seed).sample(rows, len(rows))
    return sum(apgr(_scored(*split)) for split in _splits(drawn, folds)) / folds


def _splits(rows: Sequence[Row], folds: int) -> Iterator[tuple[list[Row], list[Row]]]:
    for fold in range(folds):
        yield [row for i, row in enumerate(rows) if i % folds != fold], list(rows[fold::folds])


def _scored(training: Sequence[Row], tested: Sequence[Row]) -> list[tuple[float, Row]]:
    """The tested rows with the gap that is predicted between the models."""
    learner = Learner(RANKS)
    for row in training:
        prediction = learner.predict(("*", row.key), MODELS, row.prompt)
        for place, model in enumerate(MODELS):
            learner.observe(prediction, place, row.arms[model].reward, None, 0.0)
    scored = []
    for row in tested:
        strong, weak = learner.predict(("*", row.key), MODELS, row.prompt).prospects
        scored.append((strong.mean - weak.mean, row))
    return scored


def apgr(scored: Sequence[tuple[float, Row]]) -> float:
    """The mean over the shares of how much of the gap between the models is recovered when the rows of the
    highest scores get the strong one.
    """
    ranked = sorted(scored, key=lambda each: -each[0])
    gains = [row.arms[STRONG].reward - row.arms[WEAK].reward for _, row in ranked]
    gap = sum(gains)
    return sum(sum(gains[: round(share * len(gains))]) / gap for share in SHARES) / len(SHARES)

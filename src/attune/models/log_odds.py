"""Probabilities as log odds, where effects add."""

from __future__ import annotations

import math

__all__ = ["logit", "sigmoid", "spread_of"]


def logit(p: float) -> float:
    """The log odds of a probability, which is kept within 0.001 .. 0.999."""
    p = min(max(p, 1e-3), 1 - 1e-3)
    return math.log(p / (1 - p))


def sigmoid(z: float) -> float:
    """The reverse of ``logit``."""
    return 1 / (1 + math.exp(-z)) if z > -30 else 0.0


def spread_of(p: float) -> float:
    """The variance of one binary outcome of mean ``p``, the most that any outcome in 0..1 can have."""
    return max(p * (1 - p), 0.01)

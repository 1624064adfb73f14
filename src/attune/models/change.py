"""Whether a model's rewards have changed: an anytime-valid e-detector a model and direction."""

from __future__ import annotations

import math

__all__ = ["ChangeDetector"]

FALSE_ALARM_EVERY = 10_000.0
"""Looks between two false alarms, at least, on average."""
IGNORED = 0.05
"""A shift of the mean below this is no change."""
SHIFTS = (0.1, 0.2, 0.4)


class ChangeDetector:
    """Alarms when rewards are no longer what was predicted.

    A Shiryaev-Roberts e-detector (Shin, Ramdas and Rinaldo 2023): for each shift looked for,
    ``R <- (R + 1) e`` with e of expectation at most 1 while the mean is within ``IGNORED`` of the prediction
    (Bennett's inequality, with the variance of the prediction's error as known). The alarm is at
    ``FALSE_ALARM_EVERY``, which is then the least average run length without a change.
    """

    __slots__ = ("_down", "_up")

    def __init__(self) -> None:
        self._down = [0.0] * len(SHIFTS)
        self._up = [0.0] * len(SHIFTS)

    def look(self, reward: float, predicted: float, variance: float) -> int:
        """Take in one reward: -1 when the mean has fallen, 1 when it has risen, else 0.

        ``variance`` is that of ``reward - predicted``. After an alarm it starts anew.
        """
        room = min(max(predicted, 0.05), 0.95)
        fell = _step(self._down, predicted - reward, variance, room)
        rose = _step(self._up, reward - predicted, variance, 1 - room)
        if not fell and not rose:
            return 0
        self._down = [0.0] * len(SHIFTS)
        self._up = [0.0] * len(SHIFTS)
        return -1 if fell else 1


def _step(levels: list[float], error: float, variance: float, most: float) -> bool:
    """Multiply each shift's level by its e-value: ``error - IGNORED`` is at most ``most``."""
    for i, shift in enumerate(SHIFTS):
        rate = math.log1p((shift - IGNORED) * most / variance) / most
        growth = variance / most**2 * (math.expm1(rate * most) - rate * most)
        levels[i] = (levels[i] + 1) * math.exp(rate * (error - IGNORED) - growth)
    return sum(levels) / len(SHIFTS) >= FALSE_ALARM_EVERY

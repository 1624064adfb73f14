"""The change detector: quiet while nothing changes, quick when something does."""

from __future__ import annotations

import random

from attune.models.change import ChangeDetector


def looks_until_alarm(mean: float, predicted: float, looks: int, seed: int) -> tuple[int, int]:
    generator = random.Random(seed)
    detector = ChangeDetector()
    for i in range(looks):
        direction = detector.look(float(generator.random() < mean), predicted, predicted * (1 - predicted))
        if direction:
            return i + 1, direction
    return looks, 0


def test_no_alarm_while_the_mean_is_as_predicted_or_nearly():
    alarms = [looks_until_alarm(mean, 0.9, 2000, seed)[1] for seed in range(10) for mean in (0.9, 0.87)]
    assert alarms.count(0) >= 19


def test_a_fall_and_a_rise_are_told_apart_and_found():
    fall = sorted(looks_until_alarm(0.6, 0.9, 2000, seed) for seed in range(11))
    rise = sorted(looks_until_alarm(0.9, 0.5, 2000, seed) for seed in range(11))
    assert {direction for _, direction in fall} == {-1}
    assert {direction for _, direction in rise} == {1}
    assert fall[5][0] <= 80
    assert rise[5][0] <= 80


def test_after_an_alarm_it_starts_anew():
    detector = ChangeDetector()
    first = next(i for i in range(200) if detector.look(0.0, 0.9, 0.09))
    second = next(i for i in range(200) if detector.look(0.0, 0.9, 0.09))
    assert first == second

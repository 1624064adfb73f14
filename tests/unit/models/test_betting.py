"""Bounds on the gap of two means that hold whenever one looks."""

from __future__ import annotations

import random

from attune.models.betting import Bets, gap_exceeds, gap_upper


def bets_of(mean: float, count: int, seed: int) -> Bets:
    generator = random.Random(seed)
    bets = Bets()
    for _ in range(count):
        bets.add(float(generator.random() < mean))
    return bets


def test_without_rewards_the_gap_may_be_anything():
    assert gap_upper(Bets(), Bets(), 0.05) == 1.0
    assert not gap_exceeds(Bets(), Bets(), 0.05, 0.05)


def test_two_equal_arms_are_shown_to_be_close_and_never_far():
    a, b = bets_of(0.9, 2000, 1), bets_of(0.9, 2000, 2)
    assert gap_upper(a, b, 0.05) <= 0.06
    assert not gap_exceeds(a, b, 0.05, 0.05)


def test_a_large_gap_is_shown_to_exceed_a_small_one():
    a, b = bets_of(0.9, 300, 1), bets_of(0.5, 300, 2)
    assert gap_exceeds(a, b, 0.05, 0.05)
    assert gap_upper(a, b, 0.05) > 0.4


def test_the_bound_is_rarely_wrong_at_any_time():
    wrong = 0
    for seed in range(60):
        generator = random.Random(seed)
        a, b = Bets(), Bets()
        missed = False
        for i in range(200):
            a.add(float(generator.random() < 0.8))
            b.add(float(generator.random() < 0.6))
            missed |= i % 10 == 9 and gap_upper(a, b, 0.05) < 0.2 - 1e-9
        wrong += missed
    assert wrong <= 6

"""The budget policy: it meets its ceiling and spends where it buys the most."""

from __future__ import annotations

import random

import pytest

from attune.models.policies import Allowance, BudgetPolicy, Feedback, Prospect, Setting

EASY, HARD = ("all", "easy"), ("all", "hard")


def prospects_at(path: tuple[str, ...]) -> list[Prospect]:
    weak = 0.9 if path == EASY else 0.4
    return [
        Prospect("strong", 0.95, 0.01, 100.0, 1.0, 1),
        Prospect("weak", weak, 0.01, 100.0, 0.0, 0),
    ]


def spent(policy: BudgetPolicy, calls: int, seconds: float = 60.0) -> dict[tuple[str, ...], float]:
    """Dollars by key, half of the calls hard and half easy, drawn from the policy's own vector."""
    generator = random.Random(0)
    dollars = {EASY: 0.0, HARD: 0.0}
    for i in range(calls):
        path = HARD if i % 2 else EASY
        prospects = prospects_at(path)
        strong = generator.random() < policy.probabilities(prospects, Setting(path, i * seconds))[0]
        dollars[path] += strong
        chosen = prospects[0 if strong else 1]
        policy.settle(Feedback(path, prospects, chosen.model, chosen.mean, chosen.cost, i * seconds))
    return dollars


@pytest.mark.parametrize("ceiling", [0.1, 0.25, 0.6, 0.9])
def test_the_ceiling_is_met_and_the_hard_key_comes_first(ceiling: float):
    dollars = spent(BudgetPolicy(Allowance(ceiling)), 3000)
    assert sum(dollars.values()) / 3000 == pytest.approx(ceiling, rel=0.04)
    assert dollars[HARD] > dollars[EASY] or ceiling > 0.5


def test_more_than_anything_costs_is_not_spent():
    dollars = spent(BudgetPolicy(Allowance(5.0)), 500)
    assert sum(dollars.values()) / 500 > 0.95


def test_a_daily_budget_comes_in_with_time():
    dollars = spent(BudgetPolicy(Allowance(864.0, "day")), 3000)  # 0.6 dollars a minute
    assert sum(dollars.values()) / 3000 == pytest.approx(0.6, rel=0.05)


def test_the_cheapest_is_always_affordable():
    policy = BudgetPolicy(Allowance(0.001))
    prospects = [Prospect("a", 0.9, 0.1, 0.0, 5.0, 1), Prospect("b", 0.5, 0.1, 0.0, 1.0, 0)]
    for i in range(50):
        policy.settle(Feedback(EASY, prospects, "b", 0.5, 1.0, float(i)))
    assert policy.probabilities(prospects, Setting(EASY, 50.0)) == [0.0, 1.0]


def test_before_any_cost_is_known_the_cheapest_tier_goes_first():
    prospects = [Prospect("a", 0.9, 0.1, 0.0, None, 2), Prospect("b", 0.5, 0.1, 0.0, None, 0)]
    assert BudgetPolicy(Allowance(1.0)).probabilities(prospects, Setting(EASY, 0.0)) == [0.0, 1.0]


def test_an_unknown_cost_is_guessed_from_the_nearest_tier():
    near = [Prospect("known", 0.5, 0.1, 9.0, 0.1, 0), Prospect("new", 0.9, 0.1, 0.0, None, 1)]
    far = [Prospect("known", 0.5, 0.1, 9.0, 0.1, 0), Prospect("new", 0.9, 0.1, 0.0, None, 2)]
    unranked = [Prospect("known", 0.5, 0.1, 9.0, 0.1), Prospect("new", 0.9, 0.1, 0.0, None)]
    policy = BudgetPolicy(Allowance(0.1))
    assert policy.probabilities(near, Setting(EASY, 0.0))[1] > 0
    assert policy.probabilities(far, Setting(EASY, 0.0))[1] == 0
    assert policy.probabilities(unranked, Setting(EASY, 0.0))[1] > 0


def test_a_surplus_is_carried_over_up_to_a_cap():
    allowance = Allowance(1.0)
    for i in range(5000):
        allowance.book(0.0, float(i))
    assert allowance.balance == 40.0
    assert allowance.target == pytest.approx(1.4)


def test_realtime_takes_the_most_worth_what_is_affordable():
    policy = BudgetPolicy(Allowance(0.5))
    assert policy.probabilities(prospects_at(HARD), Setting(HARD, 0.0, explores=False)) == [1.0, 0.0]

"""The guarded policy: stages, retreat, and the harm it may do."""

from __future__ import annotations

import random

import pytest

from attune.models.policies import Feedback, GuardedPolicy, Prospect, Setting, draw
from attune.models.telemetry import Decided

PATH = ("all", "k")
HERE = Setting(PATH, 0.0)


def pool(mean: float = 0.9, sd: float = 0.2) -> list[Prospect]:
    return [
        Prospect("dear", 0.9, sd, 0.0, 1.0, 2),
        Prospect("cheap", mean, sd, 0.0, 0.1, 0),
    ]


def run(
    policy: GuardedPolicy, dear: float, cheap: float, calls: int, seed: int, *, changed_at: int = -1
) -> tuple[float, float]:
    """The share of calls that the cheap model got, and the most harm beyond 5 points in 100."""
    generator = random.Random(seed)
    harm = worst = 0.0
    count = 0
    for i in range(calls):
        prospects = pool()
        index = draw(policy.probabilities(prospects, HERE), generator.random())
        mean = (dear, cheap)[index]
        count += index
        harm += dear - mean
        worst = max(worst, harm - 0.05 * (i + 1))
        reward = float(generator.random() < mean)
        policy.settle(
            Feedback(PATH, prospects, prospects[index].model, reward, 1.0, float(i), changed=i == changed_at)
        )
    return count / calls, worst


def test_without_judged_calls_it_stays_with_the_table():
    policy = GuardedPolicy()
    for i in range(200):
        policy.settle(Feedback(PATH, pool(), "dear", None, 1.0, float(i)))
    assert policy.probabilities(pool(), HERE) == [1.0, 0.0]


def test_a_cheaper_model_as_good_gets_everything_in_the_end():
    policy = GuardedPolicy()
    run(policy, 0.95, 0.97, 3000, 1)
    assert policy.probabilities(pool(), HERE) == [0.0, 1.0]


def test_a_worse_one_gets_nothing_in_the_end():
    policy = GuardedPolicy()
    share, _ = run(policy, 0.95, 0.6, 4000, 1)
    assert policy.probabilities(pool(), HERE) == [1.0, 0.0]
    assert share < 0.05


@pytest.mark.parametrize("cheap", [0.9, 0.8, 0.5, 0.0])
def test_the_harm_stays_within_what_is_promised(cheap: float):
    assert sum(run(GuardedPolicy(), 0.9, cheap, 1000, seed)[1] > 5 for seed in range(10)) == 0


def test_a_model_that_changed_is_judged_anew():
    policy = GuardedPolicy()
    run(policy, 0.95, 0.97, 3000, 1)
    policy.settle(Feedback(PATH, pool(), "cheap", 0.0, 1.0, 0.0, changed=True))
    assert policy.probabilities(pool(), HERE)[1] <= 0.3


def test_when_the_reference_changed_nothing_is_known_any_more():
    policy = GuardedPolicy()
    run(policy, 0.95, 0.97, 3000, 1)
    policy.settle(Feedback(PATH, pool(), "dear", 1.0, 1.0, 0.0, changed=True))
    assert policy.probabilities(pool(), HERE)[0] > 0.6


def test_many_worse_models_together_do_no_more_harm_than_promised():
    for seed in range(5):
        generator = random.Random(seed)
        policy = GuardedPolicy()
        prospects = [pool()[0], *(Prospect(f"cheap{i}", 0.5, 0.3, 0.0, 0.1) for i in range(8))]
        harm = 0.0
        for t in range(800):
            index = draw(policy.probabilities(prospects, HERE), generator.random())
            mean = 0.3 if index else 0.9
            harm += 0.9 - mean
            assert harm <= 0.05 * (t + 1) + 5
            reward = float(generator.random() < mean)
            policy.settle(Feedback(PATH, prospects, prospects[index].model, reward, 1.0, float(t)))


def test_a_key_where_it_is_believed_to_be_worse_keeps_the_table():
    policy = GuardedPolicy()
    run(policy, 0.95, 0.97, 3000, 1)
    assert policy.probabilities(pool(mean=0.6, sd=0.02), HERE) == [1.0, 0.0]


def test_a_dearer_model_is_never_tried():
    policy = GuardedPolicy()
    prospects = [Prospect("cheap", 0.5, 0.1, 0.0, 0.1, 0), Prospect("dear", 0.99, 0.1, 0.0, 1.0, 2)]
    for i in range(20):
        policy.settle(Feedback(PATH, prospects, "cheap", 0.5, 0.1, float(i)))
    assert policy.probabilities(prospects, HERE) == [1.0, 0.0]


def test_without_costs_the_tier_says_what_is_cheaper():
    policy = GuardedPolicy()
    dear, cheap = Prospect("dear", 0.9, 0.1, rank=2), Prospect("cheap", 0.9, 0.1, rank=0)
    unknown = Prospect("unknown", 0.9, 0.1)
    for i in range(20):
        policy.settle(Feedback(PATH, [dear, cheap, unknown], "dear", 1.0, None, float(i)))
    vector = policy.probabilities([dear, cheap, unknown], HERE)
    assert vector[1] > 0
    assert vector[2] == 0


def test_realtime_calls_take_the_larger_share():
    policy = GuardedPolicy()
    run(policy, 0.9, 0.9, 100, 1)
    assert policy.probabilities(pool(), Setting(PATH, 0.0, explores=False)) == [1.0, 0.0]


def test_only_calls_that_either_model_could_have_had_are_compared():
    both, only_dear = Decided("", "dear", ("dear", "cheap")), Decided("", "dear", ("dear",))
    plain, mixed = GuardedPolicy(), GuardedPolicy()
    for number in range(400):
        for policy in (plain, mixed):
            policy.judge(both, "dear" if number % 2 else "cheap", float(number % 10 > 0), changed=False)
        mixed.judge(only_dear, "dear", 0.0, changed=False)  # such as calls with pictures, which are hard
    assert mixed.tell()["dear\tcheap\t0"] == plain.tell()["dear\tcheap\t0"]
    assert mixed.rule(pool()).stages == plain.rule(pool()).stages


def test_a_model_of_which_nothing_is_known_begins_with_the_first_stage():
    policy = GuardedPolicy()
    policy.judge(Decided("", "dear", ("dear",)), "dear", 1.0, changed=False)
    assert policy.probabilities(pool(), HERE) == [0.97, 0.03]

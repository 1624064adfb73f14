"""Simulations: bandit feedback only, and what a policy is compared with."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping

import pytest

from attune.errors import InvalidRequestError
from attune.models.baselines import LiteLLMBeta, SinglePolicy
from attune.models.policies import (
    Allowance,
    BestPolicy,
    BudgetPolicy,
    GuardedPolicy,
    Policy,
    StaticPolicy,
    ThompsonPolicy,
)
from attune.models.simulation import Arm, Row, replay, row_of

MODELS = ["large", "small"]
RANKS = {"small": 0, "large": 2}
MEANS = {"chat": (0.95, 0.93), "proof": (0.9, 0.4), "code": (0.9, 0.75)}


def table(count: int = 600, seed: int = 0) -> list[Row]:
    generator = random.Random(seed)
    rows = []
    for i in range(count):
        key = ["chat", "proof", "code"][i % 3]
        large, small = (float(generator.random() < p) for p in MEANS[key])
        cost = generator.uniform(0.5, 1.5)
        arms = {"large": Arm(large, cost), "small": Arm(small, cost / 50)}
        rows.append(Row(key, f"{key}: task {i} " + "x" * generator.randrange(200), arms))
    return rows


class OnlyOne(Mapping[str, Arm]):
    """The arms of a row of which one may be looked at; the next look at another one fails."""

    def __init__(self, arms: Mapping[str, Arm]) -> None:
        self._arms = arms
        self._seen: set[str] = set()

    def __getitem__(self, model: str) -> Arm:
        self._seen.add(model)
        assert len(self._seen) == 1, f"looked at {sorted(self._seen)}"
        return self._arms[model]

    def __contains__(self, model: object) -> bool:
        return model in self._arms

    def __iter__(self) -> Iterator[str]:
        return iter(self._arms)

    def __len__(self) -> int:
        return len(self._arms)


def learned() -> list[Policy]:
    return [ThompsonPolicy(), BudgetPolicy(Allowance(0.3)), GuardedPolicy()]


def test_a_policy_sees_the_chosen_model_and_nothing_of_the_others():
    rows = table(200)
    for policy in learned():
        watched = [row._replace(arms=OnlyOne(row.arms)) for row in rows]
        replay(watched, policy, 1, models=MODELS, ranks=RANKS)


def test_poisoning_what_was_not_chosen_changes_nothing():
    rows = table(300)
    for first, second in zip(learned(), learned(), strict=True):
        clean = replay(rows, first, 1, models=MODELS, ranks=RANKS)
        poisoned = [
            row._replace(arms={m: a if m == chosen else Arm(math.nan, math.nan) for m, a in row.arms.items()})
            for row, chosen in zip(rows, clean.models, strict=True)
        ]
        again = replay(poisoned, second, 1, models=MODELS, ranks=RANKS)
        assert again.models == clean.models
        assert again.rewards == clean.rewards


def test_a_price_that_is_known_to_fall_needs_no_learning():
    rows = table(900)
    dear = replay(rows, BudgetPolicy(Allowance(0.2)), 0, models=MODELS, ranks=RANKS)
    cheap_rows = [
        row._replace(arms={m: Arm(a.reward, a.cost * (0.1 if i >= 450 else 1)) for m, a in row.arms.items()})
        for i, row in enumerate(rows)
    ]
    run = replay(
        cheap_rows,
        BudgetPolicy(Allowance(0.2)),
        0,
        models=MODELS,
        ranks=RANKS,
        prices=lambda i: dict.fromkeys(MODELS, 0.1 if i >= 450 else 1.0),
    )
    assert dear.models.count("large") < 360
    assert run.models[600:].count("large") > 240
    assert sum(run.costs[450:]) <= 0.2 * 450 * 1.06


def test_a_silent_fall_is_noticed():
    rows = table(1600)
    fallen = [
        row._replace(arms={**row.arms, "large": Arm(0.0, row.arms["large"].cost)}) if i >= 800 else row
        for i, row in enumerate(rows)
    ]
    run = replay(fallen, ThompsonPolicy(), 0, models=MODELS)
    assert run.models[500:800].count("large") > 150
    assert run.models[1100:].count("large") < 60


def test_rows_may_lack_models_and_one_candidate_is_enough():
    rows = [
        row._replace(arms={m: a for m, a in row.arms.items() if i % 3 or m == "small"})
        for i, row in enumerate(table(90))
    ]
    run = replay(rows, ThompsonPolicy(), 0, models=MODELS)
    assert all(model in row.arms for model, row in zip(run.models, rows, strict=True))
    assert all(math.isfinite(r) for r in run.rewards)


def test_a_model_found_to_be_slow_is_left_where_another_is_fast():
    rows = [
        Row("k", None, {"large": Arm(1.0, 1.0, 900.0), "small": Arm(0.1, 0.1, 20.0)}),
        Row("slow", None, {"large": Arm(1.0, 1.0, 900.0), "small": Arm(0.1, 0.1, 800.0)}),
    ] * 60
    run = replay(rows, SinglePolicy("large"), 0, models=MODELS, max_latency_ms=100.0)
    assert run.models[::2].count("large") == 1
    assert run.models[1::2].count("large") > 50
    assert set(replay(rows, SinglePolicy("large"), 0, models=MODELS).models) == {"large"}


def test_best_goes_by_the_quality_score_of_the_calls_that_were_made():
    rows = [Row("k", None, {"large": Arm(0.2, 0.01), "small": Arm(1.0, 0.001)})] * 60
    run = replay(rows, BestPolicy(), 0, models=MODELS)
    assert run.models[0] == "large"  # nothing is known: the first
    assert set(run.models[5:]) == {"small"}


def test_best_prefers_the_faster_of_two_that_are_alike():
    slow, fast = Arm(0.8, 0.001, 9000.0), Arm(0.8, 0.001, 20.0)
    run = replay([Row("k", None, {"large": slow, "small": fast})] * 60, BestPolicy(), 0, models=MODELS)
    assert run.models.count("small") > 50


def test_a_row_without_any_of_the_models_is_an_error_that_names_it():
    with pytest.raises(InvalidRequestError, match="row 1: has none of the models gone"):
        replay(table(3), StaticPolicy(), 0, models=["gone"])


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({}, "arms"),
        ({"arms": {}}, "arms"),
        ({"arms": {"m": 1}}, "row 7, model m"),
        ({"arms": {"m": {"reward": 2, "cost": 0}}}, "the reward must be a number from 0 to 1, not 2"),
        ({"arms": {"m": {"reward": 1, "cost": -1}}}, "the cost must be a number of USD, 0 or more, not -1"),
        ({"arms": {"m": {"reward": 1, "cost": math.inf}}}, "below 1e+12, not inf"),
        ({"arms": {"m": {"reward": math.nan, "cost": 0}}}, "from 0 to 1, not nan"),
        ({"arms": {"m": {"reward": True, "cost": 0}}}, "from 0 to 1, not True"),
        ({"arms": {"m": {"reward": 1}}}, "the cost must be a number"),
        ({"arms": {"m": {"reward": 1, "cost": 0, "latency_ms": "x"}}}, "latency_ms must be a number"),
        ({"arms": {"m": {"reward": 1, "cost": 0, "latency_ms": -1}}}, "latency_ms must be a number"),
        ({"arms": {"m": {"reward": 1, "cost": 0}}, "k": 3}, "key field 'k'"),
    ],
)
def test_a_bad_row_is_named(record: dict[str, object], says: str):
    with pytest.raises(InvalidRequestError, match="row 7") as error:
        row_of({"k": "x", **record}, "k", "row 7")
    assert says in str(error.value)


def test_a_row_is_read_with_or_without_its_key():
    record = {"k": "x", "prompt": "hi", "arms": {"m": {"reward": 1, "cost": 0.5, "latency_ms": 3}}}
    assert row_of(record, "k", "row 1") == Row("x", "hi", {"m": Arm(1.0, 0.5, 3.0)})
    assert row_of({**record, "prompt": None}, None, "row 1") == Row("*", None, {"m": Arm(1.0, 0.5, 3.0)})


def test_a_learned_posterior_of_litellm_stops_at_its_mass():
    rows = [Row("k", None, {"m": Arm(1.0, 1.0)})] * 400
    policy = LiteLLMBeta({"m": 1.0}, 0)
    replay(rows, policy, 0, models=["m"])
    assert sum(next(iter(policy._posteriors.values()))) == pytest.approx(200)

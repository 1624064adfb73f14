"""Every policy: an explicit vector, floors, and no exploring where it is not allowed."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attune.errors import InvalidRequestError
from attune.models.policies import (
    Allowance,
    BestPolicy,
    BudgetPolicy,
    Feedback,
    GuardedPolicy,
    Policy,
    Prospect,
    Setting,
    StaticPolicy,
    ThompsonPolicy,
    draw,
)
from attune.models.policies.policy import EXPLORED, posterior_odds, with_floors

if TYPE_CHECKING:
    from types import FrameType

PATH = ("all", "k")
HERE = Setting(PATH, 0.0)
REALTIME = Setting(PATH, 0.0, explores=False)


def policies() -> list[Policy]:
    return [
        StaticPolicy(),
        BestPolicy(),
        ThompsonPolicy(),
        GuardedPolicy(),
        BudgetPolicy(Allowance(0.01)),
        BudgetPolicy(Allowance(5.0, "day")),
    ]


def prospect(
    model: str, mean: float, sd: float = 0.05, cost: float | None = 0.01, **more: object
) -> Prospect:
    return Prospect(model, mean, sd, 10.0, cost, **more)  # type: ignore[arg-type]


prospects_strategy = st.lists(
    st.builds(
        Prospect,
        model=st.uuids().map(str),
        mean=st.floats(0, 1),
        sd=st.floats(0, 0.5),
        calls=st.floats(0, 1e6),
        cost=st.none() | st.floats(0, 1e3),
        rank=st.none() | st.integers(0, 2),
        score=st.floats(0, 1),
        changed=st.booleans(),
        ability_sd=st.floats(0, 0.5),
    ),
    min_size=1,
    max_size=10,
)


@given(
    prospects_strategy,
    st.lists(
        st.tuples(st.integers(0, 9), st.none() | st.floats(0, 1), st.none() | st.floats(0, 100)), max_size=30
    ),
    st.booleans(),
)
def test_every_vector_sums_to_one_and_asking_twice_gives_the_same(prospects, past, explores):
    for policy in policies():
        for i, (choice, reward, cost) in enumerate(past):
            model = prospects[choice % len(prospects)].model
            policy.settle(Feedback(PATH, prospects, model, reward, cost, i * 60.0, changed=i % 7 == 6))
        setting = Setting(PATH, 1e4, explores)
        vector = policy.probabilities(prospects, setting)
        assert len(vector) == len(prospects)
        assert math.isclose(sum(vector), 1.0, abs_tol=1e-9)
        assert all(0 <= p <= 1 + 1e-12 for p in vector)
        assert policy.probabilities(prospects, setting) == vector
        if not explores:
            assert sorted(vector)[-1] == 1.0


def test_one_candidate_is_certain():
    for policy in policies():
        assert policy.probabilities([prospect("only", 0.1, cost=None)], HERE) == [1.0]


def test_static_is_the_table_and_best_is_the_score():
    prospects = [prospect("a", 0.1, score=0.2), prospect("b", 0.9, score=0.8)]
    assert StaticPolicy().probabilities(prospects, HERE) == [1.0, 0.0]
    assert BestPolicy().probabilities(prospects, HERE) == [0.0, 1.0]


def test_thompson_explores_the_uncertain_and_keeps_a_floor():
    sure = ThompsonPolicy().probabilities([prospect("a", 0.9, 0.01), prospect("b", 0.5, 0.01)], HERE)
    unsure = ThompsonPolicy().probabilities([prospect("a", 0.9, 0.3), prospect("b", 0.8, 0.3)], HERE)
    assert sure[1] == pytest.approx(EXPLORED)
    assert unsure[1] > 0.05


def test_thompson_gives_equals_the_same_and_never_explores_when_realtime():
    twins = [prospect(name, 0.5, 0.1) for name in "abcd"]
    assert ThompsonPolicy().probabilities(twins, HERE) == pytest.approx([0.25] * 4)
    assert ThompsonPolicy().probabilities(twins, REALTIME) == [1.0, 0.0, 0.0, 0.0]


def test_a_model_that_changed_is_explored_more():
    vector = ThompsonPolicy().probabilities(
        [prospect("a", 0.9, 0.01), prospect("b", 0.5, 0.01, changed=True)], HERE
    )
    assert vector[1] == pytest.approx(0.03)


def test_odds_of_two_are_the_probability_that_one_is_better():
    vector = posterior_odds([0.6, 0.5], [0.005, 0.005])
    assert vector[1] == pytest.approx(0.5 * math.erfc(0.1 / math.sqrt(2 * (0.01 + 0.005**2))))


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=10).filter(lambda v: sum(v) > 0.01),
    st.floats(0, 0.3),
)
def test_floors_hold_and_the_rest_keeps_its_order(weights, floor):
    vector = [w / sum(weights) for w in weights]
    floored = with_floors(vector, [floor / len(vector)] * len(vector))
    assert math.isclose(sum(floored), 1.0, abs_tol=1e-9)
    assert min(floored) >= floor / len(vector) - 1e-12


def test_floors_above_one_in_all_are_scaled():
    assert with_floors([1.0, 0.0], [0.9, 0.9]) == [0.5, 0.5]


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5]), min_size=1, max_size=6), st.floats(0, 1))
def test_a_draw_never_falls_on_what_is_impossible(weights, u):
    if sum(weights) == 0:
        return
    vector = [w / sum(weights) for w in weights]
    assert vector[draw(vector, u)] > 0


def steps(policy: Policy, prospects: list[Prospect]) -> int:
    """How many functions a decision calls, Python's own with them: the same on every machine."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        policy.probabilities(prospects, HERE)
    finally:
        sys.setprofile(before)
    return calls


@pytest.mark.parametrize("policy", policies(), ids=lambda policy: type(policy).__name__)
def test_deciding_among_ten_takes_few_steps_however_much_was_settled(policy: Policy):
    prospects = [prospect(str(i), 0.5 + i / 30, 0.1, 0.001 * i) for i in range(10)]
    needed = []
    for calls in (300, 3000):
        for i in range(calls):
            policy.settle(Feedback(PATH, prospects, str(i % 10), 0.5, 0.01, float(i)))
        assert 0 < steps(policy, prospects) < 500  # measured: 145, with what was learned taken in
        needed.append(steps(policy, prospects))
    assert needed[1] <= 1.1 * needed[0]


@pytest.mark.parametrize(("usd", "per"), [(0.0, "call"), (-1.0, "call"), (math.nan, "day"), (1.0, "year")])
def test_a_budget_that_makes_no_sense_is_refused(usd: float, per: str):
    with pytest.raises(InvalidRequestError):
        Allowance(usd, per)


def test_a_margin_that_makes_no_sense_is_refused():
    with pytest.raises(InvalidRequestError):
        GuardedPolicy(0.0)

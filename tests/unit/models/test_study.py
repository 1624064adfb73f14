"""A policy and what it is compared with, over shuffled orders of the same rows."""

from __future__ import annotations

import math

import pytest

from attune.errors import InvalidRequestError
from attune.models.policies import Allowance, BudgetPolicy, GuardedPolicy, StaticPolicy, ThompsonPolicy
from attune.models.simulation import Arm, Row
from attune.models.study import Contender, Estimate, Kind, Yardstick, baselines, entrant, study
from support.routing_table import MODELS, RANKS, rows

TIERS = Yardstick(MODELS, RANKS)


def asked(table, make, seeds: int, yardstick: Yardstick = TIERS) -> Contender:
    return study(table, [entrant("p", make)], seeds, yardstick)[0]


def test_the_same_seeds_give_the_same_study():
    table = rows(150)
    one, two = (study(table, [entrant("p", lambda _: ThompsonPolicy())], 2, TIERS) for _ in range(2))
    assert one == two


def test_a_budget_is_met_and_beats_a_coin_between_the_models():
    found = asked(rows(1500, prompts=False), lambda _: BudgetPolicy(Allowance(0.4)), 3)
    assert found.whole.cost.mean == pytest.approx(0.4, rel=0.06)
    assert found.whole.cost.greatest <= 0.42
    assert found.late.above_hull.mean > 0.03


def test_thompson_comes_close_to_the_best_single_model_and_static_is_one():
    table = rows(1500, prompts=False)
    assert asked(table, lambda _: ThompsonPolicy(), 3).whole.regret_single.mean < 0.03 * 1500
    static = asked(table, lambda _: StaticPolicy(), 1)
    assert static.whole.shares["large"].mean == 1.0
    assert static.whole.regret_single.mean == pytest.approx(0.0, abs=1e-9)
    assert static.late.above_single.mean == pytest.approx(0.0, abs=1e-9)


def test_all_contenders_are_measured_by_the_same_rows():
    table = rows(600)
    policy = entrant("guarded", lambda _: GuardedPolicy())
    found = {each.name: each for each in study(table, [policy, *baselines(table)], 2, TIERS)}
    assert [each.kind for each in found.values()] == [
        Kind.POLICY,
        Kind.BASELINE,
        Kind.BASELINE,
        Kind.HULL,
        Kind.CLAIRVOYANT,
        Kind.SINGLE,
        Kind.SINGLE,
    ]
    best = found["always large"].whole
    for each in found.values():
        for part, count in ((each.whole, 600), (each.late, 300)):
            assert sum(share.mean for share in part.shares.values()) == pytest.approx(1)
            assert part.regret_single.mean == pytest.approx(-part.above_single.mean * count)
            assert part.regret_oracle.mean >= part.regret_single.mean
        above = each.whole.reward.mean - best.reward.mean
        assert each.whole.above_single.mean == pytest.approx(above)
    assert found["random"].whole.shares["small"].mean == pytest.approx(0.5, abs=0.05)
    assert found["litellm-beta"].whole.shares["small"].mean > 0.5
    assert found["clairvoyant per key"].whole.reward.mean >= best.reward.mean
    hull = found["static hull, same spend"]
    assert hull.whole.cost == found["guarded"].whole.cost
    assert hull.whole.above_hull.mean == pytest.approx(0, abs=1e-9)


def test_with_a_ceiling_the_clairvoyant_keeps_to_it():
    table = rows(300)
    found = study(table, [entrant("p", lambda _: StaticPolicy())], 1, TIERS._replace(ceiling=0.3))
    assert found[2].kind is Kind.CLAIRVOYANT
    assert found[2].whole.cost.mean == pytest.approx(0.3)


def test_the_trace_of_a_pass_adds_up_to_it():
    found = asked(rows(250), lambda _: ThompsonPolicy(), 2)
    for trace in found.traces:
        assert sum(trace.calls) == 250
        assert sum(map(sum, trace.models.values())) == 250
    rewards = [math.fsum(trace.rewards) / 250 for trace in found.traces]
    assert Estimate.of(rewards).mean == pytest.approx(found.whole.reward.mean)
    costs = [math.fsum(trace.costs) / 250 for trace in found.traces]
    assert Estimate.of(costs).mean == pytest.approx(found.whole.cost.mean)


@pytest.mark.parametrize("ranks", [{}, {"small": 2, "large": 0}], ids=["hidden", "reversed"])
def test_a_tight_budget_is_met_whatever_is_said_of_the_tiers(ranks):
    found = asked(
        rows(900, prompts=False), lambda _: BudgetPolicy(Allowance(0.1)), 4, Yardstick(MODELS, ranks)
    )
    assert found.whole.cost.greatest <= 0.105


def test_of_ten_models_whose_costs_nobody_knows_the_good_ones_that_are_affordable_are_found():
    models = [f"m{i}" for i in range(10)]
    arms = {model: Arm(0.4 + 0.05 * i, 0.001 * 2**i) for i, model in enumerate(models)}
    policy = entrant("p", lambda _: BudgetPolicy(Allowance(0.03)))
    found = study([Row("k", None, arms)] * 600, [policy], 5, Yardstick(models))[0].whole
    assert found.above_hull.least > -0.06  # stuck with the cheapest it would be -0.25
    assert found.cost.greatest <= 0.0315


def test_progress_is_told_after_each_replay():
    told: list[int] = []
    table = rows(9)
    entrants = [entrant("p", lambda _: StaticPolicy()), *baselines(table)]
    study(table, entrants, 2, TIERS, advance=lambda: told.append(1))
    assert len(told) == 6


def test_a_single_row_is_its_own_second_half():
    found = asked(rows(1), lambda _: StaticPolicy(), 1)
    assert found.whole == found.late


def test_an_empty_table_and_one_with_missing_cells_are_refused():
    with pytest.raises(InvalidRequestError, match="at least one row"):
        asked([], lambda _: StaticPolicy(), 1)
    gap = rows(3)
    gap[1] = gap[1]._replace(arms={"small": gap[1].arms["small"]})
    with pytest.raises(InvalidRequestError, match="the same models in every row"):
        asked(gap, lambda _: StaticPolicy(), 1)


def test_an_interval_covers_the_mean_and_one_pass_has_none():
    estimate = Estimate.of([1.0, 2.0, 3.0, 4.0])
    assert estimate.mean == 2.5
    assert estimate.high - estimate.mean == pytest.approx(3.1824 * 1.2910 / 2, rel=0.01)
    assert (estimate.least, estimate.greatest) == (1.0, 4.0)
    assert Estimate.of([1.0]).high == math.inf
    assert Estimate.of([1.0, 2.0]).high == pytest.approx(1.5 + 12.7062 * 0.5, rel=1e-3)

"""What who knows a table could have done: the fair measure of a policy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attune.models.hindsight import clairvoyant, offer, single_models, static_hull, within_latency
from attune.models.simulation import Arm, Row
from support.routing_table import MODELS, rows

POINTS = {"cheap": (0.5, 0.0), "dear": (0.9, 1.0), "below": (0.6, 0.5)}


def test_the_hull_is_the_best_coin_between_two_models():
    middle = static_hull(POINTS, 0.5)
    assert middle.reward == pytest.approx(0.7)
    assert middle.shares == pytest.approx({"cheap": 0.5, "dear": 0.5})
    assert static_hull(POINTS, -1.0).shares == {"cheap": 1.0}
    assert static_hull(POINTS, 9.0)[:2] == (0.9, 1.0)


def test_of_models_at_one_price_the_hull_takes_the_better_and_never_a_dearer_worse_one():
    points = {"a": (0.5, 1.0), "b": (0.8, 1.0), "c": (0.7, 2.0)}
    assert static_hull(points, 5.0).shares == {"b": 1.0}
    assert static_hull(points, 1.0).shares == {"b": 1.0}


point = st.tuples(st.floats(0, 1), st.floats(0, 10))


@given(st.dictionaries(st.text(min_size=1, max_size=3), point, min_size=1, max_size=6), st.floats(0, 10))
def test_no_model_within_the_cost_is_above_the_hull_and_the_shares_earn_what_is_said(points, cost):
    mix = static_hull(points, cost)
    assert all(reward <= mix.reward + 1e-9 for reward, usd in points.values() if usd <= cost)
    assert sum(mix.shares.values()) == pytest.approx(1)
    assert sum(share * points[m][0] for m, share in mix.shares.items()) == pytest.approx(mix.reward)
    assert mix.cost <= max(cost, min(usd for _, usd in points.values()))


def test_the_clairvoyant_knows_the_keys_and_keeps_to_the_ceiling():
    table = rows(600)
    best = clairvoyant(table)
    held = clairvoyant(table, 0.3)
    assert held.cost == pytest.approx(0.3)
    assert max(r for r, _ in single_models(table).values()) <= best.reward
    assert static_hull(single_models(table), 0.3).reward < held.reward < best.reward
    assert sum(held.shares.values()) == pytest.approx(1)
    assert min(held.shares.values()) >= 0


def test_below_the_cheapest_models_the_clairvoyant_takes_those():
    found = clairvoyant(rows(60), 1e-9)
    assert found.shares == pytest.approx({"small": 1.0, "large": 0.0})


def test_a_model_too_slow_at_a_key_is_left_out_there_and_a_key_with_only_slow_ones_keeps_them():
    quick = Row("quick", None, {"large": Arm(1.0, 1.0, 900.0), "small": Arm(0.5, 0.1, 20.0)})
    slow = Row("slow", None, {"large": Arm(1.0, 1.0, 900.0), "small": Arm(0.5, 0.1, 800.0)})
    fast = within_latency([quick, slow], 100.0)
    assert [list(row.arms) for row in fast] == [["small"], MODELS]
    found = offer([quick, slow], 500.0)
    assert (found.best, list(found.fitting), list(found.singles)) == ("small", ["small"], MODELS)
    assert found.oracle == 0.75
    assert offer([quick, slow], 1.0).best == "large"  # none fits: all of them


def test_without_a_limit_everything_is_on_offer_and_the_cheaper_of_equals_is_best():
    row = Row("k", None, {"large": Arm(1.0, 1.0), "small": Arm(1.0, 0.1)})
    found = offer([row])
    assert (found.best, found.oracle, found.fitting) == ("small", 1.0, found.singles)

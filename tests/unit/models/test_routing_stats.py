"""``get_routing_stats``: what happened in a workflow, per model."""

import pytest

from attune.errors import InvalidRequestError
from attune.models.telemetry import TokenUsage
from support.routing import CHEAP, DAY, MODELS, PREMIUM, Program, a_model


def stats(program: Program, *args, **options):
    return program.router.get_routing_stats(*args or ("review",), **options)


def test_a_workflow_without_telemetry_has_no_figures_rather_than_zeros():
    found = stats(Program())
    assert (found.calls, found.success_rate, found.savings_usd, found.models) == (0, None, None, ())
    assert (found.workflow, found.stage, found.days, found.cost_usd) == ("review", None, 7, 0.0)


def test_each_model_has_calls_success_cost_and_latencies():
    program = Program()
    for latency in range(100, 1100, 100):
        program.saw("a/mid", 1, latency=float(latency), cost=2_000_000)
    program.saw("a/mid", 0, 2, cost=None).saw("b/small", 3, latency=50.0, cost=1_000_000)
    mid, small = stats(program).models
    assert (mid.provider, mid.model_id, mid.tier) == ("a", "mid", "capable")
    assert (mid.calls, mid.success_rate, mid.recent_failures) == (12, pytest.approx(10 / 12), 2)
    assert (mid.cost_usd, mid.unknown_cost_calls) == (pytest.approx(0.02), 2)
    assert mid.p50_latency_ms == pytest.approx(500, rel=0.0101)
    assert mid.p95_latency_ms == pytest.approx(900, rel=0.0101)
    assert (small.calls, small.success_rate, small.p50_latency_ms) == (3, 1.0, pytest.approx(50, rel=0.0101))


def test_the_whole_is_the_sum_of_its_models():
    program = Program().saw("a/mid", 8, 2, cost=3_000_000).saw("b/mid", 30, cost=None)
    found = stats(program)
    assert (found.calls, found.success_rate) == (40, pytest.approx(38 / 40))
    assert (found.cost_usd, found.unknown_cost_calls) == (pytest.approx(0.03), 30)
    assert [m.provider for m in found.models] == ["b", "a"]


def test_a_model_that_only_failed_has_no_latency():
    (model,) = stats(Program().saw("a/mid", 0, 3)).models
    assert (model.success_rate, model.p50_latency_ms, model.p95_latency_ms) == (0.0, None, None)


def test_a_stage_shows_its_own_calls_and_the_workflow_those_of_all():
    program = Program().saw("a/mid", 3).saw("a/mid", 2, stage="fix", task="fix_bug", latency=9000.0)
    program.saw("a/mid", 7, workflow="docs")
    assert stats(program).calls == 5
    assert stats(program, "review", "fix").calls == 2
    assert stats(program, "review", stage="check").calls == 3
    assert stats(program, "review", "never").calls == 0
    assert len(stats(program).models) == 1
    assert stats(program).models[0].p95_latency_ms == pytest.approx(9000, rel=0.0101)


def test_the_days_asked_for_are_the_days_counted():
    program = Program()
    for _ in range(8):
        program.saw("a/mid", 1, 1, cost=1_000_000_000)
        program.clock.advance(DAY)
    program.clock.advance(-DAY)
    assert [stats(program, days=days).calls for days in (1, 2, 6, 7)] == [4, 6, 14, 16]
    assert stats(program, days=1).cost_usd == 4
    assert stats(program, days=1).models[0].recent_failures == 2
    assert stats(program).days == 7


@pytest.mark.parametrize("days", [0, -1, 8])
def test_days_beyond_the_window_are_refused(days):
    with pytest.raises(InvalidRequestError, match=f"days must be between 1 and the window of 7, not {days}"):
        stats(Program(), days=days)


def test_the_window_of_the_router_bounds_the_days():
    assert stats(Program(window_days=30), days=30).days == 30
    with pytest.raises(InvalidRequestError, match="the window of 1, not 7"):
        stats(Program(window_days=1))


def test_looking_back_over_fewer_days_forgets_nothing():
    program = Program().saw("a/mid", 5)
    program.clock.advance(3 * DAY)
    assert stats(program, days=1).calls == 0
    assert stats(program).calls == 5
    assert program.decide().ranked[0].sample_size == 5


def test_calls_by_a_higher_tier_than_the_tasks_are_upgrades():
    program = Program().saw("a/small", 4, task="summarize").saw("a/mid", 3, task="summarize")
    program.saw("a/big", 2, task="fix_bug").saw("a/big", 5, task="final_review").saw("a/small", 6)
    assert stats(program).tier_upgrades == 5


# -- savings -------------------------------------------------------------------------------------------

PREMIUM_CALL = (1000 * 4 + 500 * 20) / 1e6
"""USD for the usual 1,000 + 500 tokens at the first premium model of the tests' catalog."""


def test_savings_are_against_the_same_tokens_at_the_first_premium_model():
    program = Program().saw("a/mid", 10, cost=7_000_000)
    assert stats(program).savings_usd == pytest.approx(10 * (PREMIUM_CALL - 0.007))


def test_always_premium_saves_nothing():
    assert stats(Program().saw("a/big", 10, cost=14_000_000)).savings_usd == pytest.approx(0.0)


def test_what_is_dearer_than_premium_is_a_loss():
    assert stats(Program().saw("b/big", 1, cost=100_000_000)).savings_usd < 0


def test_savings_of_several_models_and_stages_add_up():
    program = Program().saw("a/mid", 1, cost=7_000_000).saw("b/small", 1, cost=350_000, stage="fix")
    assert stats(program).savings_usd == pytest.approx(2 * PREMIUM_CALL - 0.00735)


def test_calls_of_unknown_cost_save_nothing_and_lose_nothing():
    program = Program().saw("a/mid", 1, cost=7_000_000)
    known = stats(program).savings_usd
    assert stats(program.saw("a/mid", 9, cost=None)).savings_usd == pytest.approx(known)
    assert stats(Program().saw("a/mid", 9, cost=None)).savings_usd is None


def test_failures_that_cost_nothing_and_used_nothing_do_not_count_as_savings():
    program = Program().saw("a/mid", 1, cost=7_000_000).saw("a/mid", 0, 5, cost=0, usage=None)
    assert stats(program).savings_usd == pytest.approx(PREMIUM_CALL - 0.007)


def test_without_usage_or_a_premium_price_there_is_nothing_to_compare_with():
    assert stats(Program().saw("a/mid", 1, usage=None)).savings_usd is None
    unpriced = Program(*MODELS[:4], a_model("a/big", PREMIUM, prices=None))
    assert stats(unpriced.saw("a/mid", 1)).savings_usd is None
    assert stats(Program(a_model("a/small", CHEAP)).saw("a/small", 1)).savings_usd is None


def test_savings_count_the_tokens_that_were_used():
    program = Program().saw("a/mid", 1, cost=0, usage=TokenUsage(2_000_000, 0))
    assert stats(program).savings_usd == pytest.approx(8.0)


def test_the_evidence_for_leaving_a_tier_is_told_in_words():
    program = Program().saw("a/mid", 8, 12).saw("a/small", 30, 1).saw("a/mid", 20, 1, stage="fix")
    failing = (
        "check: 12 of the last 20 capable calls failed, beyond chance above 10%: at that rate, 1 in 20 runs "
        "of 10,000 calls at most ever looks so"
    )
    assert stats(program).tier_evidence == (failing,)
    assert stats(program, "review", "check").tier_evidence == (
        failing,
        "check: 1 of 31 cheap calls failed, not beyond chance above 10%",
    )
    assert stats(program, "review", "fix").tier_evidence == (
        "fix: 1 of 21 capable calls failed, not beyond chance above 10%",
    )
    assert stats(program, "review", "never").tier_evidence == ()

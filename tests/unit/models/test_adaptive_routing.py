"""The router: which candidates are eligible, which tier is chosen, who comes first, and the errors."""

import pytest

from attune.errors import InvalidRequestError, NoCandidateError, UnknownNameError
from attune.models.adaptive_routing import AdaptiveModelRouter
from attune.models.prices import PricePeriod, PriceSchedule, Rate
from attune.models.registry import ModelRegistry
from attune.models.route_request import RouteRequest
from attune.models.tasks import REALTIME_REQUIRED_TASKS, TASK_TIER_MAP
from attune.models.telemetry import TokenUsage
from attune.testing import FakeClock
from support.routing import (
    CAPABLE,
    CHEAP,
    DAY,
    MODELS,
    PREMIUM,
    Program,
    Resting,
    a_model,
    an_attempt,
    drops,
    said,
)

REALTIME = sorted(REALTIME_REQUIRED_TASKS)


# -- realtime: cost never counts, latency leads --------------------------------------------------------


@pytest.mark.parametrize("task", REALTIME)
def test_a_cost_limit_is_not_applied_to_a_realtime_task(task):
    limited = Program().decide(task_type=task, max_cost=0.0)
    free = Program().decide(task_type=task)
    assert limited.candidates == free.candidates
    assert len(limited.candidates) == len(MODELS)
    assert limited.tier == CAPABLE


def test_a_cost_limit_is_not_applied_to_a_realtime_task_in_any_spelling():
    assert Program().best(task_type=" Live-Coding ", max_cost=0.0) == "a/mid"


def test_a_cost_limit_is_not_applied_to_a_realtime_task_whose_price_is_unknown():
    program = Program(a_model("a/mid", prices=None))
    assert program.best(task_type="chat", max_cost=0.000001) == "a/mid"


@pytest.mark.parametrize("task", REALTIME)
def test_latency_leads_for_a_realtime_task(task):
    program = Program(a_model("a/mid", prices=(0.1, 0.1)), a_model("b/mid", prices=(50, 200)))
    program.saw("a/mid", 50, latency=3000.0, task=task).saw("b/mid", 48, 2, latency=700.0, task=task)
    assert program.best(task_type=task, max_cost=0.001) == "b/mid"
    assert program.best() == "a/mid"


def test_a_realtime_task_is_not_led_by_one_that_always_fails():
    program = Program().saw("a/mid", 0, 9, task="chat").saw("b/mid", 40, latency=2500.0, task="chat")
    assert program.best(task_type="chat") == "b/mid"


def test_a_realtime_task_does_not_go_down_to_a_proven_cheaper_tier():
    program = Program().saw("a/small", 100, latency=50.0, task="chat")
    assert program.decide(task_type="chat").tier == CAPABLE


def test_a_realtime_task_without_a_capable_candidate_goes_up_before_it_goes_down():
    program = Program(availability=Resting("a/mid", "b/mid"))
    assert program.decide(task_type="chat", max_cost=0.0).tier == PREMIUM


def test_other_limits_hold_for_a_realtime_task_too():
    program = Program().saw("a/mid", 20, latency=5000.0, task="chat")
    decision = program.decide(task_type="chat", max_latency_ms=1000, local_only=False)
    assert decision.candidate.label == "b/mid"
    assert "takes about 5000 ms" in drops(decision)["a/mid#api_key"]


# -- the tier of the task ------------------------------------------------------------------------------


@pytest.mark.parametrize("task", sorted(TASK_TIER_MAP))
def test_without_telemetry_the_tier_is_the_tasks(task):
    decision = Program().decide(task_type=task)
    assert decision.tier == decision.base_tier == TASK_TIER_MAP[task]
    assert decision.model.tier == TASK_TIER_MAP[task]
    assert decision.notes == ()


def test_without_a_task_the_tier_is_capable():
    decision = Program().decide()
    assert (decision.tier, decision.why) == (CAPABLE, "capable is the default tier")
    assert decision.notes == ()


def test_an_unknown_task_is_capable_and_a_note_says_so():
    decision = Program().decide(task_type="Bake-Bread")
    assert decision.tier == CAPABLE
    assert decision.notes == ("unknown task 'bake_bread': treated as capable",)


def test_get_best_model_returns_the_id_of_the_decisions_model():
    router = Program().router
    assert router.get_best_model("review", "check") == "mid"
    assert router.get_best_model("review", "check", "summarize") == "small"
    assert router.get_best_model("review", "check", "final_review") == "big"


def test_get_best_model_takes_its_arguments_in_the_documented_order():
    router = Program().router
    assert router.get_best_model("review", "check", None, 0.001, 10_000.0, 0.8) == "small"
    assert router.get_best_model("review", "check", max_cost=0.001) == "small"


def test_the_built_in_catalog_works_without_any_setting():
    router = AdaptiveModelRouter(clock=FakeClock())
    assert router.get_best_model("review", "check", "summarize") == "claude-haiku-5-5"
    assert router.get_best_model("review", "check", "fix_bug") == "claude-sonnet-5-5"
    assert router.get_best_model("review", "check", "final_review") == "claude-opus-5-5"
    local = router.decide(RouteRequest(local_only=True)).candidate
    assert (local.provider, local.credential) == ("local", "none")


# -- cheaper -------------------------------------------------------------------------------------------


def test_a_cost_limit_asks_for_a_cheaper_tier():
    decision = Program().decide(max_cost=0.001)
    assert decision.tier == CHEAP
    assert decision.why == "no capable candidate is available, cheap is next"
    assert set(drops(decision)) == {f"{label}#api_key" for label in ("a/mid", "b/mid", "a/big", "b/big")}


def test_a_cost_limit_that_the_tasks_tier_meets_changes_nothing():
    assert Program().decide(max_cost=0.007).tier == CAPABLE


def test_a_cheaper_tier_must_reach_the_success_rate_that_is_asked_for():
    program = Program().saw("a/small", 21, 9).saw("b/small", 27, 3)
    decision = program.decide(max_cost=0.001, min_success_rate=0.8)
    assert decision.candidate.label == "b/small"
    assert drops(decision)["a/small#api_key"] == "succeeded in 70.0% of 30 calls, below 80.0%"
    assert {c.label for c in program.decide(max_cost=0.001, min_success_rate=0.7).candidates} == {
        "a/small",
        "b/small",
    }


def test_the_success_rate_that_is_asked_for_is_80_percent_unless_told_otherwise():
    program = Program().saw("a/mid", 79, 21)
    assert "a/mid#api_key" not in drops(Program().saw("a/mid", 7, 3).decide())  # it may be chance
    assert "of 10 calls" in drops(Program().saw("a/mid", 4, 6).decide())["a/mid#api_key"]
    assert "below 80.0%" in drops(program.decide())["a/mid#api_key"]
    assert "a/mid#api_key" not in drops(Program().saw("a/mid", 80, 20).decide())


@pytest.mark.parametrize(
    ("successes", "failures", "tier"),
    [(29, 0, CAPABLE), (30, 0, CHEAP), (28, 2, CAPABLE), (29, 1, CHEAP), (90, 10, CHEAP), (85, 15, CAPABLE)],
)
def test_a_cheaper_tier_proves_itself_on_at_least_30_calls(successes, failures, tier):
    program = Program().saw("a/small", successes, failures)
    assert program.decide(min_success_rate=0.8).tier == tier


def test_a_cheaper_tier_that_has_proven_itself_says_on_how_many_calls():
    decision = Program().saw("a/small", 40).decide()
    assert decision.why == (
        "cheap has proven itself on 40 calls here: 40 succeeded, so at least 89% do "
        "(by a test that is wrong 1 time in 20 at most)"
    )
    assert decision.base_tier == CAPABLE


def test_a_proof_elsewhere_is_none_here():
    program = Program().saw("a/small", 100, stage="other").saw("a/small", 100, task="summarize", stage="x")
    assert program.decide().tier == CAPABLE


def test_without_a_success_floor_a_cheaper_tier_must_prove_itself_all_the_same():
    program = Program().saw("a/small", 3, 37)
    assert program.decide(min_success_rate=0.0).tier == CAPABLE
    assert program.saw("b/small", 40).decide(min_success_rate=0.0).tier == CHEAP


def test_a_proof_ends_with_the_window():
    program = Program().saw("a/small", 40)
    program.clock.advance(8 * DAY)
    assert program.decide().tier == CAPABLE
    assert program.saw("a/small", 29).decide().tier == CAPABLE
    assert program.saw("a/small", 1).decide().tier == CHEAP


def test_a_proof_is_left_on_evidence_against_it_and_not_on_a_few_more_failures():
    program = Program().saw("a/small", 90, 10, task="fix_bug")
    assert program.saw("a/small", 0, 2, task="fix_bug").decide(task_type="fix_bug").tier == CHEAP
    assert program.saw("a/small", 0, 8, task="fix_bug").decide(task_type="fix_bug").tier == CAPABLE


def test_a_floor_that_is_higher_than_what_is_proven_keeps_the_tier():
    program = Program().saw("a/small", 40)
    assert program.decide(min_success_rate=0.88).tier == CHEAP
    assert program.decide(min_success_rate=0.891).tier == CAPABLE
    assert program.decide(min_success_rate=1.0).tier == CAPABLE


def test_an_outcome_takes_back_a_proof():
    program = Program().saw("a/small", 40)
    for record in program.records[:8]:
        program.router.correct(record, previous=None, outcome=said(False))
    assert program.decide(min_success_rate=0.75).tier == CAPABLE


def test_a_cheaper_model_does_not_ride_on_what_another_has_proven():
    program = Program().saw("a/small", 31, 1).saw("b/small", 300, stage="elsewhere")
    decision = program.decide()
    assert decision.candidate.label == "a/small"
    notes = {each.model_id + each.provider: each.note for each in decision.ranked}
    assert notes["smallb"] == "its score is higher, but it has not proven itself here"


def test_a_model_that_cannot_answer_at_the_length_that_is_asked_for_is_dropped():
    program = Program(a_model("a/mid", max_output_tokens=1000), a_model("b/mid", max_output_tokens=5000))
    decision = program.decide(max_output_tokens=2000)
    assert decision.candidate.label == "b/mid"
    assert drops(decision)["a/mid#api_key"] == "answers 1000 tokens at most, 2000 are asked for"


def test_a_model_of_two_tiers_that_was_asked_for_needs_no_proof():
    program = Program(a_model("a/m", CHEAP), a_model("b/m"))
    assert {c.label for c in program.decide(model="m").candidates} == {"a/m", "b/m"}


def test_of_two_proven_tiers_the_cheapest_is_chosen():
    program = Program().saw("a/small", 40, task="final_review").saw("a/mid", 40, task="final_review")
    assert program.decide(task_type="final_review").tier == CHEAP


def test_a_proven_cheaper_tier_must_be_available():
    program = Program(availability=Resting("a/small", "b/small")).saw("a/small", 40)
    assert program.decide().tier == CAPABLE


# -- dearer --------------------------------------------------------------------------------------------


def test_a_tier_that_fails_beyond_chance_is_left_upwards():
    program = Program().saw("a/mid", 10, 5).saw("b/mid", 10, 5)
    decision = program.decide(min_success_rate=0.0)
    assert (decision.base_tier, decision.tier) == (CAPABLE, PREMIUM)
    assert decision.why == (
        "upgraded from capable: 10 of the last 30 capable calls failed, beyond chance above 10%: at that "
        "rate, 1 in 20 runs of 10,000 calls at most ever looks so"
    )


@pytest.mark.parametrize(
    ("successes", "failures", "expected", "reason"),
    [
        (0, 9, False, "9 of 9 capable calls failed, too few to tell"),
        (4, 6, True, "6 of the last 10 capable calls failed, beyond chance above 10%"),
        (6, 4, False, "4 of 10 capable calls failed, not beyond chance above 10%"),
        (90, 10, False, "10 of 100 capable calls failed, not beyond chance above 10%"),
        (17, 8, True, "8 of the last 25 capable calls failed, beyond chance above 10%"),
        (20, 30, True, "30 of the last 50 capable calls failed, beyond chance above 10%"),
        (60, 30, False, "30 of 90 capable calls failed, not beyond chance above 10%"),
    ],
)
def test_an_upgrade_is_recommended_beyond_chance_until_it_is_over(successes, failures, expected, reason):
    program = Program().saw("a/mid", successes, failures)
    upgrade = program.router.recommend_tier_upgrade("review", "check")
    should, why = upgrade
    assert should is expected
    assert why.startswith(reason)
    assert bool(upgrade) is expected


def test_a_candidate_that_is_broken_among_others_that_do_well_does_not_cost_the_tier_its_place():
    program = Program().saw("a/mid", 0, 15).saw("b/mid", 20)
    assert program.router.recommend_tier_upgrade("review", "check") == (
        False,
        "15 of the last 35 capable calls failed, but only 0 of the last 20 of b/mid",
    )
    assert program.decide(min_success_rate=0.0).candidate.label == "b/mid"
    assert program.saw("b/mid", 0, 10).router.recommend_tier_upgrade("review", "check")
    assert program.decide(min_success_rate=0.0).tier == PREMIUM


def test_a_tier_whose_failures_are_of_candidates_that_were_dropped_is_not_left():
    program = Program().saw("a/mid", 10, 20)
    assert program.decide(min_success_rate=0.8).candidate.label == "b/mid"
    assert Program(availability=Resting("a/mid")).saw("a/mid", 0, 30).decide().candidate.label == "b/mid"


def test_a_tier_that_failed_is_tried_again_after_a_window_without_calls():
    program = Program().saw("a/mid", 0, 20)
    assert program.decide(min_success_rate=0.0).tier == PREMIUM
    program.clock.advance(8 * DAY)
    assert program.decide(min_success_rate=0.0).tier == CAPABLE
    assert not program.saw("a/mid", 2, 3).router.recommend_tier_upgrade("review", "check")


def test_outcomes_alone_can_leave_a_tier():
    program = Program().saw("a/mid", 40)
    assert not program.router.recommend_tier_upgrade("review", "check")
    for record in program.records[20:]:
        program.router.correct(record, previous=None, outcome=said(False))
    upgrade = program.router.recommend_tier_upgrade("review", "check")
    assert upgrade
    assert "of the last" in upgrade.reason


def test_a_task_that_fails_is_upgraded_alone():
    program = Program().saw("a/mid", 0, 12, task="fix_bug").saw("a/mid", 300, task="refactor")
    assert program.decide(task_type="fix_bug", min_success_rate=0.0).tier == PREMIUM
    assert program.decide(task_type="refactor", min_success_rate=0.0).tier == CAPABLE


def test_the_recommendation_is_pair_and_truth_at_once():
    upgrade = Program().saw("a/mid", 0, 20).router.recommend_tier_upgrade("review", "check")
    assert upgrade
    assert upgrade[0] is upgrade.should_upgrade is True
    assert len(upgrade) == 2


def test_an_upgrade_that_is_recommended_is_what_the_next_decision_does():
    for successes, failures in [(30, 0), (4, 6), (7, 3), (20, 30), (60, 30), (0, 30)]:
        program = Program().saw("a/mid", successes, failures)
        upgrade = program.router.recommend_tier_upgrade("review", "check")
        decision = program.decide(min_success_rate=0.0)
        assert (decision.tier == PREMIUM) is bool(upgrade)


def test_nothing_is_recommended_without_telemetry():
    upgrade = Program().router.recommend_tier_upgrade("review", "check")
    assert upgrade == (False, "no telemetry of review/check in the window")
    program = Program().saw("a/mid", 0, 40)
    program.clock.advance(8 * DAY)
    assert not program.router.recommend_tier_upgrade("review", "check")


def test_there_is_nothing_above_premium():
    upgrade = Program().saw("a/big", 0, 40).router.recommend_tier_upgrade("review", "check")
    assert upgrade == (False, "premium is the highest tier")
    decision = Program().saw("a/big", 0, 40, task="final_review").decide(task_type="final_review")
    assert decision.candidate.label == "b/big"


def test_the_tier_in_question_is_the_one_that_most_calls_used():
    program = Program().saw("a/small", 0, 20).saw("a/mid", 30)
    assert not program.router.recommend_tier_upgrade("review", "check")
    program.saw("b/small", 0, 20)
    assert program.router.recommend_tier_upgrade("review", "check")


def test_the_failures_of_another_tier_do_not_upgrade_the_tasks():
    program = Program().saw("a/small", 0, 50).saw("a/big", 0, 50).saw("a/mid", 19, 1)
    assert program.decide(min_success_rate=0.0).tier == CAPABLE


def test_a_cheap_task_is_upgraded_one_tier_not_two():
    program = Program().saw("a/small", 0, 20, task="summarize")
    assert program.decide(task_type="summarize", min_success_rate=0.0).tier == CAPABLE


def test_no_upgrade_beyond_what_is_available():
    program = Program(availability=Resting("a/big", "b/big")).saw("a/mid", 10, 10)
    assert program.decide(min_success_rate=0.0).tier == CAPABLE


def test_an_upgrade_is_not_bought_beyond_the_cost_limit():
    program = Program().saw("a/mid", 10, 10)
    assert program.decide(min_success_rate=0.0, max_cost=0.01).tier == CAPABLE
    assert program.decide(min_success_rate=0.0, max_cost=1.0).tier == PREMIUM


# -- who comes first -----------------------------------------------------------------------------------


def test_without_telemetry_the_order_of_the_catalog_decides():
    assert [c.label for c in Program().decide().candidates] == [
        "a/mid",
        "b/mid",
        "a/big",
        "b/big",
        "a/small",
        "b/small",
    ]


def test_without_telemetry_the_order_of_tiers_decides():
    program = Program(tiers={CAPABLE: ["b/mid", "a/mid"]})
    assert program.best() == "b/mid"


def test_a_dearer_model_that_is_preferred_is_not_left_for_its_price_before_it_was_tried():
    program = Program(a_model("a/mid", prices=(50, 200)), a_model("b/mid", prices=(0.1, 0.1)))
    assert program.best() == "a/mid"


def test_the_first_success_does_not_send_the_next_call_elsewhere():
    for label, model in (("a/mid", "sonnet"), ("a/big", "opus")):
        tier = "premium" if label == "a/big" else "capable"
        program = Program()
        for _ in range(40):
            assert program.best(tier=tier) == label, model
            program.saw(label, 1, latency=3500.0)


def test_a_tier_that_is_listed_has_only_its_models():
    program = Program(tiers={CAPABLE: ["b/mid"]})
    decision = program.decide()
    assert "a/mid" not in {c.label for c in decision.candidates}
    assert not any(key.startswith("a/mid") for key in drops(decision))
    assert program.best(model="a/mid") == "a/mid"


def test_success_comes_first():
    program = Program().saw("a/mid", 45, 5).saw("b/mid", 50)
    assert program.best() == "b/mid"


def test_latency_tells_equals_apart():
    program = Program().saw("a/mid", 50, latency=4000.0).saw("b/mid", 50, latency=1000.0)
    assert program.best() == "b/mid"


def test_cost_tells_equals_apart():
    program = Program(a_model("a/mid", prices=(2, 10)), a_model("b/mid", prices=(1, 5)))
    program.saw("a/mid", 50).saw("b/mid", 50)
    assert program.best() == "b/mid"


def test_a_model_of_unknown_price_is_not_taken_for_a_free_one():
    program = Program(a_model("a/mid", prices=None), a_model("b/mid", prices=(0.01, 0.01)))
    program.saw("a/mid", 50).saw("b/mid", 50)
    assert program.best() == "b/mid"


def test_recent_failures_count_more_than_old_ones():
    program = Program().saw("a/mid", 5, 0).saw("a/mid", 90, 5).saw("b/mid", 95).saw("b/mid", 0, 5)
    assert program.best() == "a/mid"


def test_two_failures_of_two_calls_send_the_next_call_elsewhere_but_do_not_ban():
    program = Program().saw("a/mid", 0, 2)
    decision = program.decide()
    assert [c.label for c in decision.candidates][:2] == ["b/mid", "a/mid"]


def test_a_new_stage_uses_what_other_stages_know_and_keeps_using_it():
    program = Program().saw("a/mid", 1000, stage="old").saw("b/mid", 900, 100, stage="old")
    for _ in range(15):
        assert program.best(stage="new") == "a/mid"
        program.saw("a/mid", 1, stage="new")


def test_a_failure_in_an_outage_never_improves_the_rank():
    program = Program().saw("a/mid", 0, 20, stage="old")
    ranks = []
    for _ in range(5):
        decision = program.decide(stage="new", min_success_rate=0.0)
        ranks.append(next(r.score for r in decision.ranked if r.model_id == "mid" and r.provider == "a"))
        program.saw("a/mid", 0, 1, stage="new")
    assert ranks == sorted(ranks, reverse=True)


def test_several_credentials_of_a_provider_are_candidates_in_their_order():
    program = Program(credentials={"a": ["plan", "api_key"]})
    decision = program.decide()
    assert [c.key for c in decision.candidates][:2] == ["a/mid#plan", "a/mid#api_key"]
    assert decision.ranked[1].note == "the same model by another credential"
    assert not any(c.provider == "b" for c in decision.candidates)


def test_credentials_share_what_is_known_of_their_model():
    program = Program(credentials={"a": ["plan", "api_key"], "b": ["api_key"]}).saw("a/mid", 45, 5)
    program.saw("b/mid", 50)
    assert [c.key for c in program.decide().candidates][:3] == [
        "b/mid#api_key",
        "a/mid#plan",
        "a/mid#api_key",
    ]


def test_an_outcome_moves_the_next_decision():
    program = Program().saw("a/mid", 10).saw("b/mid", 10)
    assert program.best() == "a/mid"
    program.router.correct(program.records[0], previous=None, outcome=said(False))
    assert program.best() == "b/mid"


def test_a_restored_router_decides_as_the_one_that_saw_it():
    from support.routing import rollup_rows

    program = Program().saw("a/mid", 45, 5).saw("b/mid", 50).saw("a/small", 40, task="fix_bug")
    again = Program(clock=program.clock)
    again.router.restore(rollup_rows(program.records))
    for options in ({}, {"task_type": "fix_bug"}, {"stage": "new"}, {"max_cost": 0.001}):
        before, after = program.decide(**options), again.decide(**options)
        assert after.candidates == before.candidates
        assert after.why == before.why


@pytest.mark.parametrize(("successes", "failures"), [(0, 40), (200, 30), (300, 20), (40, 10)])
def test_a_restored_router_finds_the_same_tiers_failing(successes, failures):
    from support.routing import rollup_rows

    program = Program()
    for _ in range(3):
        program.saw("a/mid", successes, task="fix_bug").saw("a/mid", 0, failures, task="fix_bug")
        program.clock.advance(DAY)
    again = Program(clock=program.clock)
    again.router.restore(rollup_rows(program.records))
    for options in ({}, {"task_type": "fix_bug"}):
        before, after = (each.decide(min_success_rate=0.0, **options) for each in (program, again))
        assert after.tier == before.tier
    upgrade = again.router.recommend_tier_upgrade("review", "check")
    assert bool(upgrade) is bool(program.router.recommend_tier_upgrade("review", "check"))
    again.saw("a/mid", 100, task="fix_bug")
    assert not again.router.recommend_tier_upgrade("review", "check")


def test_a_restored_router_takes_in_outcomes_of_before():
    from support.routing import rollup_rows

    program = Program().saw("a/mid", 40).saw("a/small", 40)
    again = Program(clock=program.clock)
    again.router.restore(rollup_rows(program.records))
    for record in program.records:
        again.router.correct(record, previous=None, outcome=said(False))
    assert again.decide(min_success_rate=0.0).tier == PREMIUM


# -- constraints ---------------------------------------------------------------------------------------


def test_the_cost_is_predicted_from_1000_tokens_in_and_500_out_when_nothing_is_known():
    ranked = {r.model_id: r.predicted_cost_usd for r in Program().decide().ranked}
    assert ranked == {
        "small": pytest.approx(0.00035),
        "mid": pytest.approx(0.007),
        "big": pytest.approx(0.014),
    }


def test_the_cost_is_predicted_from_the_mean_tokens_of_the_stage():
    program = Program().saw("a/mid", 3, usage=TokenUsage(10_000, 100))
    assert program.decide().ranked[0].predicted_cost_usd == pytest.approx(0.021)


def test_the_cost_is_predicted_from_the_size_of_the_call_where_it_is_known():
    ranked = Program().decide(input_tokens=100, max_output_tokens=10).ranked
    assert ranked[0].predicted_cost_usd == pytest.approx(100 * 2e-6 + 10 * 10e-6)
    ranked = Program().decide(input_tokens=100, max_output_tokens=100_0).ranked
    assert ranked[0].predicted_cost_usd == pytest.approx(100 * 2e-6 + 500 * 10e-6)


def test_a_long_prompt_is_predicted_at_its_own_rate():
    long = PricePeriod(0.0, Rate(10**9, ((10_000, 2 * 10**9),)), Rate(10**9))
    model = a_model("a/mid")._replace(prices=PriceSchedule((long,), "test"))
    cost = {n: Program(model).decide(input_tokens=n).ranked[0].predicted_cost_usd for n in (10_000, 10_001)}
    assert cost[10_000] == pytest.approx(10_500e-6)
    assert cost[10_001] == pytest.approx(20_502e-6)


def test_a_candidate_that_is_too_dear_is_dropped_with_both_figures():
    decision = Program().decide(max_cost=0.01)
    assert drops(decision)["a/big#api_key"] == "would cost about $0.014000, above $0.01"


def test_a_candidate_of_unknown_price_cannot_be_held_to_a_cost_limit():
    program = Program(a_model("a/mid", prices=None), a_model("b/mid"))
    assert drops(program.decide(max_cost=1.0)) == {
        "a/mid#api_key": "its price is unknown, so it cannot be held to $1"
    }
    decision = program.decide()
    assert decision.candidate.label == "a/mid"
    assert decision.ranked[0].predicted_cost_usd is None
    assert "cost unknown" in decision.reason


@pytest.mark.parametrize(("calls", "dropped"), [(9, False), (10, True)])
def test_what_never_succeeded_is_dropped_after_ten_calls(calls, dropped):
    found = drops(Program().saw("a/mid", 0, calls).decide())
    assert ("a/mid#api_key" in found) is dropped


def test_a_free_model_fits_a_cost_limit_of_nothing():
    program = Program(a_model("a/mid"), a_model("local/tiny", CHEAP, (0, 0), local=True))
    assert program.best(max_cost=0.0) == "local/tiny"


def test_a_latency_limit_drops_what_is_usually_slower():
    program = Program().saw("a/mid", 10, latency=3000.0).saw("b/mid", 10, latency=800.0)
    decision = program.decide(max_latency_ms=1000)
    assert decision.candidate.label == "b/mid"
    assert drops(decision)["a/mid#api_key"] == "takes about 3000 ms, above 1000 ms"


@pytest.mark.parametrize("calls", [0, 1, 5, 40])
def test_a_latency_limit_never_drops_what_was_always_fast_enough(calls):
    program = Program()
    for model in MODELS:
        program.saw(model.label, calls, latency=200.0)
    assert drops(program.decide(max_latency_ms=500)) == {}


def test_a_failure_alone_says_nothing_of_the_latency():
    assert drops(Program().saw("a/mid", 0, 2).decide(max_latency_ms=500)) == {}


def test_a_prompt_that_does_not_fit_the_window_drops_the_candidate():
    program = Program(a_model("a/mid", context_window=10_000), a_model("b/mid", context_window=50_000))
    decision = program.decide(input_tokens=20_000)
    assert drops(decision) == {"a/mid#api_key": "about 20500 tokens do not fit its 10000"}


def test_the_window_holds_prompt_and_answer_together():
    program = Program(a_model("a/mid", context_window=10_000))
    assert program.best(input_tokens=9500) == "a/mid"
    with pytest.raises(NoCandidateError, match="about 10001 tokens do not fit its 10000"):
        program.decide(input_tokens=9501)
    assert program.best(input_tokens=9990, max_output_tokens=10) == "a/mid"


@pytest.mark.parametrize("ability", ["tools", "vision", "json_schema", "thinking"])
def test_a_model_without_an_ability_that_the_request_needs_is_dropped(ability):
    program = Program(a_model("a/mid", abilities=frozenset()), a_model("b/mid"))
    decision = program.decide(needs=frozenset({ability}))
    assert decision.candidate.label == "b/mid"
    assert drops(decision) == {"a/mid#api_key": f"it lacks {ability}"}


def test_all_missing_abilities_are_named():
    program = Program(a_model("a/mid", abilities=frozenset({"tools"})))
    with pytest.raises(NoCandidateError, match="it lacks thinking, vision"):
        program.decide(needs=frozenset({"tools", "vision", "thinking"}))


# -- who may be asked ----------------------------------------------------------------------------------


def test_a_provider_that_the_request_does_not_allow_is_never_ranked():
    decision = Program().decide(allow_providers=frozenset({"b"}))
    assert {c.provider for c in decision.candidates} == {"b"}
    assert drops(decision)["a/mid#api_key"] == "the provider a is not allowed here"


def test_a_workflow_may_be_bound_to_its_providers():
    program = Program(allow_providers={"review": frozenset({"b"})})
    assert {c.provider for c in program.decide().candidates} == {"b"}
    assert {c.provider for c in program.decide(workflow="docs").candidates} == {"a", "b"}


def test_what_everyone_is_bound_to_binds_each_workflow_too():
    program = Program(allow_providers={"*": frozenset({"a"}), "review": frozenset({"a", "b"})})
    assert {c.provider for c in program.decide().candidates} == {"a"}
    assert {c.provider for c in program.decide(workflow="docs").candidates} == {"a"}


def test_a_request_can_narrow_what_is_allowed_but_not_widen_it():
    program = Program(allow_providers={"review": frozenset({"b"})})
    with pytest.raises(NoCandidateError, match="is not allowed here"):
        program.decide(allow_providers=frozenset({"a"}))


def test_a_routers_allow_list_is_of_whole_names():
    with pytest.raises(InvalidRequestError, match="allow_providers must be a frozenset of names, not 'aa'"):
        Program(allow_providers={"*": "aa"})


def test_an_explicit_model_does_not_reach_a_provider_that_is_not_allowed():
    with pytest.raises(NoCandidateError, match="the provider a is not allowed here"):
        Program().decide(model="a/mid", allow_providers=frozenset({"b"}))
    assert Program().best(model="mid", allow_providers=frozenset({"b"})) == "b/mid"


def test_local_only_keeps_everything_on_this_machine():
    program = Program(a_model("a/mid"), a_model("local/tiny", CHEAP, (0, 0), local=True))
    decision = program.decide(local_only=True, tier="premium")
    assert [c.label for c in decision.candidates] == ["local/tiny"]
    assert decision.candidate.credential == "none"
    assert drops(decision) == {"a/mid#api_key": "it is not local, and only local models are allowed"}


def test_a_router_that_is_local_only_is_so_whatever_a_request_says():
    program = Program(a_model("a/mid"), a_model("local/tiny", CHEAP, (0, 0), local=True), local_only=True)
    assert [c.label for c in program.decide(local_only=False, tier="capable").candidates] == ["local/tiny"]
    with pytest.raises(NoCandidateError, match="only local models are allowed"):
        program.decide(model="a/mid")


def test_local_only_without_a_local_model_is_refused_not_ignored():
    with pytest.raises(NoCandidateError, match="only local models are allowed"):
        Program().decide(local_only=True)


def test_only_enrolled_providers_are_candidates():
    program = Program(credentials={"b": ["api_key"]})
    assert {c.provider for c in program.decide().candidates} == {"b"}


def test_an_allow_list_of_one_request_is_not_remembered_for_the_next():
    program = Program()
    for _ in range(300):
        program.decide(allow_providers=frozenset({"b"}))
        program.decide(local_only=False, needs=frozenset({"tools"}))
    for n in range(300):
        with pytest.raises(NoCandidateError):
            program.decide(allow_providers=frozenset({f"x{n}"}))
    assert program.best() == "a/mid"
    assert len(program.router._eligibility._known) <= 256


# -- failing providers ---------------------------------------------------------------------------------


def test_a_candidate_whose_circuit_is_open_is_excluded_with_its_reason():
    decision = Program(availability=Resting("a/mid")).decide()
    assert decision.candidate.label == "b/mid"
    assert drops(decision)["a/mid#api_key"] == "circuit of a/mid is open"


def test_one_credential_may_rest_while_the_other_is_chosen():
    program = Program(credentials={"a": ["plan", "api_key"]}, availability=Resting("a/mid#plan"))
    assert program.decide().candidate.key == "a/mid#api_key"


def test_nobody_is_asked_about_availability_while_all_is_quiet():
    resting = Resting()
    Program(availability=resting).decide()
    assert resting.asked == []


def test_availability_can_be_left_out_of_a_decision():
    program = Program(availability=Resting(*(m.label for m in MODELS)))
    with pytest.raises(NoCandidateError):
        program.decide()
    request = RouteRequest(workflow="review", stage="check")
    assert program.router.decide(request, heed_availability=False).candidate.label == "a/mid"


def test_a_tier_that_rests_as_a_whole_is_left_upwards_first():
    decision = Program(availability=Resting("a/mid", "b/mid")).decide()
    assert decision.tier == PREMIUM
    assert decision.why == "no capable candidate is available, premium is next"


# -- what the caller fixes -----------------------------------------------------------------------------


def test_an_explicit_tier_is_obeyed():
    for tier in ("cheap", "Capable", " premium "):
        decision = Program().saw("a/small", 100).saw("a/mid", 0, 30).decide(tier=tier)
        assert decision.tier == decision.base_tier == tier.strip().lower()
        assert decision.why == f"the tier {decision.tier} was asked for"


def test_an_explicit_model_is_the_only_candidate():
    decision = Program().saw("a/small", 100).decide(model="a/big")
    assert [c.label for c in decision.candidates] == ["a/big"]
    assert decision.tier == PREMIUM
    assert decision.why == "the model 'a/big' was asked for"
    assert decision.dropped == ()


def test_an_explicit_model_by_its_bare_id_is_looked_for_at_every_provider():
    decision = Program().saw("a/mid", 40, 10).saw("b/mid", 50).decide(model="mid")
    assert [c.label for c in decision.candidates] == ["b/mid", "a/mid"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "a/mit"}, "unknown model 'a/mit'; did you mean 'a/mid'"),
        ({"tier": "premum"}, "unknown tier 'premum'; did you mean 'premium'"),
    ],
)
def test_an_unknown_name_says_which_one_was_meant(options, message):
    with pytest.raises(UnknownNameError, match=message):
        Program().decide(**options)


# -- prices over time ----------------------------------------------------------------------------------


def test_a_price_change_takes_effect_at_its_date():
    clock = FakeClock()
    dearer_at = clock.time() + DAY
    prices = PriceSchedule(
        (PricePeriod(0.0, Rate(10**9), Rate(0)), PricePeriod(dearer_at, Rate(9 * 10**9), Rate(0))), "test"
    )
    program = Program(a_model("a/mid")._replace(prices=prices), clock=clock)
    assert program.decide().ranked[0].predicted_cost_usd == pytest.approx(0.001)
    clock.advance(DAY - 1)
    assert program.decide().ranked[0].predicted_cost_usd == pytest.approx(0.001)
    clock.advance(1)
    assert program.decide().ranked[0].predicted_cost_usd == pytest.approx(0.009)


# -- when nothing fits ---------------------------------------------------------------------------------


def refusal(program: Program, **options) -> NoCandidateError:
    with pytest.raises(NoCandidateError) as caught:
        program.decide(**options)
    return caught.value


def test_when_nothing_fits_the_cheapest_is_the_nearest_to_a_cost_limit():
    models = a_model("a/mid", prices=(9, 9)), a_model("b/mid", prices=(2, 2)), a_model("c/mid", prices=(5, 5))
    error = refusal(Program(*models), max_cost=0.0001)
    assert error.nearest == "b/mid"
    assert error.lacks == "would cost about $0.003000, above $0.0001"
    assert str(error) == f"no candidate fits; the nearest is b/mid#api_key: {error.lacks}"
    assert set(drops(error)) == {"a/mid#api_key", "b/mid#api_key", "c/mid#api_key"}


def test_when_nothing_fits_the_fastest_is_the_nearest_to_a_latency_limit():
    program = Program(*MODELS[2:4]).saw("a/mid", 20, latency=9000.0).saw("b/mid", 20, latency=2000.0)
    error = refusal(program, max_latency_ms=100)
    assert (error.nearest, error.lacks) == ("b/mid", "takes about 2000 ms, above 100 ms")


def test_when_nothing_fits_the_most_reliable_is_the_nearest_to_a_success_rate():
    program = Program(*MODELS[2:4]).saw("a/mid", 5, 15).saw("b/mid", 15, 5)
    error = refusal(program, min_success_rate=0.9)
    assert (error.nearest, error.lacks) == ("b/mid", "succeeded in 75.0% of 20 calls, below 90.0%")


def test_a_limit_that_the_caller_can_move_is_nearer_than_what_a_model_cannot_do():
    program = Program(a_model("a/mid", abilities=frozenset()), a_model("b/mid"))
    error = refusal(program, needs=frozenset({"tools"}), max_cost=0.0001)
    assert error.nearest == "b/mid"
    error = refusal(Program(a_model("a/mid", prices=None), a_model("b/mid")), max_cost=0.0001)
    assert error.nearest == "b/mid"


def test_without_an_enrolled_provider_the_error_says_how_to_get_one():
    error = refusal(Program(credentials={}))
    assert "set a key such as ANTHROPIC_API_KEY" in str(error)
    assert (error.nearest, error.drops) == (None, ())
    assert "no provider is enrolled" in str(refusal(Program(credentials={"b": ["k"]}), model="a/mid"))


# -- looking back --------------------------------------------------------------------------------------


def test_performance_lists_what_was_called_best_first():
    program = Program().saw("a/mid", 20, 20).saw("b/mid", 40).saw("a/small", 1, task="summarize", stage="x")
    found = program.router.performance("review", "check")
    assert [(p.model_id, p.tier, p.sample_size) for p in found] == [("mid", "capable", 40)] * 2
    assert [p.success_rate for p in found] == [1.0, 0.5]
    assert [p.sample_size for p in program.router.performance("review", "x", "Summarize")] == [1]
    assert program.router.performance("never", "seen") == ()


def test_the_score_of_a_decision_is_the_quality_score_of_what_was_seen():
    for calls in (1, 10, 29, 30, 200):
        program = Program().saw("a/mid", calls, latency=1500.0)
        (performance,) = program.router.performance("review", "check")
        ranked = next(r for r in program.decide().ranked if r.sample_size)
        assert ranked.score == pytest.approx(performance.quality_score)


def test_the_window_is_seven_days_unless_told_otherwise():
    assert Program().router.stats.window_days == 7
    program = Program(window_days=1).saw("a/mid", 0, 5)
    program.clock.advance(2 * DAY)
    assert program.best() == "a/mid"
    with pytest.raises(InvalidRequestError, match="window_days"):
        Program(window_days=0)


def test_a_local_model_is_paid_by_nothing_and_a_remote_one_by_its_key():
    router = AdaptiveModelRouter(ModelRegistry([a_model("a/mid"), a_model("l/m", local=True)]))
    assert {c.key for c in router.decide(RouteRequest()).candidates} == {"a/mid#api_key", "l/m#none"}


def test_a_record_of_a_model_that_is_gone_does_no_harm():
    program = Program()
    program.observe(an_attempt("gone/model", False, at=program.clock.time()))
    assert program.best() == "a/mid"


def test_a_realtime_task_whose_only_model_always_failed_still_gets_a_decision():
    program = Program(a_model("a/mid")).saw("a/mid", 0, 40, task="chat")
    assert program.decide(task_type="chat", min_success_rate=0.0).candidate.label == "a/mid"


def test_a_mean_answer_beyond_what_a_model_gives_does_not_drop_it():
    program = Program(a_model("a/mid", context_window=10_000, max_output_tokens=4000))
    program.saw("a/mid", 5, usage=TokenUsage(100, 9_950))
    assert program.decide().candidate.label == "a/mid"

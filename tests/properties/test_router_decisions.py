"""What holds for every decision, whatever was seen and asked before."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attune.errors import NoCandidateError
from attune.models.tasks import REALTIME_REQUIRED_TASKS
from attune.models.telemetry import DecisionRecord
from support.routing import CHEAP, MODELS, PREMIUM, Program, Resting, a_model, drops

CATALOG = (
    *MODELS,
    a_model("c/dear", PREMIUM, (100.0, 400.0)),
    a_model("c/unknown", prices=None),
    a_model("local/tiny", CHEAP, (0.0, 0.0), local=True, context_window=8000, abilities=frozenset()),
)
LABELS = [model.label for model in CATALOG]
TASKS = [None, "summarize", "fix_bug", "final_review", "chat", "bake_bread"]

optional = st.none
requests = st.fixed_dictionaries(
    {
        "stage": st.sampled_from(["check", "write", "new"]),
        "task_type": st.sampled_from(TASKS),
        "tier": optional() | st.sampled_from(["cheap", "capable", "premium"]),
        "max_cost": optional() | st.floats(0, 0.02),
        "max_latency_ms": optional() | st.floats(1, 5000),
        "min_success_rate": st.floats(0, 1),
        "needs": st.sampled_from([frozenset(), frozenset({"tools"})]),
        "input_tokens": optional() | st.integers(0, 120_000),
        "max_output_tokens": optional() | st.integers(1, 8000),
        "allow_providers": optional() | st.frozensets(st.sampled_from("abc"), max_size=3),
        "local_only": st.sampled_from([False, False, False, True]),
    }
)
runs = st.tuples(
    st.sampled_from(LABELS),
    st.integers(0, 35),
    st.integers(0, 12),
    st.fixed_dictionaries(
        {
            "stage": st.sampled_from(["check", "write"]),
            "task": st.sampled_from([task or "" for task in TASKS]),
            "latency": st.floats(1, 20_000),
        }
    ),
)
histories = st.lists(runs, max_size=8)
resting = st.sets(st.sampled_from([*LABELS, "a/mid#plan"]), max_size=4)


def program_of(history, refused=()) -> Program:
    program = Program(
        *CATALOG,
        credentials={"a": ["plan", "api_key"], "b": ["api_key"], "c": ["api_key"], "local": ["none"]},
        availability=Resting(*refused),
    )
    for label, successes, failures, fields in history:
        program.saw(label, successes, failures, **fields)
    return program


def answer(program: Program, options):
    """All that a decision says, or all that its refusal does."""
    try:
        decision = program.decide(**options)
    except NoCandidateError as nothing:
        return str(nothing), nothing.drops
    return decision.record(decision_id="", call_id="", at=0.0)


@given(histories, resting, requests)
@settings(deadline=None)
def test_every_candidate_is_ranked_or_dropped_with_a_reason_none_lost_none_twice(history, refused, options):
    program = program_of(history, refused)
    everyone = sorted(option.candidate.key for option in program.router._options)
    ranked, dropped, nearest = [], {}, None
    try:
        decision = program.decide(**options)
        ranked = [candidate.key for candidate in decision.candidates]
        assert decision.why
        assert all(each.note for each in decision.ranked)
        dropped = drops(decision)
        everyone_once = [*ranked, *(f"{d.provider}/{d.model_id}#{d.credential}" for d in decision.dropped)]
    except NoCandidateError as error:
        nearest, dropped = error, drops(error)
        everyone_once = [key for key, _ in error.drops]
    assert sorted(everyone_once) == everyone
    assert all(dropped.values())
    assert bool(ranked) is (nearest is None)
    if nearest is not None:
        assert (nearest.nearest, nearest.lacks) in {(key.split("#")[0], why) for key, why in dropped.items()}


@given(histories, resting, requests)
@settings(deadline=None)
def test_probabilities_sum_to_1_and_scores_lie_between_0_and_1(history, refused, options):
    try:
        ranked = program_of(history, refused).decide(**options).ranked
    except NoCandidateError:
        return
    assert sum(each.propensity for each in ranked) == 1.0
    assert ranked[0].propensity == 1.0
    assert all(0 <= each.score <= 1 for each in ranked)
    assert all(0 <= each.success_rate <= 1 for each in ranked)


@given(histories, resting, requests, st.lists(requests, max_size=5))
@settings(deadline=None)
def test_asking_changes_nothing_and_the_same_history_gives_the_same_decision(
    history, refused, options, others
):
    program = program_of(history, refused)
    first = answer(program, options)
    for other in others:
        answer(program, other)
        program.router.recommend_tier_upgrade("review", other["stage"])
        program.router.get_routing_stats("review", days=1)
        program.router.performance("review", other["stage"], other["task_type"])
    assert answer(program, options) == first
    assert answer(program_of(history, refused), options) == first


@given(histories, resting, requests)
@settings(deadline=None)
def test_the_chosen_tier_comes_first_and_the_tiers_stay_together(history, refused, options):
    try:
        decision = program_of(history, refused).decide(**options)
    except NoCandidateError:
        return
    tiers = [model.tier for model in decision.models]
    assert tiers[0] == decision.tier
    assert len(list(dict.fromkeys(tiers))) == sum(a != b for a, b in zip(tiers, ["", *tiers], strict=False))


@given(histories, resting, requests)
@settings(deadline=None)
def test_what_is_ranked_meets_every_limit(history, refused, options):
    program = program_of(history, refused)
    try:
        decision = program.decide(**options)
    except NoCandidateError:
        return
    realtime = options["task_type"] in REALTIME_REQUIRED_TASKS
    for model, each in zip(decision.models, decision.ranked, strict=True):
        if options["max_cost"] is not None and not realtime:
            assert each.predicted_cost_usd <= options["max_cost"]
        if options["allow_providers"] is not None:
            assert each.provider in options["allow_providers"]
        assert model.local or not options["local_only"]
        assert options["needs"] <= model.abilities
        assert (options["input_tokens"] or 0) <= model.context_window
        assert not {model.label, f"{model.label}#{each.credential}"} & refused


@given(histories, requests, st.sampled_from(sorted(REALTIME_REQUIRED_TASKS)), st.floats(0, 1))
@settings(deadline=None)
def test_a_cost_limit_never_changes_the_choice_for_a_realtime_task(history, options, task, max_cost):
    program = program_of(history)
    free = answer(program, {**options, "task_type": task, "max_cost": None})
    limited = answer(program, {**options, "task_type": task, "max_cost": max_cost})
    if isinstance(free, DecisionRecord):
        free, limited = (each._replace(features=()) for each in (free, limited))
    assert limited == free


def score_of(program: Program, label: str, **options) -> float:
    ranked = program.decide(min_success_rate=0.0, **options).ranked
    return next(each.score for each in ranked if f"{each.provider}/{each.model_id}" == label)


places = st.fixed_dictionaries(
    {"stage": st.sampled_from(["check", "write"]), "task": st.sampled_from(["", "fix_bug"])}
)


@given(histories, st.sampled_from(LABELS), places, places)
@settings(deadline=None, max_examples=300)
def test_a_fast_success_never_lowers_a_score_anywhere(history, label, seen_at, asked_at):
    history = [(lb, won, failed, {**fields, "latency": 2000.0}) for lb, won, failed, fields in history]
    program = program_of(history)
    asked = {"stage": asked_at["stage"], "task_type": asked_at["task"] or None, "input_tokens": 1000}
    asked["max_output_tokens"] = 500
    before = score_of(program, label, **asked)
    program.saw(label, 1, latency=0.1, **seen_at)
    assert score_of(program, label, **asked) >= before - 1e-9


@given(histories, st.sampled_from(LABELS), places)
@settings(deadline=None, max_examples=300)
def test_a_failure_never_raises_a_score(history, label, place):
    history = [(lb, won, failed, {**fields, "latency": 2000.0}) for lb, won, failed, fields in history]
    program = program_of([(lb, *rest) for lb, *rest in history if lb == label])
    asked = {"stage": place["stage"], "task_type": place["task"] or None, "input_tokens": 1000}
    asked["max_output_tokens"] = 500
    before = score_of(program, label, **asked)
    program.saw(label, 0, 1, **place)
    assert score_of(program, label, **asked) <= before + 1e-9


@given(st.integers(0, 60), st.integers(1, 60))
@settings(deadline=None)
def test_of_two_models_alike_the_one_that_fails_less_comes_first(won, lost):
    program = Program(*MODELS[2:4]).saw("a/mid", won, lost).saw("b/mid", won + lost)
    assert program.best(min_success_rate=0.0) == "b/mid"


@pytest.mark.parametrize("label", LABELS)
def test_every_candidate_can_be_had_by_its_name(label):
    assert program_of([]).decide(model=label).candidate.label == label

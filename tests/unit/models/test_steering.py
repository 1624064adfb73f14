"""Policies that decide calls as they come: what they draw, what they record, and what outcomes teach them."""

import math

import pytest

from attune.errors import InvalidRequestError, UnknownNameError
from attune.models.policies import Allowance
from attune.models.route_request import RouteRequest
from support.live_policies import DrawingProgram
from support.routing import CHEAP, PREMIUM, a_model, an_attempt, rollup_rows, said

GOOD = {"a/mid": 0.9, "b/mid": 0.9, "a/small": 0.9, "b/small": 0.2}
THREE = (a_model("a/small", CHEAP, (0.1, 0.5)), a_model("a/mid"), a_model("a/big", PREMIUM, (4.0, 20.0)))


def vector(decision) -> dict[str, float]:
    return {f"{each.provider}/{each.model_id}": each.propensity for each in decision.ranked}


# -- the table ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["static", "guarded"])
def test_without_outcomes_the_table_decides_whatever_scores_better(policy):
    program = DrawingProgram(policy=policy).saw("a/mid", 40, latency=9000.0).saw("b/mid", 40, latency=10.0)
    decision = program.decide()
    assert decision.candidate.label == "a/mid"
    assert program.decide(policy="best").candidate.label == "b/mid"
    assert sum(vector(decision).values()) == vector(decision)["a/mid"] == 1.0
    assert decision.policy == f"{policy}/1"


def test_guarded_says_that_it_knows_no_outcomes():
    decision = DrawingProgram().decide()
    assert "a/mid: capable is the default tier (guarded: no outcomes yet)" in decision.reason
    others = [each.note for each in decision.ranked[1:]]
    assert others == ["no outcomes are known yet"] * 5


def test_transport_success_is_never_read_as_quality():
    program = DrawingProgram()
    for _ in range(300):
        program.call(judged=False)
        program.saw("a/small", 1)
    assert vector(program.decide())["a/mid"] == 1.0


def test_what_fails_more_than_another_of_its_tier_is_passed_over():
    program = DrawingProgram().saw("a/mid", 85, 15).saw("b/mid", 100)
    decision = program.decide()
    assert decision.candidate.label == "b/mid"
    passed = next(each for each in decision.ranked if (each.provider, each.model_id) == ("a", "mid"))
    assert passed.note == "fails more often than another one of its tier, beyond chance"
    assert DrawingProgram(policy="static").saw("a/mid", 85, 15).saw("b/mid", 100).best() == "a/mid"


def test_a_tier_that_fails_is_left_upwards_and_none_of_it_is_drawn():
    program = DrawingProgram(*THREE, quality={"a/big": 0.9, "a/mid": 0.9}).saw("a/mid", 30, 30)
    for _ in range(20):
        program.call(min_success_rate=0.0)
    decision = program.decide(min_success_rate=0.0)
    assert "upgraded from capable" in decision.why
    assert vector(decision)["a/mid"] == 0.0
    thompson = program.decide(min_success_rate=0.0, policy="thompson")
    assert "upgraded" not in thompson.why
    assert vector(thompson)["a/mid"] > 0.0


def test_a_tier_that_was_asked_for_is_kept():
    decision = DrawingProgram(policy="thompson").decide(tier="cheap")
    assert {label for label, p in vector(decision).items() if p} == {"a/small", "b/small"}


def test_what_may_not_fit_its_window_is_not_drawn():
    small = a_model("a/mid", context_window=20_000)
    program = DrawingProgram(small, a_model("b/mid", context_window=200_000), policy="thompson")
    assert vector(program.decide(input_tokens=15_000))["a/mid"] == 0.0


# -- drawing --------------------------------------------------------------------------------------------


def test_guarded_stages_traffic_to_a_cheaper_model_that_is_as_good():
    program = DrawingProgram(*THREE, quality={"a/small": 0.99, "a/mid": 0.94})
    first = program.shares(100)
    assert 0.8 < first["a/mid"] < 1.0
    program.shares(1500)
    assert program.shares(200)["a/small"] > 0.9
    assert "in place of a/mid" in program.decide().why


def test_guarded_leaves_a_cheaper_model_that_is_worse_and_says_so():
    program = DrawingProgram(*THREE, quality={"a/small": 0.4, "a/mid": 0.95})
    program.shares(2000)
    decision = program.decide()
    note = next(each.note for each in decision.ranked if each.model_id == "small")
    assert decision.candidate.label == "a/mid"
    assert "worse" in note
    assert "a/mid by more than 0.05" in note


def test_what_is_drawn_has_the_frequency_that_is_recorded():
    program = DrawingProgram(policy="thompson", quality=GOOD)
    program.shares(50)
    expected = vector(program.decide())
    counts = dict.fromkeys(expected, 0)
    for _ in range(4000):
        counts[program.decide().candidate.label] += 1
    for label, p in expected.items():
        assert abs(counts[label] / 4000 - p) < 5 * math.sqrt(p * (1 - p) / 4000) + 1e-9


@pytest.mark.parametrize("policy", ["guarded", "thompson", "budget"])
def test_the_vector_sums_to_1_and_the_drawn_one_stands_first(policy):
    program = DrawingProgram(policy=policy, quality=GOOD, budget=Allowance(0.002))
    for _ in range(200):
        decision = program.call()
        assert math.isclose(sum(vector(decision).values()), 1.0)
        assert decision.ranked[0].propensity > 0
        record = dict(decision.record(decision_id="d", call_id="c", at=0.0).features)
        assert record["table"] == "a/mid"


def test_an_explored_choice_says_how_probable_it_was():
    program = DrawingProgram(*THREE, quality=GOOD)
    decisions = [program.call() for _ in range(300)]
    explored = [each for each in decisions if each.candidate.label == "a/small"]
    assert explored
    assert all(f"drawn with p = {each.ranked[0].propensity:.3g}" in each.reason for each in explored)


def test_credentials_of_one_model_are_one_choice():
    program = DrawingProgram(policy="thompson", credentials={"a": ["plan", "api_key"], "b": ["api_key"]})
    program.shares(30)
    decision = program.decide()
    assert math.isclose(sum(each.propensity for each in decision.ranked), 1.0)
    assert {
        each.propensity for each in decision.ranked if each.credential == "api_key" and each.provider == "a"
    } == {0.0}


@pytest.mark.parametrize("task", ["chat", "live_coding"])
def test_realtime_tasks_never_explore(task):
    program = DrawingProgram(policy="thompson", quality=GOOD)
    program.shares(50)
    for _ in range(50):
        decision = program.decide(task_type=task)
        assert decision.ranked[0].propensity == 1.0
        assert decision.policy == "best/1"


def test_exploring_can_be_turned_off_for_all_calls_or_one():
    program = DrawingProgram(*THREE, policy="thompson", quality=GOOD)
    program.shares(100)
    assert max(vector(program.decide()).values()) < 1.0
    assert max(vector(program.decide(explore=False)).values()) == 1.0
    never = DrawingProgram(*THREE, policy="thompson", explore=False)
    assert {never.call().candidate.label for _ in range(20)} == {never.decide().candidate.label}
    assert max(vector(never.decide(explore=True)).values()) == 1.0


def test_a_conversation_stays_with_what_it_drew():
    program = DrawingProgram(policy="thompson", quality=GOOD)
    program.shares(100)
    for session in range(20):
        chosen = {program.decide(session_id=f"s{session}").candidate.label for _ in range(10)}
        assert len(chosen) == 1
    drawn = [program.decide(session_id=f"s{n}").candidate.label for n in range(400)]
    expected = vector(program.decide())
    for label, p in expected.items():
        assert abs(drawn.count(label) / 400 - p) < 5 * math.sqrt(p * (1 - p) / 400) + 1e-9


def test_signed_reasoning_moves_a_draw_to_its_provider_in_the_same_tier():
    program = DrawingProgram(policy="thompson", quality=GOOD)
    program.shares(100)
    free, held = vector(program.decide()), vector(program.decide(bound_to="b"))
    for tier in ("small", "mid", "big"):
        assert held[f"a/{tier}"] == 0.0
        assert math.isclose(held[f"b/{tier}"], free[f"a/{tier}"] + free[f"b/{tier}"])


# -- policies by name -----------------------------------------------------------------------------------


def test_an_unknown_policy_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownNameError, match="guarded"):
        RouteRequest(policy="garded")
    with pytest.raises(UnknownNameError, match="thompson"):
        DrawingProgram(policy="tompson")


def test_the_budget_policy_needs_dollars():
    with pytest.raises(InvalidRequestError, match="budget_usd"):
        DrawingProgram().decide(policy="budget")


def test_a_request_may_name_its_policy():
    program = DrawingProgram()
    assert program.decide(policy="thompson").policy == "thompson/1"
    assert program.decide().policy == "guarded/1"


def test_the_budget_policy_keeps_to_its_ceiling_on_live_calls():
    program = DrawingProgram(
        *THREE,
        policy="budget",
        quality={"a/small": 0.6, "a/mid": 0.8, "a/big": 0.95},
        budget=Allowance(0.002),
    )
    prices = {"a/small": 0.00035, "a/mid": 0.0035, "a/big": 0.014}
    spent = 0.0
    for _ in range(1500):
        decision = program.decide(min_success_rate=0.0)
        label = decision.candidate.label
        spent += prices[label]
        program.calls += 1
        record = an_attempt(
            label, at=program.clock.time(), cost=int(prices[label] * 1e9), call_id=f"c{program.calls}"
        )
        program.router.steering.begun(decision.drawn, record.call_id, record.at)
        program.observe(record)
        program.judge(decision, record, program._answers.random() < program.quality[label])
    assert 0.8 < spent / 1500 / 0.002 < 1.06


def booked(cost: int | None, *more: int) -> float:
    """The balance after a call whose attempts cost so many nano-dollars."""
    program = DrawingProgram(*THREE, policy="budget", budget=Allowance(0.01))
    decision = program.decide()
    program.router.steering.begun(decision.drawn, "call", 0.0)
    for position, nanos in enumerate((cost, *more)):
        record = an_attempt(decision.candidate.label, at=0.0, cost=nanos)
        program.observe(record._replace(position=position, chosen_by_policy=not position))
    return program.router.steering._policies["budget"]._allowance.balance


def test_a_budget_pays_for_every_attempt_of_a_call_and_for_what_is_unknown_as_predicted():
    assert booked(2_000_000) == pytest.approx(0.008)
    assert booked(2_000_000, 3_000_000) == pytest.approx(0.005)
    assert booked(None) < 0.01 - 0.0003


def test_what_is_under_way_counts_as_harm_that_may_be_done():
    program = DrawingProgram(*THREE, quality={"a/mid": 1.0, "a/small": 1.0})
    program.shares(30)
    sent = 0
    for number in range(300):  # none of which has ended
        decision = program.decide()
        program.router.steering.begun(decision.drawn, f"open{number}", 0.0)
        sent += decision.candidate.label != "a/mid"
    assert sent <= 2.5 + 0.05 * 330 + 5


# -- learning -------------------------------------------------------------------------------------------


def test_only_what_the_policy_chose_teaches_it():
    program = DrawingProgram(*THREE)
    decision = program.decide()
    for number in range(200):
        for label, good in (("a/mid", True), ("a/small", False)):
            record = an_attempt(label, at=program.clock.time(), call_id=f"{label}{number}")
            program.judge(decision, record._replace(chosen_by_policy=label == "a/mid"), good)
    beliefs = dict(
        zip(
            ("a/mid", "a/small"),
            program.router.steering.learner.evidence.beliefs(
                ("*", "review", "check", ""), ("a/mid", "a/small")
            ),
            strict=True,
        )
    )
    assert beliefs["a/mid"].calls > 190
    assert beliefs["a/small"].calls == 0


def test_a_later_word_replaces_an_earlier_one_and_teaches_the_policy_once():
    program = DrawingProgram(*THREE)
    decision = program.decide()
    record = an_attempt("a/mid", at=program.clock.time())
    program.observe(record)
    program.judge(decision, record, True)
    told = program.router.steering.tell()
    evidence = program.router.steering.learner.evidence
    before = evidence.beliefs(("*", "review", "check", ""), ("a/mid",))[0]
    program.judge(decision, record, False, previous=said(True))
    after = evidence.beliefs(("*", "review", "check", ""), ("a/mid",))[0]
    assert after.calls == before.calls == 1
    assert after.mean < before.mean
    assert program.router.steering.tell() == told


def test_what_another_version_decided_teaches_no_policy():
    program = DrawingProgram(*THREE)
    record = an_attempt("a/mid", at=program.clock.time())
    decided = program.decide().decided._replace(policy="guarded/0")
    program.router.correct(record, previous=None, outcome=said(True), decided=decided)
    assert program.router.steering.tell() == {}
    assert program.router.steering.labelled


def test_roll_ups_of_two_tiers_of_one_model_are_added_up():
    program = DrawingProgram(*THREE)
    [row] = rollup_rows([an_attempt("a/mid", at=0.0)])
    rows = [row._replace(drawn=10, drawn_sum=9.0), row._replace(tier="cheap", drawn=5, drawn_sum=1.0)]
    program.router.steering.restore(rows)
    [belief] = program.router.steering.learner.evidence.beliefs(("*", "review", "check", ""), ("a/mid",))
    assert belief.calls == pytest.approx(15)
    assert belief.mean == pytest.approx(10 / 15, abs=0.05)


def test_a_change_is_told_with_what_the_policies_learned_and_heard_by_the_next_program():
    program = DrawingProgram(*THREE, policy="thompson")
    decision = program.decide()
    for number in range(120):
        record = an_attempt("a/mid", at=program.clock.time() + number, call_id=f"c{number}")
        program.judge(decision, record, number < 60)
    totals: dict = {}
    add(totals, program.router.steering.tell())
    after = DrawingProgram(*THREE, policy="thompson")
    after.router.steering.hear(totals)
    for each in (program, after):
        assert [p.model for p in each.decide().drawn.prospects if p.changed] == ["a/mid"]


# -- several processes ----------------------------------------------------------------------------------


def add(totals: dict, changes: dict) -> None:
    for name, change in changes.items():
        known = totals.get(name, [0.0] * len(change))
        totals[name] = [a + b for a, b in zip(known, change, strict=True)]


def test_two_programs_that_tell_each_other_know_as_much_as_one_that_made_all_calls():
    both = [DrawingProgram(*THREE, quality=GOOD) for _ in range(2)]
    totals: dict = {}
    for _ in range(30):
        for program in both:
            program.shares(20)
            add(totals, program.router.steering.tell())
            program.router.steering.hear(totals)
    both[0].router.steering.hear(totals)
    rules = [program.decide().drawn.rule for program in both]
    assert rules[0] == rules[1]
    assert totals["a/mid\t\t0"] == [1200 - 2, 1200]  # before the first reward no call counts


def test_what_was_told_in_vain_is_told_again():
    program = DrawingProgram(*THREE, quality=GOOD)
    program.shares(20)
    lost = program.router.steering.tell()
    program.shares(20)
    totals: dict = {}
    add(totals, program.router.steering.tell())
    assert totals["a/mid\t\t0"][0] == 39
    assert lost["a/mid\t\t0"][0] == 19
    program.router.steering.hear(totals)
    assert program.router.steering.tell() == {}


def test_what_comes_between_telling_and_hearing_is_kept():
    program = DrawingProgram(*THREE, quality=GOOD)
    program.shares(20)
    totals: dict = {}
    add(totals, program.router.steering.tell())
    program.shares(10)
    program.router.steering.hear(totals)
    add(totals, program.router.steering.tell())
    assert totals["a/mid\t\t0"][0] == 29

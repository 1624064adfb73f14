"""What a decision says of itself: ranks, drops, notes, the record for the ledger."""

import pytest

from attune.models.candidate import Candidate
from attune.models.option import Option
from attune.models.prices import FREE, PricePeriod, PriceSchedule, Rate
from attune.models.route_decision import TierUpgrade
from support.routing import CAPABLE, Program, Resting, a_model, drops


def test_a_candidate_is_named_by_label_and_by_key():
    candidate = Candidate("openrouter", "meta/llama", "api_key")
    assert candidate.label == "openrouter/meta/llama"
    assert candidate.key == str(candidate) == "openrouter/meta/llama#api_key"


def test_an_upgrade_unpacks_and_is_truthy_exactly_when_it_should():
    for should in (True, False):
        upgrade = TierUpgrade(should, "because")
        assert bool(upgrade) is should
        assert tuple(upgrade) == (should, "because")


def test_candidates_models_and_ranks_are_in_one_order():
    decision = Program().saw("b/mid", 50).decide()
    labels = [candidate.label for candidate in decision.candidates]
    assert labels == [model.label for model in decision.models]
    assert labels == [f"{r.provider}/{r.model_id}" for r in decision.ranked]
    assert labels[0] == decision.model.label == decision.candidate.label == "b/mid"


def test_the_chosen_one_has_all_the_probability():
    decision = Program().decide()
    assert [r.propensity for r in decision.ranked] == [1.0, 0, 0, 0, 0, 0]


def test_a_rank_shows_the_parts_of_its_score():
    program = Program().saw("a/mid", 27, 3, latency=400.0).saw("a/mid", 9, 1, latency=400.0)
    ranked = next(r for r in program.decide().ranked if r.sample_size)
    assert (ranked.sample_size, ranked.recent_failures) == (40, 1)
    assert (ranked.success_rate, ranked.avg_latency_ms) == (0.9, 400)
    assert ranked.predicted_cost_usd == pytest.approx(0.007)
    assert (ranked.tier, ranked.credential) == ("capable", "api_key")


def test_every_rank_says_why_it_did_not_come_first():
    program = Program(credentials={"a": ["plan", "key"], "b": ["key"]}).saw("b/mid", 45, 5).saw("a/mid", 50)
    notes = {f"{r.provider}/{r.model_id}#{r.credential}": r.note for r in program.decide().ranked}
    assert notes["a/mid#plan"] == "chosen: capable is the default tier"
    assert notes["a/mid#key"] == "the same model by another credential"
    assert notes["b/mid#key"].startswith("its score is 0.")
    assert notes["b/mid#key"].endswith(" lower")
    assert notes["a/big#plan"] == "its tier is premium, the chosen one capable"


def test_among_equals_the_note_names_the_order_of_preference():
    assert Program().decide().ranked[1].note == "comes later in the order of preference"
    assert Program().decide(task_type="chat").ranked[1].note == "comes later in the order of preference"


def test_for_a_realtime_task_the_note_tells_of_time_not_of_the_score():
    program = Program(a_model("a/mid", prices=(0.1, 0.1)), a_model("b/mid", prices=(50, 200)))
    program.saw("a/mid", 50, latency=3000.0, task="chat").saw("b/mid", 50, latency=700.0, task="chat")
    first, second = program.decide(task_type="chat").ranked
    assert second.score > first.score - 0.2
    assert second.note == "takes about 3000 ms and succeeds in 100.0%"


def test_a_drop_carries_who_and_why():
    dropped = Program(availability=Resting("a/mid")).decide().dropped
    assert dropped == (("a", "mid", "api_key", "capable", "circuit of a/mid is open"),)


def test_the_reason_is_one_line_with_the_figures():
    assert Program().decide().reason == (
        "a/mid: capable is the default tier; score 0.780 (not yet tried here), about $0.007000"
    )
    assert "(30 tried here)" in Program().saw("a/mid", 30).decide().reason
    assert repr(Program().decide()) == f"<RouteDecision {Program().decide().reason}>"


def test_the_record_holds_the_whole_decision():
    program = Program(availability=Resting("b/mid"))
    decision = program.decide(
        task_type="Fix-It",
        max_cost=0.01,
        max_latency_ms=9000.0,
        min_success_rate=0.5,
        input_tokens=100,
        max_output_tokens=50,
        needs=frozenset({"vision", "tools"}),
    )
    record = decision.record(decision_id="d1", call_id="c1", at=12.5)
    assert (record.decision_id, record.call_id, record.at) == ("d1", "c1", 12.5)
    assert (record.workflow, record.stage, record.task_type) == ("review", "check", "fix_it")
    assert (record.base_tier, record.tier, record.policy) == (CAPABLE, CAPABLE, "best/1")
    assert (record.reason, record.ranked, record.dropped) == (
        decision.reason,
        decision.ranked,
        decision.dropped,
    )
    assert record.notes == ("unknown task 'fix_it': treated as capable; did you mean 'fix_bug'?",)
    assert dict(record.features) == {
        "input_tokens": "100",
        "max_output_tokens": "50",
        "max_cost": "0.01",
        "max_latency_ms": "9000.0",
        "min_success_rate": "0.5",
        "needs": "tools,vision",
    }


def test_the_record_names_what_the_caller_fixed():
    features = dict(Program().decide(model="a/big").record(decision_id="", call_id="", at=0).features)
    assert features == {"min_success_rate": "0.8", "model": "a/big"}
    record = Program().decide(tier="premium").record(decision_id="", call_id="", at=0)
    assert dict(record.features)["tier"] == "premium"
    assert record.task_type == ""


def test_a_decision_keeps_saying_what_it_said_when_it_was_made():
    program = Program()
    decision = program.decide()
    before = decision.record(decision_id="", call_id="", at=0)
    program.saw("a/mid", 0, 50)
    assert decision.record(decision_id="", call_id="", at=0) == before
    assert program.decide().candidate.label == "b/mid"
    assert "a/mid#api_key" not in drops(decision)


# -- the price of an option ----------------------------------------------------------------------------


def test_an_option_knows_when_its_price_changes_next():
    periods = tuple(PricePeriod(start, Rate(int(start)), Rate(0)) for start in (0.0, 100.0, 200.0))
    option = Option(a_model("a/m")._replace(prices=PriceSchedule(periods, "test")), "key")
    assert option.reprice(0.0) == 100
    assert option.reprice(100.0) == 200
    assert option.reprice(200.0) == float("inf")
    assert option.cost(1e15, 0, 200.0) == pytest.approx(200.0)


def test_an_option_without_prices_costs_what_nobody_knows():
    option = Option(a_model("a/m", prices=None), "key")
    assert option.reprice(0.0) == float("inf")
    assert option.cost(1000, 500, 0.0) is None


def test_an_option_that_is_free_costs_nothing():
    option = Option(a_model("a/m")._replace(prices=FREE), "none")
    option.reprice(0.0)
    assert option.cost(1000, 500, 0.0) == 0.0


def test_a_threshold_of_either_rate_makes_the_whole_call_dearer():
    rates = Rate(10**9, ((1000, 3 * 10**9),)), Rate(10**9, ((500, 2 * 10**9),))
    option = Option(a_model("a/m")._replace(prices=PriceSchedule((PricePeriod(0.0, *rates),), "t")), "key")
    option.reprice(0.0)
    assert option.dearer_above == 500
    assert option.cost(500, 10, 0.0) == pytest.approx(510e-6)
    assert option.cost(501, 10, 0.0) == pytest.approx(521e-6)
    assert option.cost(1001, 10, 0.0) == pytest.approx(3003e-6 + 20e-6)

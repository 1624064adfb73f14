"""What prompt caches change in a decision: predicted costs, where a conversation stays, what is told."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attune.errors import NoCandidateError
from attune.models.explanation import flips
from attune.models.prices import FREE, PriceSchedule, cost_nanos, price_table
from attune.models.registry import ModelTier
from attune.models.telemetry import NANOS_PER_USD, TokenUsage
from support.routing import Program, a_model, an_attempt

CACHING = PriceSchedule.flat(2, 10, cache_read_price="0.1", cache_write_price="2.5", cache_write_1h_price=4)


def priced(label: str, input_price: float, read: float | None = None, write: float | None = None, **fields):
    """A model with an output price of five times its input's."""
    prices = PriceSchedule.flat(input_price, 5 * input_price, cache_read_price=read, cache_write_price=write)
    return a_model(label, **fields)._replace(prices=prices)


def conversed(program: Program, label: str, *usages: TokenUsage, session: str = "s", **fields) -> Program:
    """Let the router see turns of a conversation, a minute apart."""
    for usage in usages:
        record = an_attempt(label, at=program.clock.time(), usage=usage, **fields)
        program.observe(record._replace(session_id=session))
        program.clock.advance(60)
    return program


def known(program: Program, *labels: str, calls: int = 40) -> Program:
    """Let the router see calls of all of them that went alike."""
    for label in labels:
        program.saw(label, calls, usage=TokenUsage(10_000, 100), cost=None)
    return program


TURNS = (TokenUsage(10_000, 100, 0, 10_000), TokenUsage(11_000, 100, 10_000, 1_000))


def of(decision, label: str):
    return next(each for each in decision.ranked if f"{each.provider}/{each.model_id}" == label)


def test_the_predicted_cost_is_what_the_ledger_computes_for_the_predicted_usage():
    program = Program(a_model("a/mid")._replace(prices=CACHING))
    conversed(program, "a/mid", *TURNS)
    scored = of(program.decide(session_id="s", input_tokens=12_000, max_output_tokens=100), "a/mid")
    usage = TokenUsage(12_000, 100, 11_000, 1_000)
    assert scored.predicted_cost_usd == pytest.approx(cost_nanos(usage, CACHING, 0.0) / NANOS_PER_USD)
    assert scored.cached_tokens == 11_000


def test_what_is_written_for_an_hour_is_predicted_at_its_price():
    program = Program(a_model("a/mid")._replace(prices=CACHING))
    conversed(
        program, "a/mid", *(usage._replace(cache_write_1h_tokens=usage.cache_write_tokens) for usage in TURNS)
    )
    program.clock.advance(1800)
    scored = of(program.decide(session_id="s", input_tokens=12_000, max_output_tokens=100), "a/mid")
    usage = TokenUsage(12_000, 100, 11_000, 1_000, 1_000)
    assert scored.predicted_cost_usd == pytest.approx(cost_nanos(usage, CACHING, 0.0) / NANOS_PER_USD)


def test_a_long_prompt_is_predicted_at_its_dearer_prices():
    haiku = Program().router.registry.models[0]._replace(context_window=400_000)
    prices = price_table().schedules["anthropic/claude-haiku-5-5"]
    program = Program(haiku._replace(id="mid", provider="a", tier=ModelTier.CAPABLE, prices=prices))
    conversed(program, "a/mid", TokenUsage(120_000, 100, 0, 120_000))
    decision = program.decide(session_id="s", input_tokens=130_000, max_output_tokens=100)
    usage = TokenUsage(130_000, 100, 120_000, 10_000)
    expected = cost_nanos(usage, prices, program.clock.time()) / NANOS_PER_USD
    assert of(decision, "a/mid").predicted_cost_usd == pytest.approx(expected)


def test_a_limit_on_the_cost_counts_what_the_cache_saves():
    program = Program(priced("a/mid", 2, 0.1))
    conversed(program, "a/mid", TokenUsage(10_000, 100, 9_000), TokenUsage(11_000, 100, 9_984))
    limit = {"input_tokens": 12_000, "max_output_tokens": 100, "max_cost": 0.01}
    assert program.best(session_id="s", **limit) == "a/mid"
    with pytest.raises(NoCandidateError, match=r"0\.025"):
        program.decide(session_id="another", **limit)


SIZE = {"session_id": "s", "input_tokens": 12_000, "max_output_tokens": 100}
"""At $2 a million 0.025 without a cache, about 0.005 with that of ``TURNS``."""


@pytest.mark.parametrize(("other_price", "stays"), [(1.9, True), (0.6, True), (0.3, False), (0.05, False)])
def test_a_conversation_moves_when_another_one_is_cheaper_even_with_the_whole_prompt_read_again(
    other_price, stays
):
    program = known(Program(priced("a/mid", 2, 0.1, 2.5), priced("b/mid", other_price)), "a/mid", "b/mid")
    without = program.decide(**SIZE)
    assert without.candidate.label == "b/mid" or other_price == 1.9, "before it has begun, the cheaper one"
    for n in range(40):  # whatever a session draws
        conversed(program, "a/mid", *TURNS, session=f"s{n}")
        decision = program.decide(**{**SIZE, "session_id": f"s{n}"})
        assert decision.candidate.label == ("a/mid" if stays else "b/mid")
    chosen, other = of(decision, "a/mid"), of(decision, "b/mid")
    assert (chosen.predicted_cost_usd < other.predicted_cost_usd) is stays


@given(
    st.floats(0.05, 10),
    st.floats(0.05, 10),
    st.floats(0.01, 1),
    st.integers(2_000, 90_000),
    st.text(max_size=4),
)
@settings(deadline=None, max_examples=50)
def test_of_two_that_are_alike_a_conversation_goes_where_its_turn_costs_least(
    own, other, read, size, session
):
    program = known(Program(priced("a/mid", own, own * read, own), priced("b/mid", other)), "a/mid", "b/mid")
    conversed(program, "a/mid", TokenUsage(size, 100, 0, size), session="s" + session)
    decision = program.decide(session_id="s" + session, input_tokens=size + 500, max_output_tokens=100)
    costs = [each.predicted_cost_usd for each in decision.ranked]
    assert costs[0] <= 1.1 * min(costs) * (1 + 1e-9), "which is what counts as alike"
    if costs[0] > min(costs):
        assert decision.candidate.label == "a/mid", "where it is cached"


def test_where_a_conversation_stays_because_that_is_cheaper_it_says_what_leaving_costs():
    program = known(Program(priced("a/mid", 2, 0.1, 2.5), priced("b/mid", 2)), "a/mid", "b/mid")
    conversed(program, "a/mid", *TURNS)
    decision = program.decide(**SIZE)
    stays, leaves = of(decision, "a/mid"), of(decision, "b/mid")
    more = leaves.predicted_cost_usd - stays.predicted_cost_usd
    assert f"11,000 of 12,000 tokens from its cache; leaving costs about ${more:.6f} more" in decision.reason
    assert "about 11,000 of 12,000 tokens from its cache" in stays.note
    assert leaves.cached_tokens == 0
    assert "cache" not in leaves.note
    assert "cache" not in program.decide(**{**SIZE, "session_id": "new"}).reason.replace("a/mid", "")


def test_what_has_no_cache_to_leave_says_nothing_of_leaving():
    program = Program(priced("a/mid", 2, 0.1, 2.5))
    conversed(program, "a/mid", *TURNS)
    reason = program.decide(**SIZE).reason
    assert "from its cache" in reason
    assert "leaving" not in reason


def test_sessions_without_a_cache_are_shared_by_candidates_that_are_alike_as_before():
    program = known(Program(priced("a/mid", 2, 0.1, 2.5), priced("b/mid", 2)), "a/mid", "b/mid")
    conversed(program, "a/mid", *TURNS, workflow="another", stage="stage")
    share = Counter(program.best(**{**SIZE, "session_id": f"s{n}"}) for n in range(200))
    assert min(share["a/mid"], share["b/mid"]) > 60


def test_a_conversation_in_two_caches_stays_where_more_of_it_is():
    program = known(Program(priced("a/mid", 2, 2), priced("b/mid", 2, 2)), "a/mid", "b/mid")
    for n in range(20):
        conversed(program, "b/mid", *TURNS, session=f"s{n}")
        conversed(program, "a/mid", TURNS[0], session=f"s{n}")
        assert program.best(**{**SIZE, "session_id": f"s{n}"}) == "b/mid"


def test_a_realtime_conversation_stays_in_its_cache_while_that_is_as_quick():
    program = Program(priced("a/mid", 2, 0.1, 2.5), priced("b/mid", 2))
    program.saw("a/mid", 40, latency=1000, task="chat").saw("b/mid", 40, latency=900, task="chat")
    for n in range(20):
        conversed(program, "a/mid", *TURNS, session=f"s{n}", task="chat")
        assert program.best(**{**SIZE, "session_id": f"s{n}"}, task_type="chat") == "a/mid"
    program.saw("b/mid", 400, latency=100, task="chat")
    assert program.best(**{**SIZE, "session_id": "s19"}, task_type="chat") == "b/mid"


def test_what_its_cache_decided_has_no_thresholds_by_the_score():
    program = known(Program(priced("a/mid", 2, 0.1, 2.5), priced("b/mid", 2)), "a/mid", "b/mid")
    conversed(program, "a/mid", *TURNS)
    assert flips(program.decide(**SIZE).record(decision_id="d", call_id="c", at=0.0)) == ()


@pytest.mark.parametrize("policy", ["guarded", "thompson"])
def test_a_policy_that_draws_goes_by_the_cost_with_the_cache(policy):
    program = known(Program(priced("a/mid", 2, 0.1, 2.5), policy=policy), "a/mid")
    conversed(program, "a/mid", *TURNS)
    decision = program.decide(**SIZE)
    assert of(decision, "a/mid").predicted_cost_usd < 0.006
    assert "11,000 of 12,000 tokens from its cache" in decision.reason
    assert decision.ranked[0].cached_tokens == 11_000


def test_calls_of_a_stage_that_share_a_system_prompt_are_predicted_with_it():
    program = Program(priced("a/mid", 2, 0.1))
    for _ in range(10):
        conversed(program, "a/mid", TokenUsage(10_000, 100, 8_000), session="")
    scored = of(program.decide(input_tokens=10_000, max_output_tokens=100), "a/mid")
    assert scored.cached_tokens == pytest.approx(8_000, rel=0.01)
    assert scored.predicted_cost_usd == pytest.approx((2_000 * 2 + 8_000 * 0.1 + 100 * 10) / 1e6, rel=0.01)


def test_the_estimate_of_a_prompt_is_remembered_from_the_decision_to_the_attempt():
    program = Program(priced("a/mid", 2, 0.1, 2.5))
    conversed(program, "a/mid", TokenUsage(5_000, 100, 0, 5_000))
    for n in range(1, 6):  # as if each token of ours were half of one of theirs
        size, real = 10_000 + n * 1_000, 5_000 + n * 500
        decision = program.decide(session_id="s", input_tokens=size)
        program.router.begun(decision, f"c{n}", program.clock.time())
        usage = TokenUsage(real, 100, real - 500, 500)
        conversed(program, "a/mid", usage, call_id=f"c{n}")
    decision = program.decide(session_id="s", input_tokens=16_000)
    assert of(decision, "a/mid").cached_tokens == pytest.approx(15_000)


def test_what_a_plan_pays_for_is_worth_the_less_the_more_is_cached():
    program = Program(a_model("a/mid")._replace(prices=FREE, list_prices=CACHING))
    conversed(program, "a/mid", *TURNS)
    scored = of(program.decide(**SIZE), "a/mid")
    usage = TokenUsage(12_000, 100, 11_000, 1_000)
    assert scored.list_usd == pytest.approx(cost_nanos(usage, CACHING, 0.0) / NANOS_PER_USD)
    assert scored.predicted_cost_usd == 0


def test_an_unknown_price_stays_unknown():
    program = Program(a_model("a/mid", prices=None))
    conversed(program, "a/mid", *TURNS)
    decision = program.decide(**SIZE)
    assert of(decision, "a/mid").predicted_cost_usd is None
    assert "leaving" not in decision.reason


def test_thresholds_are_of_the_cost_with_the_cache():
    program = known(Program(priced("a/mid", 2, 0.1, 2.5), priced("b/mid", 2)), "a/mid", "b/mid")
    for _ in range(10):
        conversed(program, "a/mid", TokenUsage(12_000, 100, 9_000, 1_000), session="")
    size = {"input_tokens": 12_000, "max_output_tokens": 100}
    decision = program.decide(**size)
    found = flips(decision.record(decision_id="d", call_id="c", at=0.0))
    [flip] = [each for each in found if (each.candidate, each.quantity) == ("a/mid", "cost")]
    assert flip.value == of(decision, "a/mid").predicted_cost_usd < 0.01
    assert flip.instead == "b/mid"
    other = of(decision, "b/mid").predicted_cost_usd
    assert flip.threshold == pytest.approx(other, rel=1e-6), "they are alike but for the cost"

"""The thresholds of a decision: crossing one by a millionth flips the choice, stopping short of it does not.

The choice is made again here from what was recorded, by formulas of this file's own.
"""

import json
import math

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from attune.models.explanation import flips
from attune.models.performance import quality
from attune.models.policies import Allowance, Prospect, Setting, draw, rule_of
from support.live_policies import DrawingProgram
from support.routing import CHEAP, MODELS, PREMIUM, TIER_OF, Program, a_model

A_MILLIONTH = 1e-6
MODELS_AND_ONE_MORE = (*MODELS, a_model("c/mid", prices=(1.0, 4.0)), a_model("c/tiny", CHEAP, (0.01, 0.04)))

seen = st.lists(
    st.tuples(
        st.sampled_from([model.label for model in MODELS]),
        st.integers(0, 40),
        st.integers(0, 10),
        st.floats(50, 9000),
    ),
    max_size=6,
)


def label(scored) -> str:
    return f"{scored.provider}/{scored.model_id}"


def by_score(record, moved: str, which: str, value: float) -> str:
    """The choice of the policy "best", with one quantity of one candidate moved."""
    features = dict(record.features)
    best, most = "", -math.inf
    tiers = ["cheap", "capable", "premium"]
    chosen = tiers.index(record.tier)
    # the chosen tier first, then those above it, near to far, then those below; with a cost limit below first
    above, below = tiers[chosen + 1 :], list(reversed(tiers[:chosen]))
    order = [record.tier, *((*below, *above) if "max_cost" in features else (*above, *below))]
    for each in record.ranked:
        success, latency, cost = each.success_rate, each.avg_latency_ms, each.predicted_cost_usd
        if label(each) == moved:
            success, latency, cost = (
                value if which == name else old
                for name, old in (("success", success), ("latency", latency), ("cost", cost))
            )
        if "max_cost" in features and cost > float(features["max_cost"]):
            continue
        if each.sample_size >= 30:
            if latency > float(features.get("max_latency_ms", "inf")):
                continue
            if success < float(features.get("min_success_rate", "0")):
                continue
        score = quality(success, latency, cost, each.recent_failures, each.known) - order.index(each.tier)
        if score > most:
            best, most = label(each), score
    return best


def drawn_again(record, moved: str, which: str, value: float) -> str:
    """The choice of a policy that draws, with the draw as it was."""
    features = dict(record.features)
    prospects = []
    for each in record.ranked:
        if each.belief is None:  # it was not to be drawn
            continue
        mean, sd, calls, ability_sd, changed = each.belief
        cost = each.predicted_cost_usd
        if label(each) == moved:
            mean, cost = (value if which == "success" else mean), (value if which == "cost" else cost)
        rank = ["cheap", "capable", "premium"].index(each.tier)
        prospects.append(Prospect(label(each), mean, sd, calls, cost, rank, each.score, changed, ability_sd))
    prospects.sort(key=lambda p: (p.model != features["table"], p.model))
    rule = rule_of(json.loads(features["rule"]))
    vector = rule.probabilities(prospects, Setting((), 0.0))
    return prospects[draw(vector, float(features["draw"]))].model


def crosses(record, choose) -> int:
    """Check every threshold of a record; returns how many there were."""
    found = flips(record)
    winner = label(record.ranked[0])
    thresholds = 0
    for flip in found:
        if flip.threshold is None:
            continue
        thresholds += 1
        away = math.copysign(1.0, flip.threshold - flip.value)
        step = A_MILLIONTH * (1.0 if flip.quantity == "success" else max(flip.threshold, flip.value))
        short, over = flip.threshold - away * step, flip.threshold + away * step
        if (short - flip.value) * away > 0:
            assert choose(record, flip.candidate, flip.quantity, short) == winner, flip
        assert choose(record, flip.candidate, flip.quantity, max(over, 0.0)) == flip.instead != winner, flip
    return thresholds


@given(seen, st.sampled_from([None, 0.003, 0.0071, 0.02]), st.sampled_from([None, 900.0, 4000.0]))
@settings(deadline=None)
def test_a_choice_by_the_score_flips_where_it_says(history, max_cost, max_latency_ms):
    program = Program(*MODELS_AND_ONE_MORE)
    for name, successes, failures, latency in history:
        program.saw(name, successes, failures, latency=latency)
    try:
        decision = program.decide(max_cost=max_cost, max_latency_ms=max_latency_ms, min_success_rate=0.5)
    except LookupError:
        return
    record = decision.record(decision_id="d", call_id="c", at=0.0)
    assume(by_score(record, "", "", 0.0) == label(record.ranked[0]))
    crosses(record, by_score)


@given(
    st.sampled_from(["guarded", "thompson", "budget"]),
    st.integers(1, 60),
    st.lists(st.floats(0.3, 1.0), min_size=len(TIER_OF), max_size=len(TIER_OF)),
)
@settings(deadline=None, max_examples=30)
def test_a_draw_flips_where_it_says(policy, calls, qualities):
    program = DrawingProgram(
        *MODELS, policy=policy, quality=dict(zip(TIER_OF, qualities, strict=True)), budget=Allowance(0.004)
    )
    program.shares(calls)
    record = program.decide().record(decision_id="d", call_id="c", at=0.0)
    assert drawn_again(record, "", "", 0.0) == label(record.ranked[0])
    crosses(record, drawn_again)


def test_there_are_thresholds_for_the_winner_and_for_the_others():
    program = Program(a_model("a/mid"), a_model("b/mid", prices=(2.0, 9.0)), a_model("a/big", PREMIUM))
    program.saw("a/mid", 40, 1).saw("b/mid", 40, 2)
    record = program.decide(max_cost=0.01).record(decision_id="d", call_id="c", at=0.0)
    assert crosses(record, by_score) >= 5
    of_the_premium = [flip for flip in flips(record) if flip.candidate == "a/big"]
    assert {(flip.threshold, flip.instead) for flip in of_the_premium} == {(None, "")}


def test_a_choice_that_the_conversation_made_has_no_thresholds():
    program = Program().saw("a/mid", 40).saw("b/mid", 40)
    held = [program.decide(session_id=f"s{n}") for n in range(20)]
    elsewhere = next(each for each in held if each.candidate.label == "b/mid")
    assert flips(elsewhere.record(decision_id="d", call_id="c", at=0.0)) == ()

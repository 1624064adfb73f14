"""How long answers are, learned from those that came."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attune.models.answer_length import ENOUGH_ANSWERS, AnswerLength
from attune.models.auth_strategy import MIN_OUTPUT_TOKENS, AuthFacts, AuthMode, AuthStrategy
from attune.models.telemetry import TokenUsage
from unit.stores.ledger_records import FAILED, attempt


def answers(*pairs):
    """Attempts by the tokens of their prompts and answers."""
    return [attempt(f"c{n}", usage=TokenUsage(*pair)) for n, pair in enumerate(pairs)]


def test_of_few_answers_nothing_is_said_and_failures_and_empty_ones_are_none():
    few = answers(*[(1000 * n, 50) for n in range(1, ENOUGH_ANSWERS)])
    others = [attempt("f", **FAILED), attempt("u", usage=None), attempt("e", usage=TokenUsage(10, 0))]
    assert AnswerLength.learned([*few, *others]) is None
    assert AnswerLength.learned([*few, *answers((9, 50))]) == pytest.approx((50, 0))


@pytest.mark.parametrize(("fixed", "share"), [(300, 0), (0, 0.25), (200, 1.5)])
def test_a_length_that_follows_the_rule_is_found(fixed, share):
    found = AnswerLength.learned(answers(*[(x, fixed + share * x) for x in range(100, 5000, 300)]))
    assert found == pytest.approx((fixed, share), abs=1e-6)
    assert found.tokens(1000) == round(fixed + 1000 * share)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 10**5)), min_size=10, max_size=30))
def test_whatever_came_no_answer_is_expected_to_be_shorter_than_nothing(pairs):
    found = AnswerLength.learned(answers(*pairs))
    assert found is not None
    assert min(found) >= 0
    most = max(answer for _, answer in pairs)
    assert found.fixed <= most * (1 + 1e-9)


@pytest.mark.parametrize(
    ("fixed", "share", "noise"), [(400, 0, 0.5), (2500, 0, 0.5), (0, 0.05, 0.4), (200, 0.3, 0.5), (0, 1, 0.3)]
)
def test_ten_answers_are_enough_for_the_sum_of_those_to_come_to_be_within_a_quarter(fixed, share, noise):
    """In 97 of 100 samples of 40 modules, by their cost at 1 to 5; each teaches those after it."""
    within = 0
    for seed in range(100):
        rng, known, estimated, paid = random.Random(seed), [], 0.0, 0.0
        for _ in range(40):
            prompt = round(rng.lognormvariate(7.2, 0.8))
            answer = max(1, round((fixed + share * prompt) * rng.lognormvariate(0, noise)))
            if (learned := AnswerLength.learned(known)) is not None:
                estimated += prompt + 5 * learned.tokens(prompt)
                paid += prompt + 5 * answer
            known += answers((prompt, answer))
        within += abs(estimated / paid - 1) <= 0.25
    assert within >= 97


def test_an_estimate_takes_the_length_that_was_learned_in_place_of_the_assumed_one():
    strategy = AuthStrategy()
    assumed = strategy.estimate_cost(10, AuthMode.API, input_tokens=1000)
    assert assumed.output_tokens == MIN_OUTPUT_TOKENS
    found = strategy.estimate_cost(
        10, AuthMode.API, input_tokens=1000, facts=AuthFacts(answers=AnswerLength(20.0, 0.1))
    )
    assert found.output_tokens == 120
    assert found.cost_usd < assumed.cost_usd
    endless = AuthFacts(answers=AnswerLength(1e9, 0.0))
    limited = strategy.estimate_cost(10, AuthMode.API, input_tokens=1000, facts=endless)
    assert limited.output_tokens < 1e6

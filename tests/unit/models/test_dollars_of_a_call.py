"""``budget_usd``: what all attempts of a call can cost together, at most."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attune.errors import AllProvidersFailedError, BudgetExhaustedError, StreamBrokenError
from attune.models.budget import CallBudget, CallLimits
from attune.models.prices import PriceSchedule, cost_nanos
from attune.models.request import ExecutionContext, LLMRequest
from attune.models.retry import RetryPolicy
from attune.models.telemetry import NANOS_PER_USD, TokenUsage
from attune.testing import Reply
from support.pipeline import Fleet

LONG = LLMRequest.from_prompt("x" * 4000)


async def test_an_answer_is_asked_to_be_no_longer_than_the_dollars_pay_for():
    fleet = Fleet("a/m")
    await fleet.executor.run(LONG, ExecutionContext(budget_usd=0.004))
    [received] = fleet["a"].received
    # 1,500 tokens in at $1 a million are $0.0015: $0.0025 are left for the answer, at $5 a million.
    assert received.request.max_output_tokens == 500
    await fleet.executor.run(LONG, ExecutionContext(budget_usd=1.0))
    assert fleet["a"].received[-1].request.max_output_tokens == 4000, "the model's own limit"
    await fleet.executor.run(LONG)
    assert fleet["a"].received[-1].request.max_output_tokens is None, "nobody set a limit"


async def test_dollars_that_do_not_pay_for_the_prompt_ask_nobody():
    fleet = Fleet("a/m")
    with pytest.raises(BudgetExhaustedError, match=r"budget of \$0\.001") as caught:
        await fleet.executor.run(LONG, ExecutionContext(budget_usd=0.001))
    assert caught.value.limit == "cost"
    assert not fleet.asked


async def test_an_attempt_of_unknown_cost_uses_up_all_that_was_held_for_it():
    fleet = Fleet("a/m", "b/m", retry=RetryPolicy(max_repeats=0))
    fleet["a"].then(Reply((), usage=None, error=StreamBrokenError("cut"), error_after=0))
    with pytest.raises((AllProvidersFailedError, BudgetExhaustedError)):
        await fleet.executor.run(LONG, ExecutionContext(budget_usd=0.004))
    assert fleet.asked == 1
    assert fleet.records[0].cost_status == "unknown"


@given(
    budget=st.floats(1e-7, 1.0),
    price_in=st.floats(0.01, 50),
    price_out=st.floats(0.01, 200),
    tokens=st.lists(st.tuples(st.integers(0, 50_000), st.integers(1, 8000)), min_size=1, max_size=5),
)
def test_what_is_held_never_passes_the_budget_and_the_answer_it_pays_for_costs_no_more(
    budget, price_in, price_out, tokens
):
    prices = PriceSchedule.flat(price_in, price_out)
    call = CallBudget(CallLimits(), now=0.0, budget_usd=budget)
    held = 0
    for prompt, longest in tokens:
        try:
            hold = call.hold(prices, prompt, longest, 0.0)
        except BudgetExhaustedError:
            continue
        assert 1 <= hold.longest <= longest
        assert cost_nanos(TokenUsage(prompt, hold.longest), prices, 0.0) == hold.nanos
        held += hold.nanos
    assert held <= round(budget * NANOS_PER_USD)

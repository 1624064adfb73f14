"""The record of an attempt that a plan pays for: it costs nothing, and says what it is worth."""

from __future__ import annotations

import pytest

from attune.errors import TransientError
from attune.models.adaptive_routing import AdaptiveModelRouter
from attune.models.attempt_runner import AttemptRunner
from attune.models.empathy_executor import EmpathyLLMExecutor
from attune.models.prices import FREE, PriceSchedule, cost_nanos
from attune.models.registry import ModelRegistry, ModelTier
from attune.models.telemetry import CostStatus, TokenUsage
from attune.testing import FakeClock, FakeProvider, Reply
from support.pipeline import ASK, a_model
from unit.stores.ledger_records import attempt

LIST = PriceSchedule.flat(2, 10)._replace(version="list")
OF_A_PLAN = a_model("p/m")._replace(prices=FREE, list_prices=LIST)
USAGE = TokenUsage(100, 50, 20)


async def asked(reply, model=OF_A_PLAN):
    """The response or the error of one call, and its record."""
    clock, records = FakeClock(), []
    provider = FakeProvider("p", [reply], sleep=clock.sleep)
    runner = AttemptRunner([provider], clock=clock, record=records.append)
    try:
        found = await EmpathyLLMExecutor(provider, model, runner=runner).run(ASK)
    except TransientError as error:
        found = error
    return found, records[0]


async def test_it_costs_nothing_exactly_and_its_worth_is_the_list_price_of_its_usage():
    response, record = await asked(Reply("hello", usage=USAGE))
    assert (record.cost_nanos, record.cost_status) == (0, CostStatus.EXACT)
    assert record.list_cost_nanos == cost_nanos(USAGE, LIST, record.at) == 700_000
    assert record.price_version == "list", "which the worth was computed with"
    assert (response.list_cost_nanos, response.cost_usd) == (700_000, 0.0)
    assert response.list_cost_usd == pytest.approx(0.0007)


async def test_an_answer_without_a_usage_is_worth_what_it_is_estimated_to_have_used():
    _, record = await asked(Reply("hello there", usage=None))
    assert record.usage is not None
    assert record.list_cost_nanos == cost_nanos(record.usage, LIST, record.at) > 0


async def test_nothing_is_known_of_the_worth_of_what_was_not_answered_or_not_paid_by_a_plan():
    _, failed = await asked(TransientError("503", status=503))
    assert (failed.cost_nanos, failed.list_cost_nanos) == (0, None)
    response, paid = await asked(Reply("hello", usage=USAGE), a_model("p/m"))
    assert (paid.list_cost_nanos, response.list_cost_nanos, response.list_cost_usd) == (None, None, None)


def test_what_was_saved_is_against_the_list_price_where_the_first_premium_model_is_a_plans():
    premium = OF_A_PLAN._replace(id="best", tier=ModelTier.PREMIUM)
    clock = FakeClock()
    router = AdaptiveModelRouter(ModelRegistry([premium, OF_A_PLAN]), clock=clock)
    router.observe(
        attempt(at=clock.time(), provider="p", model_id="m", cost_nanos=0, usage=TokenUsage(10**6, 10**5))
    )
    assert router.get_routing_stats("review").savings_usd == pytest.approx(3.0)

"""What a call may be narrowed to from outside: the models, and dollars of its own."""

from __future__ import annotations

import pytest

from attune.errors import BudgetExhaustedError, NoCandidateError
from attune.models.request import ExecutionContext
from attune.models.route_request import RouteRequest
from attune.models.spending import SpendCap
from support.pipeline import ASK, COST, Fleet


class Leases:
    """A ``LeaseStore`` that remembers."""

    def __init__(self) -> None:
        self.held: dict[str, int] = {}
        self.settled: dict[str, int] = {}

    async def reserve(self, resource, amount, *, limit, window_start, ttl_s, now):
        if sum(self.held.values()) + amount > limit:
            return None
        lease = f"{resource}-{len(self.held) + len(self.settled)}"
        self.held[lease] = amount
        return lease

    def settle(self, lease_id, amount):
        if self.held.pop(lease_id, None) is not None:
            self.settled[lease_id] = amount

    def used(self, resource, window_start):
        return sum(self.held.values()) + sum(self.settled.values())


async def test_only_allowed_models_answer_and_the_decision_says_why_not_the_others():
    fleet = Fleet("a/m", "b/m")
    context = ExecutionContext(allow_models=["b/m"], account="key-1")
    assert (await fleet.executor.run(ASK, context)).provider == "b"
    decision = fleet.decisions[-1]
    assert [(each.provider, each.reason) for each in decision.dropped] == [
        ("a", "the model is not allowed here")
    ]
    assert dict(decision.features)["account"] == "key-1"
    assert dict(decision.features)["allow_models"] == "b/m"
    with pytest.raises(NoCandidateError, match="not allowed here"):
        await fleet.executor.run(ASK, ExecutionContext(allow_models=frozenset()))


def test_what_is_allowed_is_part_of_what_is_remembered_of_a_request():
    fleet = Fleet("a/m", "b/m")
    for _ in range(2):
        assert fleet.router.decide(RouteRequest(allow_models=frozenset({"b/m"}))).candidate.provider == "b"
        assert fleet.router.decide(RouteRequest()).candidate.provider == "a"


async def test_a_calls_own_cap_holds_beside_the_spend_cap_and_both_are_settled():
    everyone, own = Leases(), Leases()
    fleet = Fleet("a/m", spend_cap=None)
    fleet.runner._spend_cap = SpendCap(everyone, fleet.clock, usd_per_day=1.0)
    cap = SpendCap(own, fleet.clock, usd_per_day=1.0)
    await fleet.executor.run(ASK, cap=cap)
    async with fleet.executor.stream(ASK, cap=cap) as events:
        async for _ in events:
            pass
    assert list(own.settled.values()) == list(everyone.settled.values()) == [COST, COST]
    assert not own.held
    assert not everyone.held


async def test_a_cap_that_is_full_refuses_and_gives_back_what_the_other_held():
    everyone, own = Leases(), Leases()
    fleet = Fleet("a/m")
    fleet.runner._spend_cap = SpendCap(everyone, fleet.clock, usd_per_day=1e-9)
    with pytest.raises(BudgetExhaustedError, match="spend cap"):
        await fleet.executor.run(ASK, cap=SpendCap(own, fleet.clock, usd_per_day=1.0))
    assert not fleet.asked
    assert not own.held
    assert list(own.settled.values()) == [0]

"""Whatever the chain of candidates and whatever their answers: a call keeps to its budgets and its books."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from attune.errors import (
    AllProvidersFailedError,
    AttuneError,
    BudgetExhaustedError,
    CallerError,
    ConnectionFailedError,
    ContextTooLongError,
    CredentialError,
    ModelUnavailableError,
    MoneyGoneError,
    ProviderError,
    RefusalError,
    StreamBrokenError,
    ThrottledError,
    TransientError,
    WindowSpentError,
)
from attune.models.budget import CallLimits
from attune.models.executor import EventKind, TextDelta
from attune.models.failure_domains import BreakerLimits
from attune.models.fallback import FallbackPolicy, FallbackStrategy
from attune.models.prices import PriceSchedule
from attune.models.registry import ModelTier
from attune.models.request import ExecutionContext
from attune.models.retry import RetryPolicy
from attune.testing import Reply
from support.pipeline import ASK, STREAM, Fleet, a_model

KINDS = [
    CallerError,
    ConnectionFailedError,
    ContextTooLongError,
    CredentialError,
    ModelUnavailableError,
    MoneyGoneError,
    RefusalError,
    StreamBrokenError,
    ThrottledError,
    TransientError,
    WindowSpentError,
]

errors = st.builds(
    lambda kind, status, retry_after: kind("failed", status=status, retry_after=retry_after),
    st.sampled_from(KINDS),
    st.sampled_from([None, 500]),
    st.sampled_from([None, 0.0, 0.5, 20.0, 1000.0]),
)
replies = st.builds(
    lambda text, error, after, stop, head_s: Reply(
        text,
        error=error,
        error_after=None if error is None else after,
        stop_reason=stop,
        head_s=head_s,
        usage=None if len(text) == 1 else Reply().usage,
    ),
    st.lists(st.sampled_from(["one ", "two ", "three "]), max_size=3).map(tuple),
    st.none() | errors,
    st.none() | st.integers(0, 3),
    st.sampled_from(["stop", "length", "refusal", "context_window"]),
    st.sampled_from([0.0, 0.1, 30.0]),
)
# Mostly failures, else few calls would get far.
answers = st.one_of(errors, errors, errors, replies)
models = st.builds(
    lambda provider, number, tier, window, price: a_model(
        f"{provider}/m{number}",
        tier,
        window=window,
        prices=None if price is None else PriceSchedule.flat(price, price),
    ),
    st.sampled_from("abc"),
    st.integers(0, 2),
    st.sampled_from(ModelTier),
    st.sampled_from([1000, 100_000]),
    st.sampled_from([None, 0, 1, 50]),
)


@st.composite
def fleets(draw):
    chain = draw(st.lists(models, min_size=1, max_size=6, unique_by=lambda model: model.label))
    strategies = tuple(draw(st.lists(st.sampled_from(list(FallbackStrategy)[:-1]), unique=True)))
    fleet = Fleet(
        *chain,
        credentials={each.provider: draw(st.sampled_from([("key",), ("key", "plan")])) for each in chain},
        scripts={f"{p}#{c}": draw(st.lists(answers, max_size=5)) for p in "abc" for c in ("key", "plan")},
        breaker=BreakerLimits(draw(st.integers(1, 3)), draw(st.sampled_from([1.0, 60.0]))),
        fallback=FallbackPolicy(strategies) if strategies else FallbackPolicy(),
        retry=RetryPolicy(draw(st.integers(0, 3)), cap_s=draw(st.sampled_from([0.0, 8.0, 100.0]))),
        limits=CallLimits(max_attempts=draw(st.integers(1, 6))),
        hedge=draw(st.sampled_from(["off", "p95"])),
    )
    for each in chain:  # each is known to give its first content within 50 ms
        for _ in range(20):
            fleet.executor.first_content_times.learn("", each.label, 50.0)
    return fleet


contexts = st.builds(
    ExecutionContext,
    tier=st.none() | st.sampled_from(ModelTier),
    deadline_s=st.sampled_from([None, 0.2, 25.0, 100.0]),
    budget_usd=st.sampled_from([None, None, 0.0, 0.001, 0.01]),
)


async def ask(fleet, context, streaming):
    """The text that the caller got, the response, and the error."""
    got = ""
    try:
        if not streaming:
            response = await fleet.executor.run(ASK, context)
            return response.text, response, None
        async with fleet.executor.stream(STREAM, context) as events:
            async for event in events:
                if isinstance(event.parsed, TextDelta):
                    got += event.parsed.text
                assert event.kind is not EventKind.TERMINAL or events.response is not None
        return got, events.response, None
    except AttuneError as error:
        return got, None, error


def check_the_attempts(fleet, before):
    """What was sent is what was recorded, within the budgets; nothing is left taken."""
    assert len(fleet.records) == fleet.asked <= before + fleet.executor.limits.max_attempts
    assert fleet.nothing_is_taken()
    mine = fleet.records[before:]
    begun = sorted(mine, key=lambda record: record.position)  # of two at a time the second may end first
    assert [record.position for record in begun] == list(range(len(mine)))
    assert not any(record.chosen_by_policy for record in begun[1:])
    assert {record.call_id for record in mine} <= {fleet.decisions[-1].call_id}
    if begun and begun[0].chosen_by_policy:
        first = fleet.decisions[-1].ranked[0]
        assert (begun[0].provider, begun[0].model_id) == (first.provider, first.model_id)
    return mine


@settings(max_examples=300, deadline=None)
@given(fleet=fleets(), context=contexts, streaming=st.booleans())
def test_a_call_keeps_to_its_attempts_its_time_and_its_books(fleet, context, streaming):
    for _ in range(3):
        before, start = len(fleet.records), fleet.clock.monotonic()
        got, response, error = asyncio.run(ask(fleet, context, streaming))
        mine = check_the_attempts(fleet, before)
        answer_s = 30.0  # an answer under way is cut by the real clock, which does not move here
        if context.deadline_s is not None:
            assert fleet.clock.monotonic() - start <= context.deadline_s + answer_s
        if response is not None:
            check_the_response(mine, got, response)
        else:
            check_the_failure(fleet, mine, got, error)
        overtaken = [record for record in mine if record.error_class == "cancelled"]
        assert len(overtaken) <= len(mine) // 2 if fleet.executor.hedge else not overtaken


def check_the_response(mine, got, response):
    last = [record for record in mine if record.error_class != "cancelled"][-1]
    assert (response.provider, response.model_id) == (last.provider, last.model_id)
    assert got == response.text
    assert len(response.attempts) == len(mine)
    costs = [record.cost_nanos for record in mine]
    assert response.cost_nanos == (None if None in costs else sum(costs))
    assert (response.cost_nanos is None) == (response.cost_status == "unknown")


def check_the_failure(fleet, mine, got, error):
    match error:
        case AllProvidersFailedError(attempts=attempts):
            made = [each for each in attempts if isinstance(each, ProviderError)]
            assert len(made) >= sum(record.error_class != "cancelled" for record in mine)
            assert got == ""
            assert error.retry_at is None or error.retry_at >= fleet.clock.time()
        case BudgetExhaustedError():
            assert not mine
        case ProviderError():
            truncated = mine[-1].stop_reason == "truncated"
            assert error.error_class in {"caller", "refusal"} or truncated
            assert not got or truncated
        case _:
            raise AssertionError(error)


@settings(max_examples=150, deadline=None)
@given(fleet=fleets(), budget=st.sampled_from([0.001, 0.005, 0.02]))
def test_the_attempts_of_a_call_never_cost_more_than_its_dollars(fleet, budget):
    """An attempt starts only if it fits by its prediction; the fakes answer with less than predicted."""
    asyncio.run(ask(fleet, ExecutionContext(budget_usd=budget), streaming=False))
    assert sum(record.cost_nanos or 0 for record in fleet.records) <= budget * 1e9

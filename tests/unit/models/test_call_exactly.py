"""The choice of the next step, one rule at a time: what the call does, says and learns, exactly."""

from __future__ import annotations

import pytest

from attune.errors import (
    AllProvidersFailedError,
    BudgetExhaustedError,
    ConnectionFailedError,
    ContextTooLongError,
    NoCandidateError,
    StreamBrokenError,
    ThrottledError,
    TransientError,
)
from attune.models.budget import CallLimits
from attune.models.failure_domains import BreakerLimits
from attune.models.prices import FREE
from attune.models.request import ExecutionContext
from attune.models.retry import RetryPolicy
from attune.testing import Reply
from support.pipeline import ASK, Fleet, a_model

DOWN = TransientError("overloaded", status=503)
NO_REPEAT = RetryPolicy(max_repeats=0)
QUICK = Reply(("one ", "two"), first_content_s=0.1, between_s=0.01)
SLOW = QUICK._replace(first_content_s=5.0)


def throttled(seconds):
    return ThrottledError("slow down", status=429, retry_after=seconds)


# -- what is said --------------------------------------------------------------------------------------


async def test_each_step_is_told_in_one_line():
    fleet = Fleet("a/m", "b/m", "c/m", retry=NO_REPEAT)

    def fail_while_the_next_is_tripped(_request, _model):
        fleet.trip("b/m")
        return DOWN

    fleet["a"].then(fail_while_the_next_is_tripped)
    assert (await fleet.executor.run(ASK)).provider == "c"
    assert fleet.steps == [
        "a/m#api_key: overloaded; next b/m",
        "b/m#api_key: circuit of b/m is open; try again in 60.0 s",
    ]


async def test_a_prompt_too_long_is_told_and_no_larger_model_that_failed_before_is_tried_again():
    fleet = Fleet(
        *(a_model("b/big", window=200_000), a_model("a/small", window=1000)),
        scripts={"b": [DOWN], "a": [ContextTooLongError("too long")]},
        retry=NO_REPEAT,
    )
    with pytest.raises(AllProvidersFailedError):
        await fleet.executor.run(ASK)
    assert fleet.seen == ["b/big", "a/small"]
    assert fleet.steps[1] == "a/small#api_key: too long; next a model with a larger window"


async def test_the_call_the_decision_and_the_attempts_have_one_id_and_the_time_of_the_call():
    fleet = Fleet("a/m")
    at = fleet.clock.time()
    await fleet.executor.run(ASK)
    assert (fleet.decisions[0].call_id, fleet.decisions[0].at) == (fleet.records[0].call_id, at)
    assert len(fleet.records[0].call_id) == 29
    with pytest.raises(NoCandidateError):
        await fleet.executor.run(ASK, ExecutionContext(allow_providers=frozenset({"nobody"})))
    assert fleet.decisions[1].at == at
    assert len(fleet.decisions[1].call_id) == 29


async def test_a_last_resort_is_noted_beside_what_the_router_noted():
    fleet = Fleet("a/m")
    fleet.trip("a/m")
    await fleet.executor.run(ASK, ExecutionContext(task_type="knitting"))
    unknown, resort = fleet.decisions[0].notes
    assert "unknown task 'knitting'" in unknown
    assert resort == "nothing is available; a last resort before its time"


async def test_the_time_to_the_first_content_is_the_callers():
    fleet = Fleet("a/m", "b/m", retry=NO_REPEAT)
    fleet["a"].then(Reply(error=DOWN, head_s=30.0))
    fleet["b"].then(QUICK)
    response = await fleet.executor.run(ASK)
    assert response.ttft_ms == pytest.approx(30_100, rel=1e-6)


# -- the spend cap -------------------------------------------------------------------------------------


class Cap:
    """A spend cap that refuses with each of the errors in turn, then grants everything."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.asked = []

    async def reserve(self, nanos, *, ttl_s):
        self.asked.append((nanos, ttl_s))
        if self.errors:
            raise self.errors.pop(0)


async def test_a_candidate_beyond_the_cap_is_passed_over_and_told():
    fleet = Fleet("a/m", "b/m", spend_cap=Cap(BudgetExhaustedError("usd_per_day", "no room")))
    assert (await fleet.executor.run(ASK)).provider == "b"
    assert fleet.steps == ["a/m#api_key: no room"]
    assert len(fleet.runner._spend_cap.asked) == 2


async def test_when_all_are_beyond_the_cap_one_error_says_all_and_has_the_last_limit():
    errors = [BudgetExhaustedError(f"limit {n}", f"no room {n}") for n in range(3)]
    fleet = Fleet("a/m", "b/m", "c/m", spend_cap=Cap(*errors))
    with pytest.raises(BudgetExhaustedError) as caught:
        await fleet.executor.run(ASK)
    assert (caught.value.limit, str(caught.value)) == ("limit 2", "no room 0; no room 1; no room 2")


async def test_a_cap_that_took_all_the_time_ends_the_call():
    cap = Cap(BudgetExhaustedError("deadline", "no answer in time"))
    fleet = Fleet("a/m", "b/m", spend_cap=cap)
    with pytest.raises(BudgetExhaustedError, match="no answer in time"):
        await fleet.executor.run(ASK)
    assert len(cap.asked) == 1


# -- attempts ------------------------------------------------------------------------------------------


async def test_a_refused_permit_gives_back_one_attempt_and_not_two():
    fleet = Fleet("a/m", "b/m", "c/m", "d/m", retry=NO_REPEAT, limits=CallLimits(max_attempts=2))

    def fail_while_the_next_is_tripped(_request, _model):
        fleet.trip("b/m")
        return DOWN

    fleet["a"].then(fail_while_the_next_is_tripped)
    fleet["c"].then(DOWN)
    with pytest.raises(AllProvidersFailedError):
        await fleet.executor.run(ASK)
    assert fleet.seen == ["a/m", "c/m"]


async def test_the_last_attempt_may_be_a_repeat():
    fleet = Fleet("a/m", limits=CallLimits(max_attempts=2), scripts={"a": [DOWN]})
    assert (await fleet.executor.run(ASK)).text == "ok"
    assert fleet.seen == ["a/m", "a/m"]


@pytest.mark.parametrize(("asked", "cap_s"), [(None, 0.5), (8.0, 8.0)])
async def test_a_pause_within_the_longest_is_waited_for_before_going_elsewhere(asked, cap_s):
    fleet = Fleet("a/m", "b/m", retry=RetryPolicy(cap_s=cap_s))
    fleet["a"].then(TransientError("503", status=503, retry_after=asked))
    await fleet.executor.run(ASK)
    assert fleet.seen == ["a/m", "a/m"]


async def test_a_pause_beyond_the_longest_is_not_waited_for_when_another_is_left():
    fleet = Fleet("a/m", "b/m")
    fleet["a"].then(TransientError("503", status=503, retry_after=8.1))
    await fleet.executor.run(ASK)
    assert fleet.seen == ["a/m", "b/m"]


# -- repeats behind the same failure ---------------------------------------------------------------------


def drained(fleet, provider):
    while fleet.executor.bucket(provider).take():
        pass
    return fleet


UNREACHABLE = ConnectionFailedError("connection refused")


@pytest.mark.parametrize(("empty", "seen"), [(True, ["a/m", "b/m"]), (False, ["a/m", "b/m", "a/n"])])
async def test_another_model_of_a_dead_host_is_a_repeat_and_needs_a_token(empty, seen):
    fleet = Fleet("a/m", "a/n", "b/m", retry=NO_REPEAT)
    fleet["a"].default, fleet["b"].default = UNREACHABLE, DOWN
    if empty:
        drained(fleet, "a")
    with pytest.raises(AllProvidersFailedError):
        await fleet.executor.run(ASK)
    assert fleet.seen == seen


@pytest.mark.parametrize(("empty", "attempts"), [(True, 1), (False, 2)])
async def test_another_key_of_an_overloaded_model_is_a_repeat_and_needs_a_token(empty, attempts):
    fleet = Fleet("a/m", credentials={"a": ("key", "plan")}, retry=NO_REPEAT)
    for provider in fleet.providers.values():
        provider.default = DOWN
    if empty:
        drained(fleet, "a")
    with pytest.raises(AllProvidersFailedError):
        await fleet.executor.run(ASK)
    assert len(fleet.seen) == attempts


async def test_another_model_of_an_overloaded_ones_provider_is_no_repeat():
    fleet = drained(Fleet("a/m", "a/n", retry=NO_REPEAT, scripts={"a": [DOWN]}), "a")
    assert (await fleet.executor.run(ASK)).model_id == "n"


# -- waiting -------------------------------------------------------------------------------------------


async def test_of_two_that_rest_equally_long_the_better_one_is_waited_for():
    fleet = Fleet("b/m", "a/m", scripts={"b": [throttled(5)], "a": [throttled(5)]})
    assert (await fleet.executor.run(ASK)).provider == "b"


async def test_what_was_tried_and_now_rests_for_being_overloaded_is_not_waited_for():
    fleet = Fleet("a/m", retry=NO_REPEAT)
    fleet["a"].then(TransientError("503", status=503, retry_after=20))
    with pytest.raises(AllProvidersFailedError, match="1 attempt, no candidate is left"):
        await fleet.executor.run(ASK)


async def test_a_cooldown_that_ends_with_the_deadline_is_beyond_it():
    fleet = Fleet("a/m", scripts={"a": [throttled(50)]})
    before = fleet.clock.monotonic()
    with pytest.raises(AllProvidersFailedError) as caught:
        await fleet.executor.run(ASK, ExecutionContext(deadline_s=50))
    assert "(1 attempt, every candidate is throttled beyond the call's deadline): " in str(caught.value)
    assert fleet.clock.monotonic() == before


async def test_the_soonest_time_worth_trying_is_exact():
    fleet = Fleet("a/m", "b/m", scripts={"a": [throttled(0.5)], "b": [throttled(70)]})
    with pytest.raises(AllProvidersFailedError) as caught:
        await fleet.executor.run(ASK, ExecutionContext(deadline_s=0.25))
    assert caught.value.retry_at - fleet.clock.time() == pytest.approx(0.5, abs=1e-3)


# -- a second attempt beside a slow one ------------------------------------------------------------------


async def hedged(*models, **options):
    """A fleet that knows that its first model usually takes 0.1 s."""
    fleet = Fleet(*models, hedge="p95", **options)
    for provider in fleet.providers.values():
        provider.default = QUICK
    for _ in range(25):
        fleet.executor.first_content_times.learn("", fleet.models[0].label, 100.0)
    return fleet


def keys(fleet):
    return [f"{r.provider}/{r.model_id}#{r.credential}" for r in fleet.records]


async def test_what_shares_least_with_the_slow_one_is_started_beside_it():
    fleet = await hedged("a/m", "a/n", "b/m")
    fleet["a"].then(SLOW)
    assert (await fleet.executor.run(ASK)).provider == "b"
    assert fleet.steps == ["a/m: nothing after 0.10 s; b/m beside it"]


async def test_another_model_shares_less_than_another_key():
    fleet = await hedged("a/m", "a/n", credentials={"a": ("key", "plan")})
    fleet["a#key"].then(SLOW)
    await fleet.executor.run(ASK)
    assert sorted(keys(fleet)) == ["a/m#key", "a/n#key"]


async def test_the_last_attempt_may_be_the_second_one():
    fleet = await hedged("a/m", "b/m", limits=CallLimits(max_attempts=2))
    fleet["a"].then(SLOW)
    assert (await fleet.executor.run(ASK, ExecutionContext(budget_usd=1.0))).provider == "b"


async def test_beside_a_free_one_only_the_other_costs():
    fleet = await hedged(a_model("a/m", prices=FREE), "b/m")
    fleet["a"].then(SLOW)
    assert (await fleet.executor.run(ASK, ExecutionContext(budget_usd=0.5))).provider == "b"


async def test_without_a_budget_one_of_unknown_price_may_be_the_second():
    fleet = await hedged("a/m", a_model("b/m", prices=None))
    fleet["a"].then(SLOW)
    assert (await fleet.executor.run(ASK)).provider == "b"


async def test_one_that_may_not_be_the_second_leaves_its_place_to_the_next():
    tripped = await hedged("a/m", "b/m", "c/m")
    tripped["a"].then(tripping_slow(tripped, "b/m"))
    assert (await tripped.executor.run(ASK)).provider == "c"
    unknown = await hedged("a/m", a_model("b/m", prices=None), "c/m")
    unknown["a"].then(SLOW)
    assert (await unknown.executor.run(ASK, ExecutionContext(budget_usd=1.0))).provider == "c"


def tripping_slow(fleet, label):
    def script(_request, _model):
        fleet.trip(label)
        return SLOW

    return script


async def test_one_that_won_and_then_broke_is_followed_by_the_one_that_it_beat():
    fleet = await hedged("a/m", "b/m", retry=NO_REPEAT)
    fleet["a"].then(SLOW)
    fleet["b"].then(QUICK._replace(error=StreamBrokenError("cut"), error_after=1))
    await fleet.executor.run(ASK)
    assert [(r.provider, r.error_class) for r in fleet.records] == [
        ("a", "cancelled"),
        ("b", "mid_stream"),
        ("a", ""),
    ]


async def test_one_that_was_throttled_beside_a_slow_one_is_waited_for_when_that_fails():
    fleet = await hedged("a/m", "b/m", retry=NO_REPEAT)
    fleet["a"].then(Reply(error=DOWN, head_s=1.0))
    fleet["b"].then(throttled(3))
    response = await fleet.executor.run(ASK)
    assert (response.provider, len(response.attempts)) == ("b", 3)
    assert fleet.steps[1] == "b/m#api_key: slow down"


async def test_all_failures_of_a_race_are_in_the_error():
    fleet = await hedged("a/m", "b/m", retry=NO_REPEAT)
    fleet["a"].then(Reply(error=DOWN, head_s=1.0))
    fleet["b"].then(StreamBrokenError("cut"))
    with pytest.raises(AllProvidersFailedError, match="cut; overloaded") as caught:
        await fleet.executor.run(ASK)
    assert [type(each) for each in caught.value.attempts] == [StreamBrokenError, TransientError]


async def test_what_a_beaten_attempt_had_waited_is_learned_when_it_is_more_than_usual():
    fleet = await hedged("a/m", "b/m")
    learned = fleet.executor.first_content_times
    fleet["a"].then(SLOW)
    assert (await fleet.executor.run(ASK)).provider == "b"
    assert learned._times["", "a/m"].newer.count == 26
    assert learned._times["", "a/m"].newer.quantile(1.0) == pytest.approx(200, rel=0.05)


async def test_what_a_beaten_attempt_had_waited_is_not_learned_when_it_is_less_than_usual():
    fleet = await hedged("a/m", "b/m")
    learned = fleet.executor.first_content_times
    for _ in range(25):
        learned.learn("", "b/m", 100.0)
    fleet["a"].then(QUICK._replace(first_content_s=0.15))
    assert (await fleet.executor.run(ASK)).provider == "a"
    assert learned._times["", "b/m"].newer.count == 25
    unknown = await hedged("a/m", "b/m")
    unknown["a"].then(QUICK._replace(first_content_s=0.15))
    await unknown.executor.run(ASK)
    assert ("", "b/m") not in unknown.executor.first_content_times._times


# -- what was left out for its success rate --------------------------------------------------------------


async def with_one_that_often_fails():
    """A fleet whose second model has failed in all of its 30 calls, which no circuit minds."""
    fleet = Fleet("a/m", "b/m", retry=NO_REPEAT, breaker=BreakerLimits(failure_threshold=10_000))
    fleet["b"].default = DOWN
    for _ in range(30):
        with pytest.raises(AllProvidersFailedError):
            await fleet.executor.run(ASK, ExecutionContext(model="b/m"))
    fleet.records.clear()
    fleet["a"].default = DOWN
    return fleet


async def test_what_was_left_out_for_its_success_rate_is_tried_at_the_end_and_once():
    fleet = await with_one_that_often_fails()
    with pytest.raises(AllProvidersFailedError):
        await fleet.executor.run(ASK)
    assert [scored.provider for scored in fleet.decisions[-1].ranked] == ["a"]
    assert fleet.seen == ["a/m", "b/m"]


async def test_what_was_left_out_and_is_not_available_is_not_asked_for_a_permit():
    fleet = await with_one_that_often_fails()
    fleet.trip("b/m")
    with pytest.raises(AllProvidersFailedError) as caught:
        await fleet.executor.run(ASK)
    assert [type(each) for each in caught.value.attempts] == [TransientError]


async def test_of_open_circuits_the_soonest_time_is_told_once():
    fleet = Fleet("a/m", "b/m", scripts={"a": [DOWN], "b": [DOWN]}, retry=NO_REPEAT)
    fleet.trip("a/m")
    fleet.clock.advance(20)
    fleet.trip("b/m")
    for _ in range(2):  # the first call is the last resort's
        with pytest.raises(AllProvidersFailedError) as caught:
            await fleet.executor.run(ASK)
    assert caught.value.retry_at == fleet.clock.time() + 40
    assert str(caught.value).endswith(": circuit of a/m is open; circuit of b/m is open; try again in 40.0 s")
    assert str(caught.value) == f"{caught.value.sentence}; try again in 40.0 s"

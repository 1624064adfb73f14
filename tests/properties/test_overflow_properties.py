"""A plan that is used up now and then, over any course of calls, failures and time."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from attune.errors import AllProvidersFailedError, TransientError, WindowSpentError
from attune.models.auth_strategy import AuthMode, AuthStrategy, Overflow
from attune.models.prices import FREE
from attune.models.request import ExecutionContext
from attune.models.retry import RetryPolicy
from attune.testing import Reply
from support.pipeline import ASK, PRICES, Fleet, a_model

PLAN = a_model("claude/m")._replace(prices=FREE, list_prices=PRICES)
DEADLINE_S = 100.0
SECONDS = st.sampled_from([1.0, 30.0, 99.0, 100.0, 500.0])

answers = st.one_of(
    st.just("ok"),
    st.just(TransientError("overloaded", status=529)),
    SECONDS.map(lambda seconds: WindowSpentError("5h", status=429, retry_after=seconds)),
)
steps = st.lists(st.tuples(answers, SECONDS), min_size=1, max_size=12)


class Course:
    """Calls one after the other; ``used_up_until`` is what the plan said last, on the monotonic clock."""

    def __init__(self, overflow: Overflow) -> None:
        self.overflow = overflow
        strategy = AuthStrategy(default_mode=AuthMode.SUBSCRIPTION, overflow=overflow)
        self.fleet = Fleet(
            *(PLAN, "anthropic/m"),
            credentials={"claude": ("subscription",)},
            strategy=strategy,
            retry=RetryPolicy(max_repeats=0),
        )
        self.used_up_until = 0.0
        self.asked: list[tuple[str, float, float]] = []
        self.fleet["claude#subscription"].default = self._plan
        self.fleet["anthropic"].default = self._key
        self.answer: object = "ok"

    def _plan(self, *_: object) -> object:
        now = self.fleet.clock.monotonic()
        self.asked.append(("plan", now, self.used_up_until))
        answer, self.answer = self.answer, "ok"
        if isinstance(answer, WindowSpentError):
            self.used_up_until = now + (answer.retry_after or 0.0)
        return answer

    def _key(self, *_: object) -> Reply:
        self.asked.append(("key", self.fleet.clock.monotonic(), self.used_up_until))
        return Reply()

    async def step(self, answer: object) -> None:
        self.answer = answer
        before, began = len(self.asked), self.fleet.clock.monotonic()
        used_up = began < self.used_up_until
        try:
            response = await self.fleet.executor.run(ASK, ExecutionContext(deadline_s=DEADLINE_S))
        except AllProvidersFailedError:
            assert self.overflow is not Overflow.API
            assert self.fleet.clock.monotonic() < self.used_up_until
            return
        if used_up and self.overflow is Overflow.WAIT:
            assert self.fleet.clock.monotonic() >= self.used_up_until
        if not used_up:
            assert self.asked[before][0] == "plan", "while it has quota it is asked first"
        assert response.attempts


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(Overflow), steps)
def test_no_key_is_billed_without_consent_and_the_plan_is_asked_exactly_when_it_has_quota(overflow, steps):
    async def play() -> None:
        for answer, seconds in steps:
            await course.step(answer)
            course.fleet.clock.advance(seconds)

    course = Course(overflow)
    asyncio.run(play())
    for who, at, used_up_until in course.asked:
        if who == "plan" or overflow is not Overflow.API:
            assert at >= used_up_until
    assert course.fleet.nothing_is_taken()

"""What a call may still try: the order after a failure, and what is waited for in the end."""

from __future__ import annotations

from attune.errors import ContextTooLongError, ThrottledError, TransientError
from attune.models.fallback import FallbackPolicy, FallbackStrategy
from attune.models.registry import ModelTier
from attune.models.retry import RetryPolicy
from support.pipeline import ASK, Fleet, a_model

NO_REPEAT = RetryPolicy(max_repeats=0)
DOWN = TransientError("overloaded", status=503)


async def test_after_a_prompt_that_did_not_fit_the_larger_models_keep_the_order_of_the_fallback():
    chain = FallbackPolicy((FallbackStrategy.CUSTOM,), chain=("c/m", "b/m"))
    models = (a_model("a/m", window=10_000), a_model("b/m", window=50_000), a_model("c/m", window=50_000))
    fleet = Fleet(*models, fallback=chain, retry=NO_REPEAT, scripts={"a": [ContextTooLongError("too long")]})
    fleet["c"].default = DOWN
    await fleet.executor.run(ASK)
    assert fleet.seen == ["a/m", "c/m", "b/m"]


async def test_a_larger_model_that_was_not_planned_is_found_and_none_is_tried_twice():
    models = (
        a_model("a/m", window=10_000),
        a_model("a/big", ModelTier.PREMIUM, window=50_000),
        a_model("b/big", ModelTier.PREMIUM, window=50_000),
    )
    only_same = FallbackPolicy((FallbackStrategy.SAME_TIER_OTHER_PROVIDER,))
    fleet = Fleet(*models, fallback=only_same, retry=NO_REPEAT)
    fleet["a"].then(ContextTooLongError("too long"), DOWN)
    await fleet.executor.run(ASK)
    assert fleet.seen == ["a/m", "a/big", "b/big"]


async def test_what_throttled_the_call_is_waited_for_though_another_that_failed_comes_before_it():
    fleet = Fleet("a/m", "b/m", retry=NO_REPEAT)
    fleet["a"].default = DOWN
    fleet["b"].then(ThrottledError("too fast", retry_after=2.0))
    before = fleet.clock.monotonic()
    response = await fleet.executor.run(ASK)
    assert response.provider == "b"
    assert fleet.seen == ["a/m", "b/m", "b/m"]
    assert fleet.clock.monotonic() - before >= 2.0

"""Where attempts start: the permits and the dollars that one needs before it is made."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING

from attune.clock import SYSTEM_CLOCK
from attune.errors import (
    BudgetExhaustedError,
    CircuitOpenError,
    CredentialError,
    ErrorClass,
    InvalidRequestError,
    ModelUnavailableError,
    MoneyGoneError,
    ThrottledError,
    TransientError,
    WindowSpentError,
)
from attune.models.attempt import Attempt
from attune.models.failure_domains import AttemptPermit, FailureDomains
from attune.models.prices import cost_nanos
from attune.models.spending import reserve_in_all
from attune.models.telemetry import TokenUsage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from attune.clock import Clock
    from attune.errors import AttuneError, ProviderError
    from attune.models.attempt import AttemptSpec
    from attune.models.candidate import Candidate, Refusal
    from attune.models.executor import AttemptBudget, Provider
    from attune.models.registry import ModelInfo
    from attune.models.request import LLMRequest
    from attune.models.spending import Cap, Held, SpendCap
    from attune.models.telemetry import LLMCallRecord

__all__ = ["AttemptRunner", "refused"]

LEASE_MARGIN_S = 30.0
"""How much longer a permit's lease holds than the attempt may take."""

RESERVED_OUTPUT_TOKENS = 4096
"""The output that the spend cap reserves for when the request sets no limit of its own."""


class AttemptRunner:
    """Makes attempts: the only place that takes permits and settles them.

    ``providers`` answer, one for each (provider, credential). ``record`` is called with the record of
    every attempt when it has settled. ``spend_cap`` reserves dollars before an attempt and settles them
    after it, ``overflow_cap`` those of attempts that cost money because a plan is used up. ``rng`` makes the
    ids.
    """

    def __init__(
        self,
        providers: Iterable[Provider],
        *,
        domains: FailureDomains | None = None,
        clock: Clock = SYSTEM_CLOCK,
        record: Callable[[LLMCallRecord], None] | None = None,
        spend_cap: SpendCap | None = None,
        overflow_cap: SpendCap | None = None,
        rng: Random | None = None,
    ) -> None:
        self.clock = clock
        self.domains = FailureDomains(clock=clock) if domains is None else domains
        self._providers = {(each.name, each.credential): each for each in providers}
        self._record = record
        self._spend_cap = spend_cap
        self._overflow_cap = overflow_cap
        self._rng = Random() if rng is None else rng  # noqa: S311  (ids, not secrets)

    def new_id(self) -> str:
        """A unique id that sorts by time."""
        return f"{int(self.clock.time() * 1000):011x}{self._rng.getrandbits(72):018x}"

    def start(
        self,
        candidate: Candidate,
        model: ModelInfo,
        request: LLMRequest,
        budget: AttemptBudget,
        spec: AttemptSpec,
        *,
        reservation: Held | None = None,
        last_resort: bool = False,
    ) -> Attempt:
        """Take the permits for an attempt; iterating over the result makes it, and settles ``reservation``.

        Raises ``CircuitOpenError`` when a breaker refuses, the error behind it when the candidate
        rests or its credential is off; the reservation is given back then.
        """
        provider = self._providers.get((candidate.provider, candidate.credential))
        if provider is None:
            raise InvalidRequestError(f"no provider is set up for {candidate}")
        permit = self.domains.acquire(candidate, budget.total_s + LEASE_MARGIN_S, last_resort=last_resort)
        if not isinstance(permit, AttemptPermit):
            if reservation is not None:
                reservation.settle(0)
            raise refused(permit, candidate, self.clock)
        return Attempt(
            self.clock,
            self._settled,
            provider,
            candidate,
            model,
            request,
            budget,
            spec,
            permit,
            reservation,
        )

    async def aclose(self) -> None:
        """Release every provider's connections."""
        for provider in self._providers.values():
            await provider.aclose()

    async def reserve(
        self,
        model: ModelInfo,
        request: LLMRequest,
        budget: AttemptBudget,
        cap: Cap | None = None,
        *,
        overflows: bool = False,
    ) -> Held | None:
        """Hold what an attempt may cost, for ``start``, in the spend cap, the call's own ``cap``, and the
        overflow cap of one that ``overflows``; ``None`` without any.

        Raises ``BudgetExhaustedError`` when a cap is reached or the model's price is not known.
        """
        overflow_cap = self._overflow_cap if overflows else None
        caps = [each for each in (cap, self._spend_cap, overflow_cap) if each is not None]
        if not caps:
            return None
        if model.prices is None:
            message = f"the price of {model.label} is unknown, so it cannot be held to the spend cap"
            raise BudgetExhaustedError("price", f"{message}; give it prices (0 if it is free)")
        output = request.max_output_tokens or min(model.max_output_tokens, RESERVED_OUTPUT_TOKENS)
        predicted = TokenUsage(request.estimated_input_tokens(), output * request.answers)
        nanos = cost_nanos(predicted, model.prices, self.clock.time())
        try:
            async with asyncio.timeout(budget.total_s):
                return await reserve_in_all(caps, nanos, ttl_s=budget.total_s + LEASE_MARGIN_S)
        except TimeoutError:
            message = "the ledger did not answer for the spend cap within the call's time"
            raise BudgetExhaustedError("deadline", message) from None

    def _settled(self, record: LLMCallRecord) -> None:
        if self._record is not None:
            self._record(record)


def refused(refusal: Refusal, candidate: Candidate, clock: Clock) -> AttuneError:
    """The exception for a refusal."""
    retry_after = max(0.0, refusal.retry_at - clock.monotonic())
    if refusal.error_class is None:
        return CircuitOpenError(refusal.domain, retry_after=retry_after, retry_at=clock.time() + retry_after)
    kind = _REFUSALS.get(refusal.error_class, TransientError)
    named = refusal.domain in refusal.reason
    message = refusal.reason if named else f"{candidate.label}: {refusal.reason}"
    return kind(message, retry_after=retry_after, provider=candidate.provider, model=candidate.model_id)


_REFUSALS: dict[ErrorClass, type[ProviderError]] = {
    ErrorClass.THROTTLED: ThrottledError,
    ErrorClass.MODEL: ModelUnavailableError,
    ErrorClass.CREDENTIAL: CredentialError,
    ErrorClass.MONEY: MoneyGoneError,
    ErrorClass.WINDOW_SPENT: WindowSpentError,
}

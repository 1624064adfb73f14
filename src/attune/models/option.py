"""What a decision chooses among, as it is weighed: the options, and what is known of each for one call."""

from __future__ import annotations

from sys import intern
from typing import TYPE_CHECKING, TypeAlias

from attune.models.candidate import Candidate
from attune.models.prices import Rate
from attune.models.telemetry import NANOS_PER_USD

if TYPE_CHECKING:
    from attune.models.borrowing import Row
    from attune.models.prepaid import QuotaUse
    from attune.models.prices import PricePeriod
    from attune.models.prompt_cache import CachedShares
    from attune.models.registry import ModelInfo

__all__ = ["REFUSED", "Drop", "Option", "Scored", "weighed_usd"]


class Option:
    """A candidate with everything about it that does not change from call to call.

    Of one that a plan pays for, ``listed`` is the same at the API's prices.
    """

    __slots__ = (
        "_prices",
        "candidate",
        "dearer_above",
        "input",
        "key",
        "label",
        "listed",
        "longest",
        "model",
        "of_plan",
        "output",
        "rank",
        "window",
    )

    def __init__(self, model: ModelInfo, credential: str) -> None:
        self.candidate = Candidate(model.provider, model.id, credential)
        self.key = intern(self.candidate.key)
        self.label = model.label
        self.model = model
        self.rank = model.tier.rank
        self.window = float("inf") if model.embeds else model.context_window  # each input has one of its own
        self.longest = model.max_output_tokens
        self.input: float | None = None
        self.output = 0.0
        self._prices: tuple[float, ...] = ()
        self.dearer_above = float("inf")
        plan = model.list_prices
        self.listed = (
            None if plan is None else Option(model._replace(prices=plan, list_prices=None), credential)
        )
        self.of_plan = plan is not None

    def reprice(self, at: float) -> float:
        """Take today's prices, in USD a token; returns when they change next."""
        schedule = self.model.prices
        if schedule is None:
            return float("inf")
        listed_until = float("inf") if self.listed is None else self.listed.reprice(at)
        period = schedule.at(at)
        self._prices = _token_prices(period, 0)
        self.input, self.output = self._prices[:2]
        rates = [rate for rate in period[1:] if isinstance(rate, Rate)]
        thresholds = [threshold for rate in rates for threshold, _ in rate.tiers]
        self.dearer_above = min(thresholds, default=float("inf"))
        return min((listed_until, *(p.start for p in schedule.periods if p.start > at)))

    def cost(
        self, tokens_in: float, tokens_out: float, at: float, cached: CachedShares | None = None
    ) -> float | None:
        """USD for a call of this size today with these shares of the prompt ``cached``, or ``None`` where the
        price is unknown.
        """
        if self.input is None:
            return None
        prices = self._prices
        if tokens_in > self.dearer_above and self.model.prices is not None:
            prices = _token_prices(self.model.prices.at(at), int(tokens_in))
        usd = tokens_in * prices[0] + tokens_out * prices[1]
        if cached is None:
            return usd
        read, written, written_1h = cached
        return usd + tokens_in * (read * prices[2] + written * prices[3] + written_1h * prices[4])


def _token_prices(period: PricePeriod, size: int) -> tuple[float, ...]:
    """USD a token of input and of output in a request of this size; then what a token of input costs more
    (below 0: less) that is read from a cache, written to one, and written for an hour.
    """
    plain, *others = [rate.of(size) / NANOS_PER_USD / 1e6 for rate in period.input_rates]
    output = period.output.of(size) / NANOS_PER_USD / 1e6
    return plain, output, *(other - plain for other in others)


Scored: TypeAlias = "tuple[float, Option, Row, float | None, QuotaUse | None]"
"""An eligible option: its score, the option, what telemetry says of it, its predicted cost in USD, and what
it would use of prepaid quota. A plain tuple, because ten are made in every decision; it is made readable in
``ranked``.
"""

REFUSED = 4
"""How far from being chosen a candidate is that is refused now, as a ``Drop`` tells it."""

Drop: TypeAlias = "tuple[Option, str, float]"
"""A dropped option, the reason, and its distance: the lower, the nearer it was to being eligible."""


def weighed_usd(scored: Scored) -> float | None:
    """What a candidate is weighed at, in USD: its predicted cost and what its quota is worth; where credits
    pay for it, what those are worth.
    """
    cost, use = scored[3:]
    return cost if cost is None or use is None else use.weighed(cost)

"""What a usage costs: prices with effective dates and size tiers, and one exact integer function.

A rate is an integer number of nano-dollars per million tokens (USD 0.10 per million is
100_000_000), so that every published price is exact. The built-in prices are ``prices.json``
beside this file, written by ``make prices`` from the ``genai-prices`` package and read when they
are first needed. Times are UTC epoch seconds.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

from attune.errors import InvalidRequestError
from attune.models.telemetry import NANOS_PER_USD, TokenUsage

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

__all__ = ["FREE", "PricePeriod", "PriceSchedule", "PriceTable", "Rate", "cost_nanos", "price_table"]

TOKENS_PER_RATE = 1_000_000
MAX_USD_PER_MILLION = 1_000_000
"""A dearer price than this (a dollar a token) is taken for a mistake in the unit."""


class Rate(NamedTuple):
    """Nano-dollars per million tokens, and the tiers for longer prompts.

    ``tiers`` are (threshold, rate) pairs by rising threshold. The last one whose threshold the
    whole prompt, cache included, **exceeds** prices every token, not only those above it.
    """

    base: int
    tiers: tuple[tuple[int, int], ...] = ()

    def of(self, prompt_tokens: int) -> int:
        """Nano-dollars per million tokens in a request with a prompt of this size."""
        rate = self.base
        for threshold, dearer in self.tiers:
            if prompt_tokens > threshold:
                rate = dearer
        return rate

    @property
    def usd(self) -> float:
        """USD per million tokens in a request below every tier; for people, not for sums."""
        return self.base / NANOS_PER_USD


class PricePeriod(NamedTuple):
    """The rates from ``start`` on. A cache rate of ``None`` means that no other price is published:
    one-hour writes then cost what other writes do, reads and writes what input does.
    """

    start: float
    input: Rate
    output: Rate
    cache_read: Rate | None = None
    cache_write: Rate | None = None
    cache_write_1h: Rate | None = None

    @property
    def input_rates(self) -> tuple[Rate, Rate, Rate, Rate]:
        """Of plain input, and of input that is read from a cache, written to it, and written for an hour."""
        write = self.cache_write or self.input
        return self.input, self.cache_read or self.input, write, self.cache_write_1h or write


class PriceSchedule(NamedTuple):
    """A model's prices over time, by rising ``start``; the first holds for all time before it too.

    ``version`` says where they are from, ``as_of`` when they were known to be right.
    """

    periods: tuple[PricePeriod, ...]
    version: str
    as_of: float = 0.0

    @property
    def free(self) -> bool:
        """Whether nothing costs anything, at any time."""
        rates = (rate for period in self.periods for rate in period[1:] if isinstance(rate, Rate))
        return all(not rate.base and not rate.tiers for rate in rates)

    def at(self, at: float | None = None) -> PricePeriod:
        """The prices in force at a time; ``None`` is ``as_of``."""
        moment = self.as_of if at is None else at
        current = self.periods[0]
        for period in self.periods[1:]:
            if moment >= period.start:
                current = period
        return current

    @classmethod
    def flat(
        cls,
        input_price: float | str | Decimal,
        output_price: float | str | Decimal,
        *,
        cache_read_price: float | str | Decimal | None = None,
        cache_write_price: float | str | Decimal | None = None,
        cache_write_1h_price: float | str | Decimal | None = None,
    ) -> PriceSchedule:
        """A user's own prices, the same at all times, in USD per million tokens.

        Raises ``InvalidRequestError`` for what is not a number between 0 and
        ``MAX_USD_PER_MILLION``. Finer than a nano-dollar per million is rounded.
        """

        def optional(price: float | str | Decimal | None, name: str) -> Rate | None:
            return None if price is None else _rate(price, name)

        period = PricePeriod(
            start=0.0,
            input=_rate(input_price, "input_price"),
            output=_rate(output_price, "output_price"),
            cache_read=optional(cache_read_price, "cache_read_price"),
            cache_write=optional(cache_write_price, "cache_write_price"),
            cache_write_1h=optional(cache_write_1h_price, "cache_write_1h_price"),
        )
        return cls((period,), version="user")


FREE = PriceSchedule((PricePeriod(0.0, Rate(0), Rate(0)),), version="free")
"""What a model on the user's own machine costs: known to be 0."""


class PriceTable(NamedTuple):
    """The built-in prices by model label (``provider/id``).

    ``version`` names the package they came from, ``as_of`` is the start of the day on which the
    table was made.
    """

    version: str
    as_of: float
    schedules: Mapping[str, PriceSchedule]


def cost_nanos(usage: TokenUsage, schedule: PriceSchedule, at: float) -> int:
    """The cost of one attempt in nano-dollars: exact, then rounded once, half to even.

    Every token is billed once: cache reads and writes are parts of ``input_tokens`` and leave it
    before it is priced. Usage that cannot be is never billed negative and never raises, because
    the attempt was made all the same: a negative count is 0, a one-hour write is at most all that
    was written, and a prompt is at least as long as its cached parts.
    """
    period = schedule.at(at)
    read = max(0, usage.cache_read_tokens)
    write = max(0, usage.cache_write_tokens)
    write_1h = min(max(0, usage.cache_write_1h_tokens), write)
    prompt = max(usage.input_tokens, read + write)
    plain, cache_read, cache_write, cache_write_1h = period.input_rates
    parts = (
        (prompt - read - write, plain),
        (read, cache_read),
        (write - write_1h, cache_write),
        (write_1h, cache_write_1h),
        (max(0, usage.output_tokens), period.output),
    )
    return _divide_half_even(sum(tokens * rate.of(prompt) for tokens, rate in parts), TOKENS_PER_RATE)


@functools.cache
def price_table() -> PriceTable:
    """The built-in prices; read once a process."""
    import json
    import pkgutil

    data = json.loads(pkgutil.get_data("attune", "models/prices.json") or b"")
    version, as_of = data["version"], _midnight(data["as_of"])
    return PriceTable(
        version,
        as_of,
        {
            label: PriceSchedule(tuple(_period(**entry) for entry in entries), version, as_of)
            for label, entries in data["models"].items()
        },
    )


def _period(start: str, **rates: list[Any]) -> PricePeriod:
    """A period as ``prices.json`` writes it: each rate as [base, [threshold, rate], ...]."""
    return PricePeriod(
        _midnight(start),
        **{name: Rate(base, tuple(map(tuple, tiers))) for name, (base, *tiers) in rates.items()},
    )


def _midnight(date: str) -> float:
    """The UTC epoch seconds at which the day ``YYYY-MM-DD`` begins."""
    from datetime import UTC, datetime

    return datetime.fromisoformat(date).replace(tzinfo=UTC).timestamp()


def _rate(price: float | str | Decimal, name: str) -> Rate:
    from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation

    try:
        usd = Decimal(str(price))  # by its digits: 0.1 is a tenth, not the float nearest to it
    except (InvalidOperation, ValueError):
        usd = Decimal("NaN")
    if isinstance(price, bool) or not usd.is_finite() or not 0 <= usd <= MAX_USD_PER_MILLION:
        raise InvalidRequestError(
            f"{name} must be a number of USD per million tokens, from 0 to {MAX_USD_PER_MILLION}"
        )
    return Rate(int((usd * NANOS_PER_USD).to_integral_value(ROUND_HALF_EVEN)))


def _divide_half_even(amount: int, by: int) -> int:
    quotient, remainder = divmod(amount, by)
    return quotient + (remainder * 2 > by or (remainder * 2 == by and quotient % 2 == 1))

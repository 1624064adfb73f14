"""The ledger beside an upstream that counts for itself: every attempt, every token, every nano-dollar."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from fractions import Fraction
from itertools import groupby, permutations
from typing import TYPE_CHECKING, NamedTuple

import pytest

from attune.models.telemetry import CostStatus, TokenUsage
from attune.stores.sqlite import SqliteStore
from support.counting_upstream import FAULTS, CountingUpstream
from support.scale import scaled
from support.storm import (
    ANSWERING,
    FIRST_CONTENT_SECONDS,
    MAX_ATTEMPTS,
    PRICES,
    REFUSING,
    storm,
    storm_runtime,
)

if TYPE_CHECKING:
    from pathlib import Path

    from attune.models.state import LedgerTotals
    from attune.models.telemetry import LLMCallRecord
    from support.counting_upstream import Arrival, Bill
    from support.storm import Ended

CALLS = scaled(test=1_500, faults=20_000, soak=100_000)
SEED = 20_261_122

CLASSES = {
    "429": {"throttled"},
    "429-ms": {"throttled"},
    "500": {"transient"},
    "503": {"transient"},
    "529": {"transient"},
    "reset-head": {"connection"},
    "error-event": {"transient", "mid_stream"},
    "cut-clean": {"mid_stream"},
    "cut-close": {"mid_stream"},
    "cut-reset": {"mid_stream"},
    "malformed": {"mid_stream"},
    "empty": {"mid_stream"},
    "slow-head": set(),
    "no-usage": {""},
    "fine": {""},
}


class Attempt(NamedTuple):
    """An attempt as the ledger has it, and as the upstream does, if it arrived there."""

    row: LLMCallRecord
    arrival: Arrival | None


class Aftermath(NamedTuple):
    """What everybody has written down once the storm is over."""

    ended: dict[str, Ended]
    arrived: dict[str, list[Arrival]]
    recorded: dict[str, list[LLMCallRecord]]
    totals: LedgerTotals
    decided: list[str]

    def attempts(self) -> list[Attempt]:
        """Every attempt of the ledger with what the upstream has of it: the n-th of a call at a provider."""
        return [
            pair
            for call, rows in self.recorded.items()
            for name in (*ANSWERING, REFUSING)
            for pair in _paired(
                [row for row in rows if row.provider == name],
                [arrival for arrival in self.arrived[call] if arrival.provider == name],
            )
        ]


def _paired(rows: list[LLMCallRecord], arrivals: list[Arrival]) -> list[Attempt]:
    """The attempts of one call at one provider, and all that arrived of them."""
    missing = len(rows) - len(arrivals)
    assert missing >= 0, (rows, arrivals)
    orders = permutations((*arrivals, *[None] * missing))
    if not any(row.provider == REFUSING or _ended_by_us(row) for row in rows):
        assert not missing, (rows, arrivals)
        orders = iter((tuple(arrivals),))
    # What was ended from our side may have arrived a little later than what came after it, or never.
    for order in orders:
        if all(map(_fits, rows, order)):
            return list(map(Attempt, rows, order))
    raise AssertionError((rows, arrivals))


def _fits(row: LLMCallRecord, arrival: Arrival | None) -> bool:
    """Whether the upstream's side of an attempt can be that of the ledger."""
    if arrival is None:
        return row.provider == REFUSING or (_ended_by_us(row) and row.ttft_ms is None)
    if _never_left(row):
        return False
    # Any answer may be too late on a busy machine, and any caller may leave.
    classes = CLASSES[arrival.kind] | ({row.error_class} if _ended_by_us(row) else set())
    told = row.usage == TokenUsage(*arrival.bill) if row.success and arrival.kind != "no-usage" else True
    return row.error_class in classes and told


def _ended_by_us(row: LLMCallRecord) -> bool:
    timed_out = row.error_code == "timeout" and _took_too_long(row)
    late = row.error_class in {"transient", "mid_stream"} and timed_out
    return row.error_class == "cancelled" or late


def _never_left(row: LLMCallRecord) -> bool:
    """What is known to have cost nothing although nobody answered it."""
    return row.cost_nanos == 0 and row.error_code in {"", "timeout"}


def _took_too_long(row: LLMCallRecord) -> bool:
    return row.latency_ms >= FIRST_CONTENT_SECONDS * 1000


async def _weather(home: Path) -> Aftermath:
    ended: dict[str, Ended] = {}
    with CountingUpstream(seed=SEED) as upstream:
        async with storm_runtime(home, upstream.url) as ai:
            await storm(ai, iter(range(CALLS)), seed=SEED, ended=ended.__setitem__)
        arrived = defaultdict(list)
        for arrival in upstream.tally().arrived:
            arrived[arrival.call].append(arrival)
    ledger = SqliteStore.open_readonly(ai.store.path)
    rows = sorted(ledger.recent_attempts(10**7), key=lambda row: (row.session_id, row.position))
    recorded = {call: list(some) for call, some in groupby(rows, key=lambda row: row.session_id)}
    with closing(sqlite3.connect(ledger.path)) as connection:
        decided = [call_id for (call_id,) in connection.execute("SELECT call_id FROM decisions")]
    return Aftermath(ended, arrived, recorded, ledger.totals(), decided)


@pytest.fixture(scope="module")
def aftermath(tmp_path_factory: pytest.TempPathFactory) -> Aftermath:
    return asyncio.run(_weather(tmp_path_factory.mktemp("storm")))


def nanos(bill: Bill) -> int:
    """What a bill costs, by exact fractions of its own: half to even."""
    price = {name: Fraction(usd) for name, usd in PRICES.items()}
    plain = bill.prompt - bill.cache_read - bill.cache_write
    millionths = (
        plain * price["input_price"]
        + bill.output * price["output_price"]
        + bill.cache_read * price["cache_read_price"]
        + (bill.cache_write - bill.cache_write_1h) * price["cache_write_price"]
        + bill.cache_write_1h * price["cache_write_1h_price"]
    )
    return round(millionths * 1000)


def test_every_attempt_is_in_both_books_in_the_same_call_and_at_the_same_provider(
    aftermath: Aftermath,
) -> None:
    assert set(aftermath.arrived) <= set(aftermath.recorded) <= set(aftermath.ended)
    assert len(aftermath.ended) == CALLS
    for rows in aftermath.recorded.values():
        assert [row.position for row in rows] == list(range(len(rows)))
        assert len(rows) <= MAX_ATTEMPTS
        assert len({row.call_id for row in rows}) == 1
    missing = Counter()
    for row, arrival in aftermath.attempts():
        if arrival is None:
            missing[row.provider == REFUSING, row.error_class] += 1
    # How many there are of each depends on the machine; that there are some makes this a test.
    assert missing[True, "connection"] > 0
    arrived = sum(map(len, aftermath.arrived.values()))
    assert arrived > 0
    assert sum(map(len, aftermath.recorded.values())) == arrived + missing.total()


def test_each_kind_of_fault_is_recorded_as_its_class_and_never_as_a_success(aftermath: Aftermath) -> None:
    seen = Counter()
    for row, arrival in aftermath.attempts():
        assert row.success is (row.error_class == "")
        if arrival is not None:
            seen[arrival.kind, row.error_class] += 1
    for kind, classes in CLASSES.items():
        assert sum(seen[kind, each] for each in classes or {"transient"}) > 0, kind
    assert set(CLASSES) == {*FAULTS, "fine"}


def _usage_came_before_the_cut(row: LLMCallRecord, arrival: Arrival | None) -> bool:
    """Not after a reset, which may destroy what was already sent, nor when time ran out before it."""
    if arrival is None or arrival.kind not in {"cut-clean", "cut-close"} or not arrival.usage_sent:
        return False
    return row.error_class == "mid_stream" and not _took_too_long(row)


def test_wherever_usage_arrived_tokens_and_nano_dollars_agree_exactly(aftermath: Aftermath) -> None:
    agreed = Counter()
    for row, arrival in aftermath.attempts():
        whole = row.success and arrival is not None and arrival.kind != "no-usage"
        if whole:
            assert row.cost_status is CostStatus.EXACT
        if whole or _usage_came_before_the_cut(row, arrival):
            assert row.usage == TokenUsage(*arrival.bill), (row, arrival)
            assert row.cost_nanos == nanos(arrival.bill)
            agreed[row.success] += 1
        else:
            assert row.cost_status is not CostStatus.EXACT or row.cost_nanos == 0
    assert agreed[True] > 0
    assert agreed[False] > 0


def test_every_other_attempt_is_marked_and_costs_nothing_only_where_nothing_is_billed(
    aftermath: Aftermath,
) -> None:
    marked = Counter()
    for row, arrival in aftermath.attempts():
        if row.success and arrival is not None and arrival.kind != "no-usage":
            continue
        marked[row.cost_status] += 1
        turned_away = row.error_code and arrival is not None and arrival.kind[:1].isdigit()
        if turned_away or _never_left(row) or (row.provider == REFUSING and row.error_class == "connection"):
            assert (row.usage, row.cost_nanos, row.cost_status) == (None, 0, CostStatus.EXACT)
        elif row.cost_status is CostStatus.ESTIMATED:
            assert row.usage is not None
            assert row.cost_nanos
        else:
            assert (row.usage, row.cost_nanos, row.cost_status) == (None, None, CostStatus.UNKNOWN)
    assert all(marked[status] for status in CostStatus)


def test_the_prompt_of_a_broken_stream_agrees_where_its_figures_had_come(aftermath: Aftermath) -> None:
    agreed = 0
    for row, arrival in aftermath.attempts():  # in Messages they come before any content
        if row.provider == "gamma" and row.ttft_ms is not None and arrival.kind != "no-usage":
            assert row.usage[0] == arrival.bill.prompt
            assert row.usage[2:] == arrival.bill[2:]
            agreed += not row.success
    assert agreed > 0


def test_the_roll_ups_hold_the_sums_of_the_attempts(aftermath: Aftermath) -> None:
    rows = [row for rows in aftermath.recorded.values() for row in rows]
    totals = aftermath.totals
    assert totals.calls == len(aftermath.recorded)
    assert totals.attempts == len(rows)
    assert totals.failed_attempts == sum(not row.success for row in rows)
    assert totals.cost_nanos == sum(row.cost_nanos or 0 for row in rows)
    assert totals.unknown_cost_attempts == sum(row.cost_nanos is None for row in rows)
    assert totals.input_tokens == sum(row.usage.input_tokens for row in rows if row.usage)
    assert totals.output_tokens == sum(row.usage.output_tokens for row in rows if row.usage)


def test_every_caller_was_told_what_the_ledger_says(aftermath: Aftermath) -> None:
    answers = hedged = 0
    for call, (response, error) in aftermath.ended.items():
        rows = aftermath.recorded.get(call, [])
        assert error is None or not any(row.success for row in rows)
        if response is not None:
            answers += 1
            hedged += any(row.error_class == "cancelled" for row in rows)
            costs = [row.cost_nanos for row in rows]
            assert response.cost_nanos == (None if None in costs else sum(costs))
            assert [made.error_class for made in response.attempts] == [row.error_class for row in rows]
            assert [row.usage for row in rows if row.success] == [response.usage]
    print(f"\n{CALLS} calls, {answers} answered, {hedged} of them with a second attempt beside the first")
    assert answers > 0
    assert hedged > 0


def test_every_call_that_was_tried_has_one_decision(aftermath: Aftermath) -> None:
    assert len(aftermath.decided) == len(set(aftermath.decided))
    assert {rows[0].call_id for rows in aftermath.recorded.values()} <= set(aftermath.decided)

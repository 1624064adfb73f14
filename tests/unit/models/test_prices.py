import importlib.util
import json
from decimal import Decimal
from pathlib import Path

import pytest

from attune.errors import InvalidRequestError
from attune.models import prices
from attune.models.prices import FREE, PricePeriod, PriceSchedule, Rate, cost_nanos, price_table
from attune.models.registry import get_model
from attune.models.telemetry import TokenUsage

ROOT = Path(__file__).parents[3]
NOW = 1_795_305_600.0  # 2026-11-22
USD = 1_000_000_000
MILLION = 1_000_000


def cost(usage: TokenUsage, provider: str, tier: str) -> float:
    schedule = get_model(provider, tier).prices
    assert schedule is not None
    return cost_nanos(usage, schedule, NOW) / USD


def test_a_million_tokens_each_way_cost_the_published_price():
    assert cost(TokenUsage(MILLION, MILLION), "anthropic", "capable") == 12.0
    assert cost(TokenUsage(MILLION, 0), "anthropic", "premium") == 4.0
    assert cost(TokenUsage(0, MILLION), "gemini", "cheap") == 2.5


def test_cached_tokens_are_billed_once_at_their_own_price():
    usage = TokenUsage(
        input_tokens=MILLION,
        cache_read_tokens=400_000,
        cache_write_tokens=500_000,
        cache_write_1h_tokens=200_000,
    )
    expected = 0.1 * 2 + 0.4 * 0.10 + 0.3 * 2.50 + 0.2 * 4.0
    assert cost(usage, "anthropic", "capable") == pytest.approx(expected)


def test_a_prompt_above_the_threshold_pays_the_higher_price_for_every_token():
    assert cost(TokenUsage(100_000, 1_000), "anthropic", "cheap") == 0.0105
    assert cost(TokenUsage(100_001, 1_000), "anthropic", "cheap") == 0.0525005


def test_the_threshold_counts_cached_tokens_too():
    usage = TokenUsage(input_tokens=300_000, cache_read_tokens=299_000)
    assert cost(usage, "openai", "capable") == pytest.approx(0.001 * 2 + 0.299 * 0.10)


def test_the_last_of_several_thresholds_that_is_passed_decides():
    rate = Rate(1, ((10, 2), (20, 3)))
    assert [rate.of(tokens) for tokens in (0, 10, 11, 20, 21)] == [1, 1, 2, 2, 3]


def test_a_cache_without_a_price_of_its_own_costs_what_input_does():
    usage = TokenUsage(MILLION, 0, 300_000, 200_000, 100_000)
    assert cost_nanos(usage, PriceSchedule.flat(3, 0), NOW) == 3 * USD
    one_write_price = PriceSchedule.flat(3, 0, cache_write_price=5)
    assert cost_nanos(TokenUsage(MILLION, 0, 0, MILLION, MILLION), one_write_price, NOW) == 5 * USD


def test_a_cache_that_is_free_is_free():
    schedule = PriceSchedule.flat(3, 0, cache_read_price=0, cache_write_price=0)
    assert cost_nanos(TokenUsage(MILLION, 0, 400_000, 500_000), schedule, NOW) == 300_000_000


def test_every_price_that_a_user_gives_is_charged():
    mine = PriceSchedule.flat(
        "1", 2.0, cache_read_price=Decimal("0.25"), cache_write_price=4, cache_write_1h_price=8
    )
    usage = TokenUsage(4 * MILLION, MILLION, MILLION, 2 * MILLION, MILLION)
    assert cost_nanos(usage, mine, NOW) == (1 + 0.25 + 4 + 8 + 2) * USD


def test_a_float_price_is_taken_as_it_is_written():
    assert PriceSchedule.flat(0.1, 0.3).periods[0].input == Rate(100_000_000)
    assert PriceSchedule.flat(0.1 + 0.2, 0).periods[0].input == Rate(300_000_000)


@pytest.mark.parametrize(
    "price", [-1, "-0.5", float("nan"), float("inf"), "two", "", True, 1_000_001, "9" * 9999, 10**400]
)
def test_a_price_that_makes_no_sense_is_refused_in_one_line(price):
    with pytest.raises(
        InvalidRequestError, match=r"^output_price must be a number of USD per million tokens"
    ) as caught:
        PriceSchedule.flat(1, price)
    assert len(str(caught.value)) < 150


def test_a_fraction_of_a_nano_dollar_is_rounded_half_to_even_once():
    half = PriceSchedule.flat("0.0005", "0.0005")  # half a nano-dollar a token
    assert [cost_nanos(TokenUsage(n, 0), half, NOW) for n in range(6)] == [0, 0, 1, 2, 2, 2]
    assert cost_nanos(TokenUsage(1, 1), half, NOW) == 1


@pytest.mark.parametrize(
    ("strange", "billed_as"),
    [
        (TokenUsage(-5, 100), TokenUsage(0, 100)),
        (TokenUsage(100, -5), TokenUsage(100, 0)),
        (TokenUsage(10, 0, 100, 50), TokenUsage(150, 0, 100, 50)),
        (TokenUsage(100, 0, -20, -20, -20), TokenUsage(100, 0)),
        (TokenUsage(100, 0, 0, 20, 70), TokenUsage(100, 0, 0, 20, 20)),
    ],
)
def test_usage_that_cannot_be_is_billed_as_the_nearest_that_can(strange, billed_as):
    schedule = get_model("anthropic", "capable").prices
    assert cost_nanos(strange, schedule, NOW) == cost_nanos(billed_as, schedule, NOW)


def test_a_price_changes_at_midnight_utc_of_its_date():
    schedule = get_model("gemini", "premium").prices
    usage = TokenUsage(MILLION, 0)
    change = 1_796_083_200  # 2026-12-01
    assert [cost_nanos(usage, schedule, change + s) / USD for s in (-1, -0.001, 0, 1)] == [2, 2, 4, 4]


def test_the_first_prices_hold_before_their_date_too_and_the_last_for_ever():
    schedule = PriceSchedule(
        (PricePeriod(100, Rate(1), Rate(1)), PricePeriod(200, Rate(2), Rate(2))), "t", 150
    )
    assert [schedule.at(at).input.base for at in (-1.0, 199.0, 200.0, 1e18)] == [1, 1, 2, 2]
    assert schedule.at().input.base == 1


def test_the_local_model_is_known_to_be_free():
    assert get_model("local", "cheap").prices == FREE
    assert cost_nanos(TokenUsage(MILLION, MILLION), FREE, NOW) == 0


def test_a_schedule_says_where_its_prices_are_from():
    table = price_table()
    assert table is price_table()
    assert table.version.startswith("genai-prices ")
    assert {schedule.version for schedule in table.schedules.values()} == {table.version}
    assert PriceSchedule.flat(1, 1).version == "user"
    assert FREE.version == "free"


def test_the_price_file_is_what_the_tool_writes():
    spec = importlib.util.spec_from_file_location("make_prices", ROOT / "tools" / "make_prices.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    text = Path(prices.__file__).with_name("prices.json").read_text(encoding="utf-8")
    table = json.loads(text)
    assert tool.laid_out(table) == text
    assert tool.price_list() == table["models"]

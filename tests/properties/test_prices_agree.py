"""Our integer cost function against ``genai-prices``, which the prices are taken from."""

from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal

import pytest
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import Usage
from hypothesis import given, settings
from hypothesis import strategies as st

from attune.models.prices import cost_nanos
from attune.models.registry import ModelInfo, ModelRegistry
from attune.models.telemetry import NANOS_PER_USD, TokenUsage

PRICED = [model for model in ModelRegistry.default().models if not model.local]


def reference(model: ModelInfo):
    provider_id = {"gemini": "google"}.get(model.provider, model.provider)
    return get_snapshot().find_provider_model(model.id, None, provider_id, None)


def reference_nanos(usage: TokenUsage, model: ModelInfo, moment: datetime) -> int:
    provider, found = reference(model)
    calculated = found.calc_price(Usage(**usage._asdict()), provider, genai_request_timestamp=moment)
    return int((calculated.total_price * NANOS_PER_USD).to_integral_value(ROUND_HALF_EVEN))


def around(thresholds: list[int]) -> st.SearchStrategy[int]:
    """Sizes of every order, and those that lie beside a tier's threshold."""
    near = st.builds(lambda t, d: t + d, st.sampled_from(thresholds or [1000]), st.integers(-2, 2))
    return st.one_of(st.integers(0, 20), st.integers(0, 2_000_000), near)


@st.composite
def usages(draw: st.DrawFn, model: ModelInfo) -> TokenUsage:
    prompt = draw(around([t for period in model.prices.periods for t, _ in period.input.tiers]))
    read = draw(st.integers(0, prompt))
    write = draw(st.integers(0, prompt - read))
    return TokenUsage(
        input_tokens=prompt,
        output_tokens=draw(st.integers(0, 200_000)),
        cache_read_tokens=read,
        cache_write_tokens=write,
        cache_write_1h_tokens=draw(st.integers(0, write)),
    )


@st.composite
def moments(draw: st.DrawFn, model: ModelInfo) -> datetime:
    """Any time of some years, and those within seconds of a change of price."""
    changes = [int(period.start) for period in model.prices.periods[1:]]
    anywhere = st.integers(1_600_000_000, 2_000_000_000)
    near = st.builds(lambda s, d: s + d, st.sampled_from(changes or [1_795_305_600]), st.integers(-3, 3))
    return datetime.fromtimestamp(draw(st.one_of(anywhere, near)), UTC)


@pytest.mark.parametrize("model", PRICED, ids=lambda model: model.label)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_the_cost_is_that_of_genai_prices_rounded_half_even_to_the_nano_dollar(model, data):
    usage, moment = data.draw(usages(model)), data.draw(moments(model))
    assert cost_nanos(usage, model.prices, moment.timestamp()) == reference_nanos(usage, model, moment)


@pytest.mark.parametrize("model", PRICED, ids=lambda model: model.label)
def test_the_window_of_the_catalog_is_that_of_genai_prices(model):
    assert reference(model)[1].context_window in {model.context_window, None if model.embeds else 0}


@given(st.integers(0, 10**15))
def test_a_sum_is_rounded_once_half_to_even(amount):
    from attune.models.prices import _divide_half_even

    exact = (Decimal(amount) / 1_000_000).to_integral_value(ROUND_HALF_EVEN)
    assert _divide_half_even(amount, 1_000_000) == exact


counts = st.integers(-(10**6), 10**6)


@pytest.mark.parametrize("model", PRICED, ids=lambda model: model.label)
@given(usage=st.builds(TokenUsage, counts, counts, counts, counts, counts))
@settings(max_examples=100, deadline=None)
def test_a_usage_that_cannot_be_is_neither_billed_negative_nor_refused(model, usage):
    assert cost_nanos(usage, model.prices, 1_795_305_600.0) >= 0


@pytest.mark.parametrize("model", PRICED, ids=lambda model: model.label)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_another_token_never_lowers_the_cost(model, data):
    usage = data.draw(usages(model))
    longer = usage._replace(input_tokens=usage.input_tokens + 1, output_tokens=usage.output_tokens + 1)
    at = data.draw(moments(model)).timestamp()
    assert cost_nanos(longer, model.prices, at) >= cost_nanos(usage, model.prices, at)

"""Write ``src/attune/models/prices.json`` from the genai-prices package, for the catalog's models.

Run it as ``make prices`` after a change of the catalog or of the package. The output depends on
nothing but these two; the date in it changes only when something else does.
"""

import json
import sys
import tomllib
from datetime import UTC, datetime, time
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo, ModelPrice, StartDateConstraint, TieredPrices

MODELS = Path(__file__).resolve().parent.parent / "src" / "attune" / "models"
PROVIDER_IDS = {"gemini": "google"}
"""Where genai-prices calls a provider by another name than attune."""

RATES = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cache_read": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "cache_write_1h": "cache_write_1h_mtok",
}
NOT_TOKENS = {"web_searches_kcount", "storage_searches_kcount"}
"""Prices of tools that run at the provider; they are not part of a token usage."""

FIRST = datetime.fromtimestamp(0, UTC)


def nanos(usd: Decimal) -> int:
    """USD per million tokens as nano-dollars per million tokens; exact, or the script stops."""
    scaled = usd * 1_000_000_000
    if scaled != int(scaled):
        sys.exit(f"price {usd} is finer than a nano-dollar per million tokens: change the unit first")
    return int(scaled)


def rate(price: Decimal | TieredPrices) -> list[int | list[int]]:
    """A rate as [base, [threshold, rate], ...]."""
    if isinstance(price, TieredPrices):
        return [nanos(price.base), *([tier.start, nanos(tier.price)] for tier in price.tiers)]
    return [nanos(price)]


def period(start: datetime, prices: ModelPrice, label: str) -> dict[str, object]:
    """The rates that hold from ``start`` on."""
    present = {key for key, price in vars(prices).items() if price is not None}
    if strange := present - set(RATES.values()) - NOT_TOKENS:
        sys.exit(f"{label}: attune does not know the prices {sorted(strange)}; teach cost_nanos first")
    rates = {name: rate(getattr(prices, key)) for name, key in RATES.items() if key in present}
    return {"start": start.date().isoformat(), **rates}


def periods(model: ModelInfo, label: str) -> list[dict[str, object]]:
    """The model's standard prices, one entry for each date on which they change."""
    starts = {FIRST}
    for conditional in model.prices if isinstance(model.prices, list) else ():
        match conditional.constraint:
            case None:
                pass
            case StartDateConstraint(start_date):
                starts.add(datetime.combine(start_date, time(), UTC))
            case other:
                sys.exit(f"{label}: attune does not know prices by {type(other).__name__}")
    return [period(start, model.get_prices(start), label) for start in sorted(starts)]


def price_list() -> dict[str, list[dict[str, object]]]:
    """The entries of every model of the catalog that is not local."""
    catalog = tomllib.loads((MODELS / "catalog.toml").read_text(encoding="utf-8"))
    entries = {}
    for model in catalog["models"]:
        if model.get("local"):
            continue
        provider_id = PROVIDER_IDS.get(model["provider"], model["provider"])
        label = f"{model['provider']}/{model['id']}"
        _, found = get_snapshot().find_provider_model(model["id"], None, provider_id, None)
        if found.id != model["id"]:
            sys.exit(f"{label}: genai-prices only has {found.id}")
        entries[label] = periods(found, label)
        if "embeddings" in model["abilities"]:  # whose answers have no tokens, and so no price
            entries[label] = [{**each, "output": [0]} for each in entries[label]]
    return entries


def laid_out(table: dict[str, Any]) -> str:
    """The table as JSON, one line for the prices of a model from a date on."""
    head = "".join(f'"{key}": {json.dumps(table[key])},\n' for key in ("unit", "version", "as_of"))
    models = ",\n".join(
        f"{json.dumps(label)}: [\n  " + ",\n  ".join(map(json.dumps, entries)) + "\n]"
        for label, entries in table["models"].items()
    )
    return f'{{\n{head}"models": {{\n{models}\n}}\n}}\n'


def main() -> None:
    """Write the file, with today's date if anything in it changed, and say so."""
    target = MODELS / "prices.json"
    old = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {}
    new: dict[str, Any] = {
        "unit": "nano-dollars per million tokens; a rate is [base, [above so many prompt tokens, rate], ...]",
        "version": f"genai-prices {version('genai-prices')}",
        "as_of": old.get("as_of"),
        "models": price_list(),
    }
    if new != old:
        new["as_of"] = datetime.now(UTC).date().isoformat()
    target.write_text(laid_out(new), encoding="utf-8")
    change = "unchanged" if new == old else "changed"
    sys.stdout.write(f"{target.name}: {new['version']}, {len(new['models'])} models, {change}\n")


if __name__ == "__main__":
    main()

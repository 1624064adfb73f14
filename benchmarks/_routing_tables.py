"""The tables of the routing benchmark, from the folder that holds them; none is in the repository."""

from __future__ import annotations

import gzip
import json
import random
from typing import TYPE_CHECKING, Any

from attune.models.simulation import Arm, Row, row_of

if TYPE_CHECKING:
    from pathlib import Path

FILES = ("paretobandit/val.jsonl.gz", "routellm/mmlu.jsonl.gz", "routellm/gsm8k.jsonl.gz")
CHEAP, CAPABLE, PREMIUM = (
    "meta-llama/llama-3.1-8b-instruct",
    "mistralai/mistral-large-2512",
    "google/gemini-2.5-pro",
)
PARETO_MODELS = [PREMIUM, CAPABLE, CHEAP]
PARETO_RANKS = {CHEAP: 0, CAPABLE: 1, PREMIUM: 2}
ROUTELLM_MODELS = ["strong", "weak"]
ROUTELLM_RANKS = {"weak": 0, "strong": 1}


def _records(path: Path) -> list[dict[str, Any]]:
    """One JSON object a line; prompts hold other line separators, so only newlines split."""
    text = gzip.decompress(path.read_bytes()).decode()
    return [json.loads(line) for line in text.split("\n") if line]


def pareto(data: Path, *, key: bool = True, prompts: bool = False) -> list[Row]:
    """ParetoBandit's validation split, with or without the task key and the prompts."""
    records = _records(data / "paretobandit" / "val.jsonl.gz")
    rows = [row_of(record, "source" if key else None, f"row {i}") for i, record in enumerate(records, 1)]
    return rows if prompts else without_prompts(rows)


def routellm(data: Path, name: str, *, prompts: bool) -> list[Row]:
    """RouteLLM's ``mmlu`` by subject or ``gsm8k`` without a key; the strong model costs 1, the weak 0."""
    rows = []
    for record in _records(data / "routellm" / f"{name}.jsonl.gz"):
        if not record["contaminated"]:
            arms = {"strong": Arm(float(record["strong"]), 1.0), "weak": Arm(float(record["weak"]), 0.0)}
            rows.append(Row(record.get("subject", "*"), record["prompt"], arms))
    return rows if prompts else without_prompts(rows)


def without_prompts(rows: list[Row]) -> list[Row]:
    return [row._replace(prompt=None) for row in rows]


def stream(rows: list[Row], count: int, seed: int) -> list[Row]:
    """The rows in shuffled order, again and again."""
    generator = random.Random(seed)
    found: list[Row] = []
    while len(found) < count:
        found += generator.sample(rows, len(rows))
    return found[:count]


def altered(row: Row, model: str, *, less: float = 0.0, price: float = 1.0) -> Row:
    """The row with one model's reward lowered (not below 0) and its cost multiplied."""
    arm = row.arms[model]
    changed = Arm(min(max(arm.reward - less, 0.0), 1.0), arm.cost * price)
    return row._replace(arms={**row.arms, model: changed})

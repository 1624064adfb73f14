"""A small generated table of tasks and models, for simulations."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

from attune.models.simulation import row_of

if TYPE_CHECKING:
    from pathlib import Path

    from attune.models.simulation import Row

MODELS = ["large", "small"]
RANKS = {"small": 0, "large": 2}
MEANS = {"chat": (0.95, 0.93), "proof": (0.9, 0.4), "code": (0.9, 0.75)}
"""How often the large and the small model are right, by key; the small one costs a fiftieth."""


def records(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """The rows as JSON objects, keyed by ``task``."""
    generator = random.Random(seed)
    found = []
    for i in range(count):
        key = list(MEANS)[i % 3]
        large, small = (float(generator.random() < p) for p in MEANS[key])
        cost = generator.uniform(0.5, 1.5)
        arms = {
            "large": {"reward": large, "cost": cost, "latency_ms": 2000 * cost},
            "small": {"reward": small, "cost": cost / 50, "latency_ms": 500 * cost},
        }
        prompt = f"{key}: task {i} " + "x" * generator.randrange(200)
        found.append({"task": key, "prompt": prompt, "arms": arms})
    return found


def rows(count: int, seed: int = 0, *, prompts: bool = True) -> list[Row]:
    """The rows as the engine takes them."""
    found = [row_of(record, "task", f"row {i}") for i, record in enumerate(records(count, seed))]
    return found if prompts else [row._replace(prompt=None) for row in found]


def write(file: Path, table: list[dict[str, Any]]) -> Path:
    """The table as a file of JSON lines."""
    file.write_text("".join(json.dumps(record) + "\n" for record in table))
    return file

"""Logged calls made up for estimates: what each model gives is known, so that the truth is too."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from attune.models.estimators import LoggedCall

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MODELS = ("p/cheap", "p/dear")
COSTS = (0.001, 0.01)
CHEAP, DEAR, EVEN = (1.0, 0.0), (0.0, 1.0), (0.5, 0.5)

KEYS = ("easy", "middling", "hard")
RATES = {"easy": (0.95, 0.97), "middling": (0.8, 0.9), "hard": (0.4, 0.85)}
"""How often each model succeeds."""


def made(  # one call in full is what a test wants to see
    number: int = 0,
    *,
    logged: Sequence[float] = EVEN,
    target: Sequence[float] = CHEAP,
    current: Sequence[float] | None = None,
    chosen: int = 0,
    success: float = 1.0,
    cost: float | None = None,
    most: float | None = 0.02,
    run: str | None = None,
    key: str = "easy",
    models: Sequence[str] = MODELS,
) -> LoggedCall:
    """One call; a run of its own that cost what its model costs, unless said otherwise."""
    return LoggedCall(
        key=("workflow", "stage", key),
        run=f"run-{number}" if run is None else run,
        models=models,
        logged=logged,
        current=logged if current is None else current,
        target=target,
        chosen=chosen,
        success=success,
        cost=COSTS[chosen] if cost is None else cost,
        most=most,
    )


def drawn(
    calls: int,
    seed: int = 0,
    *,
    logged: Callable[[str], Sequence[float]] = lambda key: EVEN,
    target: Callable[[str], Sequence[float]] = lambda key: CHEAP,
    run_length: int = 1,
) -> list[LoggedCall]:
    """Calls of a policy that draws. The calls of a run share their key and the luck of their cost."""
    generator = random.Random(seed)
    found = []
    for number in range(calls):
        if number % run_length == 0:
            key, luck = generator.choice(KEYS), generator.expovariate(1.0)
        chosen = generator.choices(range(2), logged(key))[0]
        success = float(generator.random() < RATES[key][chosen])
        cost = COSTS[chosen] * (0.5 + 0.5 * luck)
        run = f"{seed}-{number // run_length}"
        vectors = {"logged": logged(key), "target": target(key)}
        found.append(made(number, chosen=chosen, success=success, cost=cost, run=run, key=key, **vectors))
    return found


def truth(target: Callable[[str], Sequence[float]]) -> tuple[float, float]:
    """The success rate and cost a call of a policy on ``drawn`` calls."""
    success = sum(p * RATES[key][i] for key in KEYS for i, p in enumerate(target(key))) / len(KEYS)
    cost = sum(p * COSTS[i] for key in KEYS for i, p in enumerate(target(key))) / len(KEYS)
    return success, cost

"""From a configuration and a ledger to a router that knows what was learned."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

from attune.clock import SYSTEM_CLOCK
from attune.models.adaptive_routing import AdaptiveModelRouter
from attune.models.policies import Allowance

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

    from attune.clock import Clock
    from attune.config import Config
    from attune.models.candidate import Availability
    from attune.stores.sqlite import SqliteReader

__all__ = ["collection_paused", "restore", "router_of"]

RECALLED_ATTEMPTS = 500
"""How many of the newest attempts in the ledger are looked at for what prompt caches may still hold."""


def router_of(
    config: Config, availability: Availability, clock: Clock = SYSTEM_CLOCK, rng: Random | None = None
) -> AdaptiveModelRouter:
    """The router that a configuration describes, before it has learned anything."""
    allowed = dict(config.routing.workflows)
    if config.routing.allow_providers is not None:
        allowed["*"] = config.routing.allow_providers
    return AdaptiveModelRouter(
        config.registry,
        credentials=config.enrolled,
        availability=availability,
        clock=clock,
        window_days=config.routing.window_days,
        allow_providers=allowed,
        local_only=config.routing.local_only,
        policy=config.routing.policy,
        explore=config.routing.explore,
        margin=config.routing.margin,
        budget=_allowance(config),
        rng=rng,
        strategy=config.auth,
        grants=config.grants,
    )


def restore(router: AdaptiveModelRouter, ledger: SqliteReader, clock: Clock = SYSTEM_CLOCK) -> None:
    """Let a router take in the telemetry of a ledger."""
    first = router.stats.first_bucket(clock.time())
    with collection_paused():
        router.restore(ledger.rollups(first, max_cells=router.stats.max_cells))
    for record in reversed(ledger.recent_attempts(RECALLED_ATTEMPTS)):
        router.caches.observe(record)


@contextmanager
def collection_paused() -> Iterator[None]:
    """No garbage is collected meanwhile: restoring makes 100,000 objects and no garbage, and looking for
    some would take a third of its time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _allowance(config: Config) -> Allowance | None:
    usd = config.routing.budget_usd
    return None if usd is None else Allowance(usd, config.routing.budget_per)

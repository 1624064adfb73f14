"""What processes on one ledger tell each other: facts, what policies learned, the demand for quota, what
credits paid.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from attune.errors import StoreError
from attune.models.policy_names import VERSIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from attune.clock import Clock
    from attune.models.adaptive_routing import AdaptiveModelRouter
    from attune.models.failure_domains import FailureDomains
    from attune.models.state import Fact
    from attune.stores.sqlite import SqliteStore

__all__ = ["Sharing"]

SYNC_SECONDS = 1.0
"""How often a running process reads what others found out about breakers and credentials."""

HEARD_EVERY = 30
"""Rounds after which a process that has nothing to tell reads what policies learned elsewhere, and after
which the demand for quota is stored again.
"""


class Sharing:
    """Keeps a process's router and failure domains in step with those of the others on its ledger.

    What is said of asking and telling happens in the loop that owns the router; the store is read and written
    beside it.
    """

    def __init__(
        self, router: AdaptiveModelRouter, domains: FailureDomains, store: SqliteStore, clock: Clock
    ) -> None:
        self._router = router
        self._domains = domains
        self._store = store
        self._clock = clock
        self._running = asyncio.Lock()
        self._heard_at = clock.monotonic()
        self._task: asyncio.Task[None] | None = None
        router.steering.hear(store.policy_sums(VERSIONS["guarded"]))
        self._learn(*self._read())

    async def catch_up(self) -> None:
        """What the others found out by now, for a process that does not ``follow`` them."""
        self._learn(*await asyncio.to_thread(self._read))
        if self._task is None and not self._running.locked():  # else it is done beside the calls
            due = self._clock.monotonic() - self._heard_at >= HEARD_EVERY * SYNC_SECONDS
            self._heard_at = self._clock.monotonic() if due else self._heard_at
            with suppress(StoreError):
                await self._share(ask=due)

    def follow(self) -> None:
        """Begin to keep in step, in the running loop, until ``end``."""
        self._task = asyncio.create_task(self._follow())

    async def end(self) -> None:
        """Stop following, if it is done in the running loop."""
        if self._task is None or self._task.get_loop() is not asyncio.get_running_loop():
            return
        async with self._running:  # what is being told must not be told again
            self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    def tell_the_rest(self) -> None:
        """Store what was not told yet, at the end of the process; closing the store reports what is wrong."""
        with suppress(StoreError):
            if changes := self._router.steering.tell():
                self._store.add_policy_sums(VERSIONS["guarded"], changes)
            self._put(self._router.prepaid.untold(self._clock.time()))

    async def _follow(self) -> None:
        rounds = 0
        while True:
            await asyncio.sleep(SYNC_SECONDS)
            rounds += 1
            with suppress(StoreError):  # the writer reports what is wrong with the file
                self._learn(*await asyncio.to_thread(self._read))
                await self._share(ask=not rounds % HEARD_EVERY)

    async def _share(self, *, ask: bool) -> None:
        """Tell the others what was learned here, and hear what all know: if told to ``ask``, in any case."""
        steering, policy = self._router.steering, VERSIONS["guarded"]
        async with self._running:
            if changes := steering.tell():
                steering.hear(await asyncio.to_thread(self._store.add_policy_sums, policy, changes))
            elif ask:
                steering.hear(await asyncio.to_thread(self._store.policy_sums, policy))
            if ask:
                self._put(self._router.prepaid.untold(self._clock.time()))

    def _read(self) -> tuple[Sequence[Fact], Mapping[tuple[str, str], int]]:
        return self._store.facts(), self._store.paid() if self._router.prepaid.counts_credits else {}

    def _learn(self, facts: Sequence[Fact], paid_nanos: Mapping[tuple[str, str], int]) -> None:
        self._domains.learn(facts)
        self._router.prepaid.learn(facts, self._clock.time())
        self._put(self._router.prepaid.reconcile(paid_nanos, self._clock.time()))

    def _put(self, facts: Sequence[Fact]) -> None:
        for fact in facts:
            self._store.put_fact(fact)

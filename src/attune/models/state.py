"""The protocols of everything that is kept: the ledger, roll-ups, facts, leases and keys.

The embedded default of each is SQLite (``attune.stores.sqlite``). Appends never block on a disk;
reads are for surfaces and for start-up, never for a decision.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from attune.models.telemetry import Decided

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from attune.models.telemetry import DecisionRecord, LLMCallRecord, Outcome

__all__ = [
    "Fact",
    "FactKind",
    "FactStore",
    "KeyLimits",
    "KeyRecord",
    "KeyScopes",
    "KeyStore",
    "LeaseStore",
    "LedgerStore",
    "LedgerTotals",
    "OutcomeTarget",
    "RollupRow",
    "RollupStore",
]


class LedgerTotals(NamedTuple):
    """Sums over the ledger. ``unknown_cost_attempts`` are not part of ``cost_nanos``, and neither is
    ``list_cost_nanos``: what the answers that plans paid for would have cost at list price.
    """

    calls: int
    attempts: int
    failed_attempts: int
    input_tokens: int
    output_tokens: int
    cost_nanos: int
    unknown_cost_attempts: int
    list_cost_nanos: int = 0


class OutcomeTarget(NamedTuple):
    """The attempt that an outcome is about, what an earlier one had said of it (``None``: none did), and
    what decided its call.
    """

    record: LLMCallRecord
    previous: Outcome | None
    decided: Decided = Decided()


class LedgerStore(Protocol):
    """The durable record of decisions, attempts and outcomes."""

    def append_decision(self, record: DecisionRecord) -> None:
        """Take a decision; it is durable after the next ``flush`` or within 100 ms."""

    def append_attempt(self, record: LLMCallRecord) -> None:
        """Take an attempt; roll-ups are updated in the same transaction."""

    def append_outcome(self, outcome: Outcome) -> None:
        """Take an outcome, behind the attempt that it is about; roll-ups are corrected in the same
        transaction. One of an unknown attempt changes nothing.
        """

    def record_outcome(self, outcome: Outcome) -> OutcomeTarget | None:
        """Store an outcome at once and correct the roll-ups; ``None`` for an unknown call."""

    def outcomes(self, call_id: str) -> Sequence[Outcome]:
        """What was said of the answers of one call, the oldest first."""

    async def flush(self) -> None:
        """Return when everything appended before is committed. Raises ``StoreError``."""

    def attempts(self, call_id: str) -> Sequence[LLMCallRecord]:
        """The attempts of one call, in order."""

    def recent_attempts(self, limit: int) -> Sequence[LLMCallRecord]:
        """The newest attempts first."""

    def decision(self, call_id: str) -> DecisionRecord | None:
        """The decision of one call."""

    def totals(self, since: float = 0.0) -> LedgerTotals:
        """Sums since a time (UTC epoch seconds), answered from roll-ups (whole buckets)."""


class RollupRow(NamedTuple):
    """Telemetry of one (workflow, stage, task, provider, model) in one bucket of time.

    ``bucket`` is the index of the bucket: floor(epoch seconds / BUCKET_SECONDS). Sums are over counted calls
    (see ``attune.models.performance.counts``): latency over successful ones and time-outs, and over cancelled
    calls, which are not counted otherwise (see ``timed_out`` there); cost over those with a known cost,
    tokens over those with reported usage. ``latency_bins`` are the serialised bins of the latency sketch, of
    successes and time-outs. ``recent`` holds the last 20 results of the bucket as bits, newest lowest, 1 for
    a failure; ``recent_count`` how many are valid. ``labelled`` are the answers of which an outcome is known,
    ``label_sum`` the sum of their labels; ``judged`` those that a validator gave a verdict on, ``passed``
    those that it let through.
    """

    bucket: int
    workflow: str
    stage: str
    task_type: str
    provider: str
    model_id: str
    tier: str
    calls: int
    successes: int
    latency_ms_sum: float
    cost_nanos_sum: int
    cost_count: int
    input_tokens_sum: int
    output_tokens_sum: int
    usage_count: int
    latency_bins: bytes
    recent: int
    recent_count: int
    labelled: int = 0
    label_sum: float = 0.0
    judged: int = 0
    passed: int = 0
    drawn: int = 0
    drawn_sum: float = 0.0


class RollupStore(Protocol):
    """Telemetry summed by key and bucket of time; what statistics are restored from."""

    def rollups(self, since_bucket: int, *, max_cells: int | None = None) -> Iterable[RollupRow]:
        """The rows of ``bucket >= since_bucket``, oldest bucket first.

        With ``max_cells`` only those of so many keys, the most recently active: by their newest
        bucket, then by the calls in it.
        """


class FactKind(StrEnum):
    """What a fact is about; the key that goes with each."""

    BREAKER = "breaker"  # key: failure domain
    COOLDOWN = "cooldown"  # key: candidate, or provider/model when it is overloaded
    CREDENTIAL_OFF = "credential_off"  # key: provider#credential
    MODEL_OFF = "model_off"  # key: candidate, or provider#credential#family
    QUOTA = "quota"  # key: provider#credential#window


class Fact(NamedTuple):
    """Something that holds until a time and that other processes should know.

    ``until`` is UTC epoch seconds; 0 clears the fact. ``at`` is when it was learned. ``detail``
    is a short text for people, ``data`` a small JSON text for the reader of this kind. Never
    holds a secret.
    """

    kind: FactKind
    key: str
    until: float
    at: float
    detail: str = ""
    data: str = ""


class FactStore(Protocol):
    """Breaker trips, cooldowns, credentials that are off, quota windows.

    A later deadline always wins, whatever the order of arrival; a clearing fact (``until`` 0)
    wins over every fact learned before it.
    """

    def put_fact(self, fact: Fact) -> None:
        """Take a fact; stored in the background."""

    def facts(self) -> Sequence[Fact]:
        """All facts that still hold now, those cleared within the last hour, and breaker trips that
        nobody cleared, for a day after their deadline (``until`` is then in the past).
        """


class LeaseStore(Protocol):
    """Reserve, settle and expire an amount of a limited resource (nano-dollars, tokens).

    All amounts are integers. A reservation that is never settled is counted in full after it
    expires: what may have been spent is never forgotten.
    """

    async def reserve(
        self, resource: str, amount: int, *, limit: int, window_start: float, ttl_s: float, now: float
    ) -> str | None:
        """Reserve ``amount`` if spent + reserved since ``window_start`` stays within ``limit``.

        Returns the lease's id, or ``None`` when the limit would be passed.
        """

    def settle(self, lease_id: str, amount: int) -> None:
        """Replace a reservation with what was really used, in the background. Twice changes nothing."""

    def used(self, resource: str, window_start: float) -> int:
        """Spent plus reserved since ``window_start``."""


class KeyScopes(NamedTuple):
    """What a key of the gateway may use; ``None`` allows every one.

    ``models`` are ids or ``provider/id``, ``routes`` paths of the gateway with all below them (``None``:
    those of callers, under ``/v1``). ``realtime`` allows to say that a task is a realtime one.
    """

    models: frozenset[str] | None = None
    tiers: frozenset[str] | None = None
    routes: frozenset[str] | None = None
    providers: frozenset[str] | None = None
    realtime: bool = False


class KeyLimits(NamedTuple):
    """How much a key of the gateway may use; ``None`` is no limit. Dollars are of the UTC day and month."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    usd_per_day: float | None = None
    usd_per_month: float | None = None


class KeyRecord(NamedTuple):
    """A key of the gateway as it is kept: all but the key itself.

    ``id`` is public, ``digest`` the SHA-256 of the key. ``created``, ``expires`` (``None``: never) and
    ``revoked`` (``None``: not) are UTC epoch seconds.
    """

    id: str
    name: str
    digest: bytes
    created: float
    expires: float | None = None
    revoked: float | None = None
    scopes: KeyScopes = KeyScopes()
    limits: KeyLimits = KeyLimits()


class KeyStore(Protocol):
    """The keys of the gateway. Everything blocks until it is done, and raises ``StoreError``."""

    def add_key(self, record: KeyRecord) -> bool:
        """Keep a key; ``False``, and it is not kept, when one that is not revoked has its name."""

    def revoke_key(self, key_id: str, at: float) -> bool:
        """Take a key back for good; ``False`` when there is none with this id that is not revoked."""

    def all_keys(self) -> Sequence[KeyRecord]:
        """Every key, also the revoked and the expired, the oldest first."""

    def keys_version(self) -> int:
        """A number that is another one after every change of the keys; cheaper to ask for than they are."""

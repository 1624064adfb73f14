"""How a model has done, as one value, and the small statistics that go into it."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, NamedTuple

from attune.errors import ErrorClass, InvalidRequestError
from attune.models.telemetry import TIMED_OUT

if TYPE_CHECKING:
    from attune.models.telemetry import LLMCallRecord, Outcome

__all__ = [
    "BUCKET_SECONDS",
    "Labels",
    "LatencySketch",
    "ModelPerformance",
    "counts",
    "label_change",
    "quality",
    "timed_out",
    "wilson_bounds",
]

BUCKET_SECONDS = 86_400
"""A bucket is a UTC day: a window of N days is today's bucket and the N before it."""
RECENT = 20
"""How many of the newest results of a cell are remembered one by one."""

PRIOR_SUCCESS_RATE = 0.9
PRIOR_LATENCY_MS = 2000.0
PRIOR_COST_USD = 0.005
PRIOR_WEIGHT = 10.0
"""Calls that are too few to say much by themselves; see ``borrowed_weight``."""
DENSE = 30
"""Calls from which a statistic stands for itself."""

_RECENT_MASK = (1 << RECENT) - 1

_SAYS_NOTHING_OF_THE_MODEL = frozenset(
    {
        ErrorClass.CALLER,
        ErrorClass.CANCELLED,
        ErrorClass.CONTEXT,
        ErrorClass.CREDENTIAL,
        ErrorClass.INTERNAL,
        ErrorClass.MODEL,
        ErrorClass.MONEY,
        ErrorClass.THROTTLED,
        ErrorClass.WINDOW_SPENT,
    }
)


class Labels(NamedTuple):
    """What is known of answers: how many have a label, the sum of the labels (0..1 each), on how many a
    validator gave a verdict, and how many of those it let through.
    """

    labelled: int = 0
    label_sum: float = 0.0
    judged: int = 0
    passed: int = 0

    def plus(self, more: Labels) -> Labels:
        """The two together."""
        return Labels(
            self.labelled + more.labelled,
            self.label_sum + more.label_sum,
            self.judged + more.judged,
            self.passed + more.passed,
        )


def label_change(previous: Outcome | None, outcome: Outcome) -> Labels:
    """What an outcome adds to the labels of a bucket, once ``previous`` was added."""
    judged = outcome.source == "validator"
    return Labels(
        labelled=previous is None,
        label_sum=outcome.label - (0.0 if previous is None else previous.label),
        judged=judged,
        passed=judged and outcome.success,
    )


def counts(record: LLMCallRecord) -> bool:
    """Whether an attempt says something of the candidate's reliability.

    A caller's mistake, a cancelled call, a bad or empty credential and a throttle do not.
    """
    return record.success or record.error_class not in _SAYS_NOTHING_OF_THE_MODEL


def timed_out(record: LLMCallRecord) -> bool:
    """Whether a time limit ended an attempt that ``counts``: its latency is above the time that had passed.

    The same holds for a cancelled attempt, which does not count. Such latencies are censored on the right:
    their time enters the sum of latencies and not the number of successes that the sum is divided by, which
    is the maximum-likelihood mean of exponential times (Epstein and Sobel 1953; Lawless 2003 for any
    censoring). The sketch takes time-outs as they are, and no cancelled ones: when those were stopped says
    nothing of a quantile. Failures of another kind say nothing of the latency, however long they took.
    """
    return record.error_code == TIMED_OUT and not record.success and counts(record)


def join_recent(older: int, newer: int, newer_count: int) -> int:
    """The last ``RECENT`` results of two runs, one after the other."""
    return ((older << newer_count) | newer) & _RECENT_MASK


def newest(bits: int, count: float) -> int:
    """The newest ``count`` of the last results."""
    return bits & (1 << min(int(count), RECENT)) - 1


def borrowed_weight(calls: float) -> float:
    """How many calls the prior (or a parent) is worth beside ``calls`` of one's own: 10 (1 - calls / 30).

    It fades out, so that neither a success nor a failure ever moves an estimate the wrong way.
    """
    return PRIOR_WEIGHT * (1 - calls / DENSE) if calls < DENSE else 0.0


def wilson_bounds(successes: float, calls: float, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a rate (Wilson 1927), 95 % two-sided with the default ``z``."""
    if calls == 0:
        return 0.0, 1.0
    p = successes / calls
    z2 = z * z / calls
    centre = p + z2 / 2
    spread = z * math.sqrt(p * (1 - p) / calls + z2 / (4 * calls))
    return max(0.0, (centre - spread) / (1 + z2)), min(1.0, (centre + spread) / (1 + z2))


def quality(
    success_rate: float, latency_ms: float, cost_usd: float, recent_failures: float, known: float
) -> float:
    """The quality score, 0..1, of a success rate and a latency that have been drawn to the prior.

    ``known`` is the share of them that is not the prior's; the cost is drawn by it here. See
    ``ModelPerformance.quality_score``.
    """
    cost_share = 0.5 + known * (PRIOR_COST_USD / (PRIOR_COST_USD + cost_usd) - 0.5)
    latency_share = PRIOR_LATENCY_MS / (PRIOR_LATENCY_MS + latency_ms)
    raw = 0.7 * success_rate + 0.15 * latency_share + 0.15 * cost_share
    return raw * (1.0 - 0.02 * recent_failures)


class ModelPerformance(NamedTuple):
    """How a model has done: ``success_rate`` 0..1, ``avg_latency_ms`` milliseconds a successful
    call, ``avg_cost`` USD a call, ``sample_size`` calls, ``recent_failures`` among the last 20.
    """

    model_id: str
    tier: str
    success_rate: float
    avg_latency_ms: float
    avg_cost: float
    sample_size: int
    recent_failures: int = 0

    @property
    def quality_score(self) -> float:
        """One number to rank by, 0..1.

        With ``s`` the success rate, ``l`` the latency over 2 s, ``c`` the cost over $0.005, ``f``
        the recent failures and ``n`` the sample size::

            k     = n / (n + 10 (1 - n / 30)), and 1 from 30 calls on
            score = (0.7 (0.9 + k (s - 0.9))
                     + 0.15 / (1 + (1 + k (l - 1)))
                     + 0.15 (0.5 + k (1 / (1 + c) - 0.5))) (1 - 0.02 f)

        Success, latency and cost are drawn to those of a model with success 0.9, 2 s and $0.005, whose
        score is 0.78: the fewer calls, the nearer to it. It rises with success and falls with latency,
        cost and recent failures. The weights are attune's own: success leads, and neither latency nor
        cost can outweigh 22 points of it.
        """
        known = self.sample_size / (self.sample_size + borrowed_weight(self.sample_size))
        return quality(
            PRIOR_SUCCESS_RATE + known * (self.success_rate - PRIOR_SUCCESS_RATE),
            PRIOR_LATENCY_MS + known * (self.avg_latency_ms - PRIOR_LATENCY_MS),
            self.avg_cost,
            self.recent_failures,
            known,
        )


class LatencySketch:
    """Quantiles of latencies within 1 % of the true value, mergeable (DDSketch: Masson, Rim, Lee 2019).

    Latencies are clamped to 0.1 ms .. 10^7 ms, so that there are at most 922 bins. Bins are kept
    sparse, since most cells see few calls.
    """

    __slots__ = ("bins",)

    ACCURACY = 0.01
    _GAMMA = (1 + ACCURACY) / (1 - ACCURACY)
    _PER_LOG = 1 / math.log(_GAMMA)
    _PAIR = struct.Struct("<hI")

    def __init__(self) -> None:
        self.bins: dict[int, int] = {}

    def add(self, ms: float) -> None:
        """Count one latency in milliseconds."""
        index = math.ceil(math.log(min(max(ms, 0.1), 1e7)) * self._PER_LOG)
        self.bins[index] = self.bins.get(index, 0) + 1

    def merge(self, other: LatencySketch) -> None:
        """Add the counts of another sketch; the result is that of all latencies in one."""
        bins = self.bins
        for index, count in other.bins.items():
            bins[index] = bins.get(index, 0) + count

    @property
    def count(self) -> int:
        """How many latencies were added."""
        return sum(self.bins.values())

    def quantile(self, q: float) -> float | None:
        """The latency in milliseconds below which a share ``q`` (0..1) lies; ``None`` if empty."""
        if not 0 <= q <= 1:
            raise InvalidRequestError(f"a quantile lies between 0 and 1, not {q!r}")
        rank = q * (self.count - 1)
        seen = 0
        for index in sorted(self.bins):
            seen += self.bins[index]
            if seen > rank:
                return 2 * math.pow(self._GAMMA, index) / (self._GAMMA + 1)
        return None

    def to_bytes(self) -> bytes:
        """The bins as little-endian (int16 index, uint32 count) pairs."""
        pack = self._PAIR.pack
        return b"".join([pack(index, min(count, 0xFFFFFFFF)) for index, count in self.bins.items()])

    @classmethod
    def from_bytes(cls, data: bytes) -> LatencySketch:
        """The reverse of ``to_bytes``; pairs of the same index are added."""
        sketch = cls()
        bins = sketch.bins
        for index, count in cls._PAIR.iter_unpack(data):
            bins[index] = bins.get(index, 0) + count
        return sketch


def merge_bytes(a: bytes, b: bytes) -> bytes:
    """Merge two serialised sketches."""
    return LatencySketch.from_bytes(a + b).to_bytes()

"""Logged calls as an estimate reads them: what speaks for each policy, and a model of outcomes."""

from __future__ import annotations

import math
from collections import defaultdict
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["GROUPS", "LoggedCall", "OutcomeModel", "Sums", "Support", "Survey", "departs", "usable"]

ENOUGH_CALLS = 50
"""Effective calls below which a policy's departures are bounded instead of estimated."""
GROUPS = 250
"""Runs are put into so many groups at random, which are resampled whole."""
FOLDS = 5
ENOUGH_RUNS = 20
"""Workflow runs below which nothing is estimated: so few draws from what differs between runs."""
SHRINKAGE = 10.0
"""Calls that a mean's parent is worth beside its own."""
MAX_KEYS = 10_000
"""Keys beyond so many are judged as one."""
SURE = 1e-9
"""Probabilities closer than this are the same."""
ROUNDED = 1e-4
"""How far from 1 a sum of probabilities may be that were rounded when they were logged."""


class LoggedCall(NamedTuple):
    """One call: what was eligible, what was drawn, what it led to, and what the two policies would do.

    ``key`` is (workflow, stage, task), ``run`` names the workflow run: calls of one run are not independent.
    ``logged``, ``current`` and ``target`` are the probabilities of each of ``models``: those drawn from, and
    those of the policies. ``chosen`` is the index of the model that was drawn. ``success`` (0..1) and
    ``cost`` (USD at today's prices, ``None`` unknown) are those of the whole chain that followed, retries,
    fallbacks and hedges with it. ``most`` is the most that one answer could cost, ``None`` unknown.
    """

    key: tuple[str, str, str]
    run: str
    models: Sequence[str]
    logged: Sequence[float]
    current: Sequence[float]
    target: Sequence[float]
    chosen: int
    success: float
    cost: float | None
    most: float | None


class Support(NamedTuple):
    """How much of the logs speaks for a policy.

    ``departing`` is the share of calls on which it is another than what was logged. ``effective`` is Kish's
    effective number of calls, of all and of the departing ones, ``departing_runs`` that of the workflow runs
    with departing ones, which may have been drawn for together; ``largest_weight`` is that of one call,
    ``unsupported`` the share of its choices that the logging policy never makes.
    """

    departing: float
    effective: float
    effective_departing: float
    departing_runs: float
    largest_weight: float
    unsupported: float

    @property
    def enough(self) -> bool:
        """Whether its departures can be estimated."""
        if not self.departing:
            return True
        calls = min(self.effective, self.effective_departing)
        return calls >= ENOUGH_CALLS and self.departing_runs >= ENOUGH_RUNS


class Sums:
    """Calls, success, calls of known cost, cost; each times a weight."""

    __slots__ = ("calls", "cost", "costed", "success")

    def __init__(self) -> None:
        self.calls = self.success = self.costed = self.cost = 0.0

    def add(self, call: LoggedCall, weight: float = 1.0) -> None:
        self.calls += weight
        self.success += weight * call.success
        if call.cost is not None:
            self.costed += weight
            self.cost += weight * call.cost

    def plus(self, other: Sums) -> None:
        self.calls += other.calls
        self.success += other.success
        self.costed += other.costed
        self.cost += other.cost


class _Weights:
    """The importance weights of one policy; by key, the sums of calls as they are and times their weights."""

    def __init__(self) -> None:
        self.sum = self.squares = self.largest = self.unsupported = 0.0
        self.departing = 0
        self.departing_sum = self.departing_squares = 0.0
        self.runs: dict[int, float] = defaultdict(float)
        self.strata: dict[object, tuple[Sums, Sums]] = defaultdict(lambda: (Sums(), Sums()))

    def add(self, call: LoggedCall, key: object, vector: Sequence[float]) -> None:
        weight = vector[call.chosen] / call.logged[call.chosen]
        self.sum += weight
        self.squares += weight * weight
        self.largest = max(self.largest, weight)
        self.unsupported += sum(v for v, p in zip(vector, call.logged, strict=True) if p <= 0)
        if departs(call.logged, vector):
            self.departing += 1
            self.departing_sum += weight
            self.departing_squares += weight * weight
            self.runs[hash(call.run)] += weight
        plain, weighted = self.strata[key]
        plain.add(call)
        weighted.add(call, weight)

    def support(self, calls: int) -> Support:
        return Support(
            self.departing / calls,
            _kish(self.sum, self.squares),
            _kish(self.departing_sum, self.departing_squares),
            _kish(self.departing_sum, sum(weight * weight for weight in self.runs.values())),
            self.largest,
            self.unsupported / calls,
        )


class Survey:
    """What the calls hold: counts, weights, and the sums that the model of outcomes is fitted on."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._keys: set[tuple[str, str, str]] = set()
        self.calls = self.unusable = self.costed = self.certain = self.single = self.differing = 0
        self.groups: set[int] = set()
        self.weights = (_Weights(), _Weights())
        self.cells: list[dict[tuple[object, str], Sums]] = [defaultdict(Sums) for _ in range(FOLDS)]

    def add(self, call: LoggedCall) -> None:
        if not usable(call):
            self.unusable += 1
            return
        if len(self._keys) < MAX_KEYS:
            self._keys.add(call.key)
        key, group = self.key(call), self.group(call)
        self.calls += 1
        self.costed += call.cost is not None
        self.single += len(call.models) == 1
        self.certain += call.logged[call.chosen] >= 1 - SURE
        self.differing += departs(call.current, call.target)
        self.groups.add(group)
        self.cells[self.fold(group)][key, call.models[call.chosen]].add(call)
        for weights, vector in zip(self.weights, (call.current, call.target), strict=True):
            weights.add(call, key, vector)

    def key(self, call: LoggedCall) -> tuple[str, str, str] | None:
        """The call's key; ``None`` for those beyond ``MAX_KEYS``."""
        return call.key if call.key in self._keys else None

    def group(self, call: LoggedCall) -> int:
        """The group of the call's run."""
        digest = blake2b(f"{self._seed}\0{call.run}".encode("utf-8", "replace"), digest_size=8).digest()
        return int.from_bytes(digest, "big") % GROUPS

    @staticmethod
    def fold(group: int) -> int:
        """The fold that a group belongs to."""
        return group % FOLDS

    def outcome_models(self) -> list[OutcomeModel]:
        """For each fold the model that is fitted on all others."""
        return [_without_fold(self.cells, fold) for fold in range(FOLDS)]


def usable(call: LoggedCall) -> bool:
    """Whether its numbers can be: what cannot is left out by both readings."""
    vectors = (call.logged, call.current, call.target)
    return (
        all(len(vector) == len(call.models) and _sums_to_one(vector) for vector in vectors)
        and 0 <= call.chosen < len(call.models)
        and call.logged[call.chosen] > 0
        and 0 <= call.success <= 1
        and (call.cost is None or 0 <= call.cost < math.inf)
    )


def _sums_to_one(vector: Sequence[float]) -> bool:
    return all(0 <= p <= 1 + SURE for p in vector) and abs(sum(vector) - 1) < ROUNDED


def departs(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two vectors of probabilities are not the same."""
    return any(abs(v - p) > SURE for v, p in zip(one, other, strict=True))


def _kish(total: float, squares: float) -> float:
    return total * total / squares if squares else 0.0


# -- the model of outcomes -----------------------------------------------------------------------------


class OutcomeModel:
    """Success and cost of each key and model: its mean, drawn to the model's times the key's difficulty."""

    def __init__(self, cells: dict[tuple[object, str], Sums]) -> None:
        self._cells = cells
        self._of_all = Sums()
        self._of_models: dict[str, Sums] = defaultdict(Sums)
        for (_, model), sums in cells.items():
            self._of_all.plus(sums)
            self._of_models[model].plus(sums)
        self._expected: dict[object, list[float]] = defaultdict(lambda: [0.0] * 4)
        for (key, model), sums in cells.items():
            success, cost = self._of_model(model)
            totals = self._expected[key]
            totals[0] += sums.success
            totals[1] += sums.calls * success
            totals[2] += sums.cost
            totals[3] += sums.costed * cost
        self._known: dict[tuple[object, str], tuple[float, float]] = {}

    def predict(self, key: object, model: str) -> tuple[float, float]:
        """The expected success and cost."""
        found = self._known.get((key, model))
        if found is None:
            found = self._known[key, model] = self._predicted(key, model)
        return found

    def _predicted(self, key: object, model: str) -> tuple[float, float]:
        success, cost = self._of_model(model)
        base_success, base_cost = self._base()
        had, due, spent, usual = self._expected.get(key, (0.0,) * 4)
        success *= _shrunk_ratio(had, due, SHRINKAGE * base_success)
        cost *= _shrunk_ratio(spent, usual, SHRINKAGE * base_cost)
        own = self._cells.get((key, model)) or Sums()
        return (
            min((own.success + SHRINKAGE * success) / (own.calls + SHRINKAGE), 1.0),
            (own.cost + SHRINKAGE * cost) / (own.costed + SHRINKAGE),
        )

    def _of_model(self, model: str) -> tuple[float, float]:
        base_success, base_cost = self._base()
        own = self._of_models.get(model) or Sums()
        return (
            (own.success + SHRINKAGE * base_success) / (own.calls + SHRINKAGE),
            own.cost / own.costed if own.costed else base_cost,  # models' costs differ a thousandfold
        )

    def _base(self) -> tuple[float, float]:
        every = self._of_all
        return every.success / max(every.calls, 1.0), every.cost / max(every.costed, 1.0)


def _shrunk_ratio(had: float, due: float, prior: float) -> float:
    return (had + prior) / (due + prior) if due + prior > 0 else 1.0


def _without_fold(cells: Sequence[dict[tuple[object, str], Sums]], fold: int) -> OutcomeModel:
    rest: dict[tuple[object, str], Sums] = defaultdict(Sums)
    for number, part in enumerate(cells):
        if number != fold:
            for cell, sums in part.items():
                rest[cell].plus(sums)
    return OutcomeModel(rest)

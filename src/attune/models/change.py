"""Whether a model's rewards have changed: an anytime-valid e-detector a model and direction, and what has to
be known of the changes that were found, so that they outlast a restart.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from attune.models.performance import BUCKET_SECONDS
from attune.models.policies.shared import Shared

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from attune.models.policies.shared import Sums
    from attune.models.shrinkage import Path

__all__ = ["Change", "ChangeDetector", "Changes"]

FALSE_ALARM_EVERY = 10_000.0
"""Looks between two false alarms, at least, on average."""
IGNORED = 0.05
"""A shift of the mean below this is no change."""
SHIFTS = (0.1, 0.2, 0.4)

TAG = "changed"
"""What the names of the sums of changes begin with."""
MAX_KEYS = 256
"""Keys whose calls after a change are told apart, on its day, from those before it."""


class ChangeDetector:
    """Alarms when rewards are no longer what was predicted.

    A Shiryaev-Roberts e-detector (Shin, Ramdas and Rinaldo 2023): for each shift looked for,
    ``R <- (R + 1) e`` with e of expectation at most 1 while the mean is within ``IGNORED`` of the prediction
    (Bennett's inequality, with the variance of the prediction's error as known). The alarm is at
    ``FALSE_ALARM_EVERY``, which is then the least average run length without a change.
    """

    __slots__ = ("_down", "_up")

    def __init__(self) -> None:
        self._down = [0.0] * len(SHIFTS)
        self._up = [0.0] * len(SHIFTS)

    def look(self, reward: float, predicted: float, variance: float) -> int:
        """Take in one reward: -1 when the mean has fallen, 1 when it has risen, else 0.

        ``variance`` is that of ``reward - predicted``. After an alarm it starts anew.
        """
        room = min(max(predicted, 0.05), 0.95)
        fell = _step(self._down, predicted - reward, variance, room)
        rose = _step(self._up, reward - predicted, variance, 1 - room)
        if not fell and not rose:
            return 0
        self._down = [0.0] * len(SHIFTS)
        self._up = [0.0] * len(SHIFTS)
        return -1 if fell else 1


def _step(levels: list[float], error: float, variance: float, most: float) -> bool:
    """Multiply each shift's level by its e-value: ``error - IGNORED`` is at most ``most``."""
    for i, shift in enumerate(SHIFTS):
        rate = math.log1p((shift - IGNORED) * most / variance) / most
        growth = variance / most**2 * (math.expm1(rate * most) - rate * most)
        levels[i] = (levels[i] + 1) * math.exp(rate * (error - IGNORED) - growth)
    return sum(levels) / len(SHIFTS) >= FALSE_ALARM_EVERY


class _Part:
    """Two sums that several processes add to, and what they are called among all that processes tell."""

    __slots__ = ("name", "shared", "sums")

    def __init__(self, name: str) -> None:
        self.name = name
        self.sums: Sums = [0.0, 0.0]
        self.shared = Shared()


class Change:
    """A change that was found in a ``model`` by a call of ``at`` (UTC epoch seconds): whether it ``fell``.

    Roll-ups are of whole days. So of the day of the change it is known how many labelled calls of any model
    came after it, and of the model's own by key how many, with the sum of their rewards.
    """

    __slots__ = ("_parts", "at", "fell", "model")

    def __init__(self, model: str, at: float, *, fell: bool) -> None:
        self.model = model
        self.at = at
        self.fell = fell
        self._parts: dict[Path, _Part] = {}

    @property
    def labelled(self) -> float:
        """Labelled calls of any model on the day of the change, after it."""
        return self.part(()).sums[1]

    def after(self, path: Path) -> tuple[float, float]:
        """The model's own labelled calls at a key among these, and the sum of their rewards."""
        part = self._parts.get(path)
        return (part.sums[0], part.sums[1]) if part is not None else (0.0, 0.0)

    def count(self, path: Path, model: str, reward: float, calls: int) -> Sequence[_Part]:
        """Add calls of after the change, or with none a correction of their rewards; the sums it is in."""
        whole = self.part(())
        whole.sums[1] += calls
        if model != self.model or (path not in self._parts and (not calls or len(self._parts) > MAX_KEYS)):
            return (whole,)
        part = self.part(path)
        part.sums[0] += calls
        part.sums[1] += reward
        return whole, part

    def part(self, path: Path) -> _Part:
        """The sums of a key; with an empty path 1 for the change as such, and the calls of any model."""
        part = self._parts.get(path)
        if part is None:
            way = "fell" if self.fell else "rose"
            part = self._parts[path] = _Part(f"{TAG}\t{json.dumps([self.model, *path])}\t{way} {self.at!r}")
        return part


class Changes:
    """The changes that were found, here and by others on the same ledger; ``fallen`` are the models whose
    last change was a fall.
    """

    def __init__(self) -> None:
        self.fallen: set[str] = set()
        self._last: dict[str, Change] = {}
        self._by_bucket: dict[int, list[Change]] = {}
        self._known: dict[str, _Part] = {}
        self._untold: dict[str, _Part] = {}

    def found(self, model: str, at: float, *, fell: bool) -> None:
        """Take in a change that was found here."""
        whole = self._change(model, at, fell=fell).part(())
        whole.sums[0] += 1
        self._untold[whole.name] = whole

    def count(self, path: Path, model: str, at: float, reward: float, calls: int = 1) -> None:
        """Take in a labelled call of ``at``, or with ``calls`` 0 by how much its reward was corrected."""
        for change in self._by_bucket.get(int(at // BUCKET_SECONDS), ()):
            if at >= change.at:
                for part in change.count(path, model, reward, calls):
                    self._untold[part.name] = part

    def buckets(self) -> Sequence[int]:
        """The buckets of time in which there are changes."""
        return list(self._by_bucket)

    def of_bucket(self, bucket: int) -> Sequence[Change]:
        """The changes of a bucket, in their order."""
        return self._by_bucket.get(bucket, ())

    def tell(self) -> dict[str, Sums]:
        """Sums by name, to be added to those of others; see ``GuardedPolicy.tell``."""
        told = {name: part.shared.tell(list(part.sums)) for name, part in self._untold.items()}
        return {name: sums for name, sums in told.items() if any(sums)}

    def hear(self, totals: Mapping[str, Sums]) -> Sequence[Change]:
        """Take over the sums of all processes; returns the changes that are news here and the last ones of
        their models.
        """
        before = dict(self._last)
        for name, total in totals.items():
            part = self._known.get(name) or self._untold.get(name)
            if part is None and name.startswith(f"{TAG}\t"):
                part = self._named(name)
            if part is None or len(total) != len(part.sums):
                continue  # another kind, another version's, or damaged
            self._known[name] = part
            part.sums = part.shared.hear(total, part.sums)
            if part.sums == total:
                self._untold.pop(name, None)
        return [change for model, change in self._last.items() if before.get(model) is not change]

    def _named(self, name: str) -> _Part | None:
        """The sums of a name that is not known yet; ``None`` for one that is damaged."""
        try:
            _, key, when = name.split("\t")
            model, *path = map(str, json.loads(key))
            way, at = when.split()
            if way not in {"fell", "rose"} or not math.isfinite(float(at)):
                return None
        except (ValueError, TypeError):
            return None
        return self._change(model, float(at), fell=way == "fell").part(tuple(path))

    def _change(self, model: str, at: float, *, fell: bool) -> Change:
        """The change of a model at a time, which may be known already."""
        changes = self._by_bucket.setdefault(int(at // BUCKET_SECONDS), [])
        for change in changes:
            if (change.model, change.at, change.fell) == (model, at, fell):
                return change
        change = Change(model, at, fell=fell)
        changes.append(change)
        changes.sort(key=lambda each: each.at)
        last = self._last.get(model)
        if last is None or at >= last.at:
            self._last[model] = change
            (self.fallen.add if fell else self.fallen.discard)(model)
        return change

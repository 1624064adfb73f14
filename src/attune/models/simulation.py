"""Replays a table of tasks and models with bandit feedback: what a policy would have earned and spent."""

from __future__ import annotations

import math
import random
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from attune.errors import InvalidRequestError
from attune.models.learner import Learner
from attune.models.performance import PRIOR_LATENCY_MS, RECENT, ModelPerformance
from attune.models.policies.policy import Feedback, Setting, draw

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from attune.models.policies.policy import Policy, Prospect

__all__ = ["Arm", "Replay", "Row", "replay", "row_of"]

ALL = "*"
SECONDS_A_CALL = 60.0
"""A table has no times: a call a minute."""
MAX_NUMBER = 1e12
"""Beyond any cost or latency; sums and squares of such numbers stay finite."""


class Arm(NamedTuple):
    """What one model made of one task: the reward (0..1), USD, and milliseconds if known."""

    reward: float
    cost: float
    latency_ms: float | None = None


class Row(NamedTuple):
    """One task: its key, its prompt (``None`` to keep it from the policy), and its models' results."""

    key: str
    prompt: str | None
    arms: Mapping[str, Arm]


class Replay(NamedTuple):
    """One pass: the rows in their order; what was chosen, earned and spent at each; which draws explored,
    against the most probable candidate.
    """

    rows: Sequence[Row]
    models: list[str]
    rewards: list[float]
    costs: list[float]
    explored: list[bool]


def row_of(record: Mapping[str, object], key: str | None, where: str) -> Row:
    """A row of a table from its JSON object; ``key`` names the field of the key, ``None`` for none.

    Raises ``InvalidRequestError`` that begins with ``where`` the row is and says what is wrong with it.
    """
    arms = record.get("arms")
    if not isinstance(arms, dict) or not arms:
        raise InvalidRequestError(f'{where}: "arms" must map each model to its reward and cost')
    if key is not None and not isinstance(record.get(key), str):
        raise InvalidRequestError(f"{where}: the key field {key!r} is missing or not a text")
    prompt = record.get("prompt")
    return Row(
        str(record[key]) if key is not None else ALL,
        prompt if isinstance(prompt, str) else None,
        {str(model): _arm(arm, f"{where}, model {model}") for model, arm in arms.items()},
    )


def _arm(arm: object, where: str) -> Arm:
    if not isinstance(arm, dict):
        raise InvalidRequestError(f"{where}: must be an object with a reward and a cost")
    latency = arm.get("latency_ms")
    return Arm(
        _number(arm.get("reward"), f"{where}: the reward must be a number from 0 to 1", most=1.0),
        _number(arm.get("cost"), f"{where}: the cost must be a number of USD, 0 or more"),
        None if latency is None else _number(latency, f"{where}: latency_ms must be a number, 0 or more"),
    )


def _number(value: object, demand: str, *, most: float = math.inf) -> float:
    """A finite number from 0 to ``most``; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise InvalidRequestError(f"{demand}, not {value!r:.40}")
    if value > MAX_NUMBER:
        raise InvalidRequestError(f"{demand} and below {MAX_NUMBER:g}, not {value!r:.40}")
    return float(value)


def replay(
    rows: Sequence[Row],
    policy: Policy,
    seed: int,
    *,
    models: Sequence[str],
    ranks: Mapping[str, int] | None = None,
    prices: Callable[[int], Mapping[str, float]] | None = None,
    max_latency_ms: float = math.inf,
) -> Replay:
    """Decide each row in turn; the policy learns the reward and cost of its choice and nothing of the others.

    ``models`` is the static table: a row's candidates are those of them that it has, in that order.
    ``prices(i)`` are the prices known at row ``i``, in a unit that its costs are counted in.
    A model whose mean latency at a key was above ``max_latency_ms`` is a candidate there only when all were.
    """
    generator = random.Random(seed)  # noqa: S311  (a simulation)
    learner = Learner(ranks)
    tallies = _Tallies()
    chosen, rewards, costs, explored = [], [], [], []
    for i, row in enumerate(rows):
        now = i * SECONDS_A_CALL
        today = prices(i) if prices else {}
        path = (ALL, row.key)
        fitting = tallies.fitting(row.key, _eligible(row, models, i), max_latency_ms)
        prediction = learner.predict(path, fitting, row.prompt, today)
        prospects = tallies.scored(row.key, prediction.prospects)
        vector = policy.probabilities(prospects, Setting(path, now))
        index = draw(vector, generator.random())
        model = prospects[index].model
        reward, cost, _ = row.arms[model]
        tallies.add(row.key, model, row.arms[model])
        changed = learner.observe(prediction, index, reward, cost, now, price=today.get(model, 1.0))
        among = [p.model for p, share in zip(prospects, vector, strict=True) if share]
        policy.settle(Feedback(path, prospects, model, reward, cost, now, changed, among))
        chosen.append(model)
        rewards.append(reward)
        costs.append(cost)
        explored.append(vector[index] < max(vector))
    return Replay(rows, chosen, rewards, costs, explored)


class _Tally:
    """What the calls of one model at one key came to."""

    __slots__ = ("calls", "cost", "failures", "latency_ms", "reward", "timed")

    def __init__(self) -> None:
        self.calls = self.timed = 0
        self.reward = self.cost = self.latency_ms = 0.0
        self.failures: deque[bool] = deque(maxlen=RECENT)

    def too_slow(self, limit_ms: float) -> bool:
        return self.latency_ms > limit_ms * self.timed

    def score(self, model: str) -> float:
        latency = self.latency_ms / self.timed if self.timed else PRIOR_LATENCY_MS
        calls, failed = self.calls, sum(self.failures)
        reward, cost = self.reward / calls, self.cost / calls
        return ModelPerformance(model, "", reward, latency, cost, calls, failed).quality_score


class _Tallies:
    """The calls that were made, by key and model: who is slow, and the quality score that ``best`` goes by.

    The mean reward stands for the success rate, a reward below one half for a failure, and nothing is
    borrowed from other keys.
    """

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str], _Tally] = {}

    def add(self, key: str, model: str, arm: Arm) -> None:
        tally = self._tallies.setdefault((key, model), _Tally())
        tally.calls += 1
        tally.reward += arm.reward
        tally.cost += arm.cost
        tally.failures.append(arm.reward < 0.5)
        if arm.latency_ms is not None:
            tally.timed += 1
            tally.latency_ms += arm.latency_ms

    def fitting(self, key: str, models: list[str], limit_ms: float) -> list[str]:
        """The models within the limit or not yet timed; all of them when none is."""
        if limit_ms == math.inf:
            return models
        tallies = self._tallies
        return [
            m for m in models if (t := tallies.get((key, m))) is None or not t.too_slow(limit_ms)
        ] or models

    def scored(self, key: str, prospects: list[Prospect]) -> list[Prospect]:
        """The prospects with their quality scores; one that is not known has the prior's."""
        tallies = self._tallies
        return [
            p._replace(score=t.score(p.model) if (t := tallies.get((key, p.model))) else _UNKNOWN_SCORE)
            for p in prospects
        ]


_UNKNOWN_SCORE = ModelPerformance("", "", 0.0, 0.0, 0.0, 0).quality_score


def _eligible(row: Row, models: Sequence[str], number: int) -> list[str]:
    found = [m for m in models if m in row.arms]
    if not found:
        raise InvalidRequestError(f"row {number + 1}: has none of the models {', '.join(models)}")
    return found

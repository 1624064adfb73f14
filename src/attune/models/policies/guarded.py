"""The default: traffic moves to a cheaper model in stages, as fast as bounds on the harm allow."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from attune.errors import InvalidRequestError
from attune.models.betting import Bets, gap_exceeds, gap_upper
from attune.models.policies.policy import certain
from attune.models.policies.shared import Shared
from attune.models.telemetry import Decided

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from attune.models.policies.policy import Feedback, Prospect, Setting
    from attune.models.policies.shared import Sums

__all__ = ["GuardedPolicy"]

STAGES = (0.03, 0.1, 0.3, 1.0)
DEFAULT_MARGIN = 0.05
HARM_BUDGET = 2.5
"""Reward that may be lost beyond the margin. Half of what is promised, since draws vary."""
STAGES_APART = 3.0
"""Worst calls that the harm budget must still bear for the third stage; one for the second."""
LOOK_EVERY = 8
"""Judged calls between two looks at a gap."""
ERROR_RATE = 0.05
"""Of all bounds together, over all time."""


class _Arm:
    """How many calls one model was sent, what came of it and of the table's choice over the calls that either
    could have had, and the gap between them as it was last looked at.
    """

    __slots__ = ("age", "bets", "excluded", "gap", "looked_at", "reference", "sent", "shared")

    def __init__(self, age: int = 0) -> None:
        self.bets = Bets()
        self.reference = Bets()
        self.sent = 0.0
        self.gap = 1.0
        self.excluded = False
        self.looked_at = 0.0
        self.age = age
        self.shared = Shared()

    def sums(self) -> Sums:
        """What is added up over all processes: calls sent, and those of both bets."""
        return [self.sent, *self.bets.sums(), *self.reference.sums()]

    def put(self, sums: Sums) -> None:
        """Take over sums; the gap has to be looked at again."""
        half = len(sums) // 2 + 1
        self.sent = sums[0]
        self.bets.put(sums[1:half])
        self.reference.put(sums[half:])
        self.looked_at = 0.0

    def look(self, margin: float, error: float) -> None:
        """Bound the gap anew where enough has come in since."""
        judged = self.bets.calls + self.reference.calls
        if judged >= self.looked_at + LOOK_EVERY:
            self.looked_at = judged
            self.gap = gap_upper(self.reference, self.bets, error)
            self.excluded = gap_exceeds(self.reference, self.bets, margin, error)

    @property
    def promises(self) -> float:
        """By how much the reference is ahead, less a standard error."""
        ours, theirs = self.bets, self.reference
        doubt = math.sqrt(theirs.variance / (theirs.calls + 1) + ours.variance / (ours.calls + 1))
        return theirs.mean - ours.mean - doubt


_NEW = _Arm()


class _Contest:
    """The calls of which one model is the table's choice: how many, how many of them were judged, among how
    many others, and what came of each of these.
    """

    __slots__ = ("arms", "calls", "judged", "others", "rule", "shared")

    def __init__(self) -> None:
        self.arms: dict[str, _Arm] = {}
        self.calls = self.judged = 0.0
        self.others = 0
        self.shared = Shared()
        self.rule: GuardedRule | None = None


class GuardedRule(NamedTuple):
    """The share of each model that is cheaper than the table's choice (the first prospect), unless it is
    believed to be worse at the key beyond ``margin``; the table's choice has the rest. ``fresh`` is that of
    models which are not in ``stages``. Without ``stages`` no call was judged yet.
    """

    margin: float
    stages: Mapping[str, float] | None = None
    worse: Sequence[str] = ()
    fresh: float = 0.0

    def probabilities(self, prospects: Sequence[Prospect], setting: Setting) -> list[float]:
        """As in ``Rule``."""
        count = len(prospects)
        if self.stages is None:
            return certain(0, count)
        shares = [0.0] * count
        free = 1.0
        cheaper = [i for i, p in enumerate(prospects) if i and _cheaper(p, prospects[0])]
        for i in sorted(cheaper, key=lambda i: _cost(prospects[i])):
            if self._fits(prospects[i], prospects[0]):
                shares[i] = min(self.stages.get(prospects[i].model, self.fresh), free)
                free -= shares[i]
        shares[0] = free
        if not setting.explores:
            return certain(max(range(count), key=shares.__getitem__), count)
        return shares

    def why_not(self, place: int, prospects: Sequence[Prospect]) -> str:
        """As in ``Rule``."""
        first, other = prospects[0], prospects[place]
        if self.stages is None:
            return "no outcomes are known yet"
        if not place:
            return "a cheaper one is shown to be as good"
        if not _cheaper(other, first):
            return f"not cheaper than the table's choice, {first.model}"
        if not self._fits(other, first):
            return f"believed to be worse here than {first.model} by more than {self.margin:g}"
        if other.model in self.worse:
            return f"shown to be worse than {first.model} by more than {self.margin:g}"
        if not self.stages.get(other.model, self.fresh):
            return "waits until the harm that trying it may have done is made up for"
        return "a cheaper one is shown to be as good"

    def numbers(self) -> dict[str, object]:
        """As in ``Rule``."""
        return {"policy": GuardedPolicy.name, **self._asdict()}

    def _fits(self, prospect: Prospect, reference: Prospect) -> bool:
        """Whether it is not believed to be worse at this key, beyond the margin and two deviations."""
        doubt = 2 * math.hypot(prospect.sd, reference.sd)
        return reference.mean - prospect.mean - doubt <= self.margin


class GuardedPolicy:
    """The static table's choice, until a cheaper model is shown to be as good within ``margin``.

    Each cheaper model gets 3 % of the calls, then 10 and 30 %, while what it may have cost in reward so far,
    calls sent times the upper bound of the gap, stays within ``margin`` a call and ``HARM_BUDGET`` (else it
    waits); all of them once the upper bound of its gap is within the margin. One whose lower bound is beyond
    the margin gets none. Models are compared over the calls that have the same table's choice and that either
    could have been drawn for. With probability 95 % the reward lost to that choice is at no time above
    ``margin * calls + 5``, while the mix of keys is steady. Without labelled calls it stays with the table.
    """

    name = "guarded"

    def __init__(self, margin: float = DEFAULT_MARGIN) -> None:
        if not 0 < margin < 1:
            raise InvalidRequestError(f"the margin of a guarded policy is between 0 and 1, not {margin!r}")
        self._margin = margin
        self._contests: dict[str, _Contest] = {}

    def rule(self, prospects: Sequence[Prospect]) -> GuardedRule:
        """As in ``LivePolicy``."""
        contest = self._contests.get(prospects[0].model)
        if contest is None or not contest.judged:
            return GuardedRule(self._margin)
        if contest.rule is None:
            contest.rule = self._rule(contest)
        return contest.rule

    def probabilities(self, prospects: Sequence[Prospect], setting: Setting) -> list[float]:
        """As in ``Policy``; the first prospect is the reference."""
        return self.rule(prospects).probabilities(prospects, setting)

    def settle(self, feedback: Feedback) -> None:
        """Count a call, and its reward where it was judged; before the first reward no call counts."""
        contest = self._contests.get(feedback.prospects[0].model)
        if contest is None:
            if feedback.reward is None:
                return
            contest = self._contests[feedback.prospects[0].model] = _Contest()
        contest.calls += 1
        contest.others = max(contest.others, len(feedback.prospects) - 1)
        contest.rule = None
        table, model = feedback.prospects[0].model, feedback.model
        if feedback.changed:
            _judge_anew(contest, table, model)
        if model != table:
            contest.arms.setdefault(model, _Arm()).sent += 1
        if feedback.reward is not None:
            among = [p.model for p in feedback.prospects] if feedback.among is None else feedback.among
            self.judge(Decided("", table, tuple(among)), model, feedback.reward, changed=False)

    def judge(self, decided: Decided, model: str, reward: float, *, changed: bool) -> None:
        """Take in a reward; a model that has changed is judged anew."""
        table, among = decided[1:]
        contest = self._contests.setdefault(table, _Contest())
        contest.rule = None
        contest.judged += 1
        if changed:
            _judge_anew(contest, table, model)
        if table not in among:  # nothing is compared with it here
            return
        error = ERROR_RATE / (2 * max(contest.others, len(contest.arms), 1))
        for other in among if model == table else (model,):
            if other != table:
                arm = contest.arms.setdefault(other, _Arm())
                (arm.reference if model == table else arm.bets).add(reward)
                arm.look(self._margin, error)

    def tell(self) -> dict[str, Sums]:
        """What was learned here since what was last told was heard of: sums by name, to be added to those of
        others.
        """
        found = {}
        for table, contest in self._contests.items():
            found[f"{table}\t\t0"] = contest.shared.tell([contest.calls, contest.judged])
            for model, arm in contest.arms.items():
                found[f"{table}\t{model}\t{arm.age}"] = arm.shared.tell(arm.sums())
        return {name: change for name, change in found.items() if any(change)}

    def hear(self, totals: Mapping[str, Sums]) -> None:
        """Take over the sums of all processes, with what was told here, and add what came since."""
        for name, total in totals.items():
            table, model, age = name.split("\t")
            if len(total) != (len(_NEW.sums()) if model else 2):
                continue  # another version's, or damaged
            contest = self._contests.setdefault(table, _Contest())
            contest.rule = None
            if not model:
                contest.calls, contest.judged = contest.shared.hear(total, [contest.calls, contest.judged])
                continue
            arm = contest.arms.get(model)
            if arm is None or arm.age < int(age):
                arm = contest.arms[model] = _Arm(int(age))
            if arm.age == int(age):
                arm.put(arm.shared.hear(total, arm.sums()))
        for contest in self._contests.values():
            error = ERROR_RATE / (2 * max(contest.others, len(contest.arms), 1))
            for arm in contest.arms.values():
                arm.look(self._margin, error)

    def _rule(self, contest: _Contest) -> GuardedRule:
        arms = contest.arms
        harm = sum(arm.sent * max(arm.gap, 0.0) for arm in arms.values())
        left = HARM_BUDGET + self._margin * contest.calls - harm
        stages = {model: self._stage(arm, left) for model, arm in arms.items()}
        worse = [model for model, arm in arms.items() if arm.excluded]
        return GuardedRule(self._margin, stages, worse, self._stage(_NEW, left))

    def _stage(self, arm: _Arm, left: float) -> float:
        if arm.excluded:
            return 0.0
        if arm.gap <= self._margin:
            return STAGES[3]
        if left <= arm.gap:
            return 0.0
        if not arm.bets.calls or arm.promises > self._margin:
            return STAGES[0]
        return STAGES[2] if left > STAGES_APART * arm.gap else STAGES[1]


def _judge_anew(contest: _Contest, table: str, model: str) -> None:
    """Forget what was known of a model; of all models when it is the one they are compared with."""
    for each, arm in contest.arms.items():
        if model in {table, each}:
            contest.arms[each] = _Arm(arm.age + 1)


def _cost(prospect: Prospect) -> float:
    return math.inf if prospect.cost is None else prospect.cost


def _cheaper(prospect: Prospect, reference: Prospect) -> bool:
    """By cost where both are known, else by tier."""
    if prospect.cost is not None and reference.cost is not None:
        return prospect.cost < reference.cost
    if prospect.rank is not None and reference.rank is not None:
        return prospect.rank < reference.rank
    return False

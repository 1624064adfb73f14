"""The default: traffic moves to a cheaper model in stages, as fast as bounds on the harm allow."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from attune.errors import InvalidRequestError
from attune.models.betting import Bets, gap_exceeds, gap_upper
from attune.models.policies.policy import certain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attune.models.policies.policy import Feedback, Prospect, Setting

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
    """What one model's calls came to, and its gap to the reference as it was last looked at."""

    __slots__ = ("bets", "excluded", "gap", "looked_at", "sent")

    def __init__(self) -> None:
        self.bets = Bets()
        self.sent = 0
        self.gap = 1.0
        self.excluded = False
        self.looked_at = 0


class GuardedPolicy:
    """The static table's choice, until a cheaper model is shown to be as good within ``margin``.

    Each cheaper model gets 3 % of the calls, then 10 and 30 %, while what it may have cost in reward so far,
    calls sent times the upper bound of the gap, stays within ``margin`` a call and ``HARM_BUDGET`` (else it
    waits); all of them once the upper bound of its gap is within the margin. One whose lower bound is beyond
    the margin gets none. With probability 95 % the reward lost to the table's choice is at no time above
    ``margin * calls + 5``, while the mix of keys is steady. Without labelled calls it stays with the table.
    """

    name = "guarded"

    def __init__(self, margin: float = DEFAULT_MARGIN) -> None:
        if not 0 < margin < 1:
            raise InvalidRequestError(f"the margin of a guarded policy is between 0 and 1, not {margin!r}")
        self._margin = margin
        self._arms: dict[str, _Arm] = {}
        self._calls = 0

    def probabilities(self, prospects: Sequence[Prospect], setting: Setting) -> list[float]:
        """As in ``Policy``; the first prospect is the reference."""
        count = len(prospects)
        reference = self._arms.get(prospects[0].model)
        if reference is None or not reference.bets.calls:
            return certain(0, count)
        shares = self._shares(prospects, reference)
        if not setting.explores:
            return certain(max(range(count), key=shares.__getitem__), count)
        return shares

    def settle(self, feedback: Feedback) -> None:
        """Count a call, and its reward where it was judged; a model that has changed is judged anew."""
        self._calls += 1
        if feedback.changed:
            self._judge_anew(feedback)
        arm = self._arms.setdefault(feedback.model, _Arm())
        arm.sent += 1
        if feedback.reward is None:
            return
        arm.bets.add(feedback.reward)
        reference = self._arms.get(feedback.prospects[0].model)
        if reference is not None:
            self._look(feedback.prospects, reference)

    def _judge_anew(self, feedback: Feedback) -> None:
        """Forget what was known of a model; of all models when it is the one they are compared with."""
        if feedback.model == feedback.prospects[0].model:
            self._arms.clear()
        else:
            self._arms.pop(feedback.model, None)

    def _look(self, prospects: Sequence[Prospect], reference: _Arm) -> None:
        """Bound the gaps anew where enough has come in since."""
        error = ERROR_RATE / (2 * max(len(prospects) - 1, 1))
        for prospect in prospects[1:]:
            arm = self._arms.get(prospect.model)
            if arm is None or arm.bets.calls + reference.bets.calls < arm.looked_at + LOOK_EVERY:
                continue
            arm.looked_at = arm.bets.calls + reference.bets.calls
            arm.gap = gap_upper(reference.bets, arm.bets, error)
            arm.excluded = gap_exceeds(reference.bets, arm.bets, self._margin, error)

    def _shares(self, prospects: Sequence[Prospect], reference: _Arm) -> list[float]:
        cheaper = [i for i, p in enumerate(prospects) if i and _cheaper(p, prospects[0])]
        arms = {i: self._arms.get(prospects[i].model) or _Arm() for i in cheaper}
        left = HARM_BUDGET + self._margin * self._calls - sum(a.sent * max(a.gap, 0.0) for a in arms.values())
        shares = [0.0] * len(prospects)
        free = 1.0
        for i in sorted(cheaper, key=lambda i: _cost(prospects[i])):
            if self._fits(prospects[i], prospects[0]):
                shares[i] = min(self._stage(arms[i], reference, left), free)
                free -= shares[i]
        shares[0] = free
        return shares

    def _stage(self, arm: _Arm, reference: _Arm, left: float) -> float:
        if arm.excluded:
            return 0.0
        if arm.gap <= self._margin:
            return STAGES[3]
        if left <= arm.gap:
            return 0.0
        if not self._promises(arm.bets, reference.bets):
            return STAGES[0]
        return STAGES[2] if left > STAGES_APART * arm.gap else STAGES[1]

    def _promises(self, other: Bets, reference: Bets) -> bool:
        """Whether its gap is not above the margin by a standard error."""
        doubt = math.sqrt(reference.variance / (reference.calls + 1) + other.variance / (other.calls + 1))
        return reference.mean - other.mean - doubt <= self._margin

    def _fits(self, prospect: Prospect, reference: Prospect) -> bool:
        """Whether it is not believed to be worse at this key, beyond the margin and two deviations."""
        doubt = 2 * math.hypot(prospect.sd, reference.sd)
        return reference.mean - prospect.mean - doubt <= self._margin


def _cost(prospect: Prospect) -> float:
    return math.inf if prospect.cost is None else prospect.cost


def _cheaper(prospect: Prospect, reference: Prospect) -> bool:
    """By cost where both are known, else by tier."""
    if prospect.cost is not None and reference.cost is not None:
        return prospect.cost < reference.cost
    if prospect.rank is not None and reference.rank is not None:
        return prospect.rank < reference.rank
    return False

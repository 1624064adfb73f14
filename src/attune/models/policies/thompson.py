"""Probability matching: each candidate as often as it is believed to be the best."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.models.policies.policy import certain, doubt, exploration_floors, posterior_odds, with_floors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attune.models.policies.policy import Feedback, Prospect, Setting

__all__ = ["ThompsonPolicy"]


class ThompsonPolicy:
    """Thompson sampling (Thompson 1933) on the expected reward, whatever it costs; see ``posterior_odds``."""

    name = "thompson"

    def probabilities(self, prospects: Sequence[Prospect], setting: Setting) -> list[float]:
        """As in ``Policy``; the highest mean for certain when exploring is not allowed."""
        means = [p.mean for p in prospects]
        if not setting.explores:
            return certain(max(range(len(means)), key=means.__getitem__), len(means))
        vector = posterior_odds(means, [doubt(p) for p in prospects])
        return with_floors(vector, exploration_floors(prospects, [True] * len(means)))

    def settle(self, feedback: Feedback) -> None:
        """Nothing beyond the beliefs, which others keep."""

"""Probability matching: each candidate as often as it is believed to be the best."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.models.policies.policy import certain, doubt, exploration_floors, posterior_odds, with_floors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attune.models.policies.policy import Feedback, Prospect, Setting
    from attune.models.telemetry import Decided

__all__ = ["ThompsonPolicy"]


class ThompsonPolicy:
    """Thompson sampling (Thompson 1933) on the expected reward, whatever it costs; see ``posterior_odds``."""

    name = "thompson"

    def rule(self, prospects: Sequence[Prospect]) -> ThompsonPolicy:  # noqa: ARG002
        """Itself: what changes is in the prospects."""
        return self

    def probabilities(self, prospects: Sequence[Prospect], setting: Setting) -> list[float]:
        """As in ``Policy``; the highest mean for certain when exploring is not allowed."""
        means = [p.mean for p in prospects]
        if not setting.explores:
            return certain(max(range(len(means)), key=means.__getitem__), len(means))
        vector = posterior_odds(means, [doubt(p) for p in prospects])
        return with_floors(vector, exploration_floors(prospects))

    def why_not(self, place: int, prospects: Sequence[Prospect]) -> str:  # noqa: ARG002
        """As in ``Rule``."""
        return "believed to be worse, and exploring is off"

    def numbers(self) -> dict[str, object]:
        """As in ``Rule``."""
        return {"policy": self.name}

    def settle(self, feedback: Feedback) -> None:
        """Nothing beyond the beliefs, which others keep."""

    def judge(self, decided: Decided, model: str, reward: float, *, changed: bool) -> None:
        """Nothing beyond the beliefs, which others keep."""

"""The policies that learn nothing of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.models.policies.policy import certain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attune.models.policies.policy import Feedback, Prospect, Setting
    from attune.models.telemetry import Decided

__all__ = ["BestPolicy", "StaticPolicy"]


class StaticPolicy:
    """The static table's choice: the first candidate. Its own rule, since it never changes."""

    name = "static"

    def rule(self, prospects: Sequence[Prospect]) -> StaticPolicy:  # noqa: ARG002
        return self

    def probabilities(self, prospects: Sequence[Prospect], setting: Setting) -> list[float]:  # noqa: ARG002
        return certain(0, len(prospects))

    def why_not(self, place: int, prospects: Sequence[Prospect]) -> str:  # noqa: ARG002
        return "comes later in the table"

    def numbers(self) -> dict[str, object]:
        return {"policy": self.name}

    def settle(self, feedback: Feedback) -> None:
        """Nothing to learn."""

    def judge(self, decided: Decided, model: str, reward: float, *, changed: bool) -> None:
        """Nothing to learn."""


class BestPolicy(StaticPolicy):
    """The candidate with the highest quality score, the first of equals."""

    name = "best"

    def rule(self, prospects: Sequence[Prospect]) -> BestPolicy:  # noqa: ARG002
        return self

    def probabilities(self, prospects: Sequence[Prospect], setting: Setting) -> list[float]:  # noqa: ARG002
        best = max(range(len(prospects)), key=lambda i: prospects[i].score)
        return certain(best, len(prospects))

    def why_not(self, place: int, prospects: Sequence[Prospect]) -> str:
        return f"its score is {max(p.score for p in prospects) - prospects[place].score:.3f} lower"

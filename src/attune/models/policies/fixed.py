"""The policies that learn nothing of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.models.policies.policy import certain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attune.models.policies.policy import Feedback, Prospect, Setting

__all__ = ["BestPolicy", "StaticPolicy"]


class StaticPolicy:
    """The static table's choice: the first candidate."""

    name = "static"

    def probabilities(self, prospects: Sequence[Prospect], setting: Setting) -> list[float]:  # noqa: ARG002
        return certain(0, len(prospects))

    def settle(self, feedback: Feedback) -> None:
        """Nothing to learn."""


class BestPolicy:
    """The candidate with the highest quality score, the first of equals."""

    name = "best"

    def probabilities(self, prospects: Sequence[Prospect], setting: Setting) -> list[float]:  # noqa: ARG002
        best = max(range(len(prospects)), key=lambda i: prospects[i].score)
        return certain(best, len(prospects))

    def settle(self, feedback: Feedback) -> None:
        """Nothing to learn."""

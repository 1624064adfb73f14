"""How long answers are, learned from those that came."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from attune.models.telemetry import LLMCallRecord

__all__ = ["ENOUGH_ANSWERS", "AnswerLength"]

ENOUGH_ANSWERS = 10
"""Fewer say less than an assumption does."""


class AnswerLength(NamedTuple):
    """The tokens of an answer: ``fixed`` ones, and so many more for each token of its prompt (``share``)."""

    fixed: float
    share: float

    def tokens(self, prompt: int) -> int:
        """What is expected for a prompt of so many tokens."""
        return round(self.fixed + self.share * prompt)

    @classmethod
    def learned(cls, attempts: Iterable[LLMCallRecord]) -> AnswerLength | None:
        """What the answers among the attempts say; ``None`` of fewer than ``ENOUGH_ANSWERS``.

        By least squares, neither part below 0: the sum of what it expects is near the sum of what comes both
        where answers are as long as their prompts are, and where they are of a length of their own.
        """
        usages = [each.usage for each in attempts if each.success and each.usage is not None]
        pairs = [(each.input_tokens, each.output_tokens) for each in usages if each.output_tokens > 0]
        if len(pairs) < ENOUGH_ANSWERS:
            return None
        mean_in = sum(prompt for prompt, _ in pairs) / len(pairs)
        mean_out = sum(answer for _, answer in pairs) / len(pairs)
        squares = sum((prompt - mean_in) ** 2 for prompt, _ in pairs)
        products = sum((prompt - mean_in) * (answer - mean_out) for prompt, answer in pairs)
        share = max(0.0, products / squares) if squares else 0.0
        if (fixed := mean_out - share * mean_in) >= 0:
            return cls(fixed, share)
        return cls(0.0, sum(p * a for p, a in pairs) / sum(p * p for p, _ in pairs))

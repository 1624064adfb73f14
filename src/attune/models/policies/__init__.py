"""How candidates are chosen: one protocol, and the policies that follow it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.models.policies.budget import Allowance, BudgetPolicy, BudgetRule
from attune.models.policies.fixed import BestPolicy, StaticPolicy
from attune.models.policies.guarded import GuardedPolicy, GuardedRule
from attune.models.policies.policy import Feedback, LivePolicy, Policy, Prospect, Rule, Setting, draw
from attune.models.policies.thompson import ThompsonPolicy

__all__ = [
    "Allowance",
    "BestPolicy",
    "BudgetPolicy",
    "Feedback",
    "GuardedPolicy",
    "LivePolicy",
    "Policy",
    "Prospect",
    "Rule",
    "Setting",
    "StaticPolicy",
    "ThompsonPolicy",
    "draw",
    "rule_of",
]

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_RULES: dict[str, Callable[..., Rule]] = {
    "static": StaticPolicy,
    "best": BestPolicy,
    "thompson": ThompsonPolicy,
    "guarded": GuardedRule,
    "budget": BudgetRule,
}


def rule_of(numbers: Mapping[str, object]) -> Rule:
    """The rule whose ``numbers()`` these are; ``KeyError`` or ``TypeError`` for anything else."""
    return _RULES[str(numbers["policy"])](**{k: v for k, v in numbers.items() if k != "policy"})

"""How candidates are chosen: one protocol, and the policies that follow it."""

from __future__ import annotations

from attune.models.policies.budget import Allowance, BudgetPolicy
from attune.models.policies.fixed import BestPolicy, StaticPolicy
from attune.models.policies.guarded import GuardedPolicy
from attune.models.policies.policy import Feedback, Policy, Prospect, Setting, draw
from attune.models.policies.thompson import ThompsonPolicy

__all__ = [
    "Allowance",
    "BestPolicy",
    "BudgetPolicy",
    "Feedback",
    "GuardedPolicy",
    "Policy",
    "Prospect",
    "Setting",
    "StaticPolicy",
    "ThompsonPolicy",
    "draw",
]

"""The names of the routing policies, for those who only name them."""

from __future__ import annotations

from attune.errors import UnknownNameError

__all__ = ["BUDGET_PERIODS", "POLICIES", "VERSIONS", "check_policy"]

POLICIES = ("guarded", "static", "best", "thompson", "budget")
VERSIONS = {name: f"{name}/1" for name in POLICIES}
"""Name and version of each policy, as records have them: what one version learned is not another one's."""

BUDGET_PERIODS = {"call": 0.0, "day": 86_400.0, "month": 30 * 86_400.0}
"""What a budget may be per, in seconds."""


def check_policy(name: str) -> None:
    """Raise ``UnknownNameError`` unless there is a policy of that name."""
    if name not in POLICIES:
        raise UnknownNameError("policy", name, POLICIES)

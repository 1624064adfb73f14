"""The ``claude`` program: whether it is there, and whether a subscription is logged in.

Only its own report is read, never its files: the login belongs to it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, NamedTuple

from attune.models.auth_strategy import SubscriptionTier

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ClaudeLogin", "find_claude_login"]

TIMEOUT_SECONDS = 8.0
MAX_REPORT_CHARS = 64 * 1024


class ClaudeLogin(NamedTuple):
    """What was found: one line for people, and the plan if a subscription is logged in that is known."""

    summary: str
    plan: SubscriptionTier = SubscriptionTier.NONE
    logged_in: bool = False


SHADOWS = ("ANTHROPIC_", "CLAUDE_CODE_")
"""How the variables begin that let the program use something else than the login."""


def find_claude_login(environ: Mapping[str, str] = os.environ, program: str | None = None) -> ClaudeLogin:
    """Ask ``claude auth status``, without the variables that would make it look at an API key. ``program`` is
    by default the one that PATH names.
    """
    program = program or shutil.which("claude", path=environ.get("PATH"))
    if program is None:
        return ClaudeLogin("the claude program is not installed, so there is no login of it")
    clean = {name: value for name, value in environ.items() if not name.startswith(SHADOWS)}
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command, the program that PATH names
            [program, "auth", "status"],
            env=clean,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        report = json.loads(done.stdout[:MAX_REPORT_CHARS])
    except subprocess.TimeoutExpired:
        return ClaudeLogin(f"the claude program did not answer within {TIMEOUT_SECONDS:g} s")
    except (OSError, ValueError, RecursionError):
        return ClaudeLogin("the claude program did not say whether it is logged in")
    if not isinstance(report, dict) or report.get("authMethod") != "claude.ai":
        return ClaudeLogin("the claude program has no subscription logged in")
    try:
        plan = SubscriptionTier(str(report.get("subscriptionType")))
    except ValueError:
        unknown = "the claude program has a subscription logged in, of a plan attune does not know"
        return ClaudeLogin(unknown, logged_in=True)
    return ClaudeLogin(f"the claude program has a {plan} subscription logged in", plan, logged_in=True)

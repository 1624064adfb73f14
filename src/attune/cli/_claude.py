"""The ``claude`` program: whether it is there, and whether a subscription is logged in.

Only its own report is read, never its files: the login belongs to it.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING, NamedTuple

from attune.models.auth_strategy import SubscriptionTier

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ClaudeLogin", "find_claude_login", "log_in_command"]

TIMEOUT_SECONDS = 8.0
MAX_REPORT_CHARS = 64 * 1024


class ClaudeLogin(NamedTuple):
    """What was found: one line for people, and the plan if a subscription is logged in that is known.
    ``next_step`` is what to do where none is, ``hidden`` the path of a program that the user's shell does not
    find.
    """

    summary: str
    plan: SubscriptionTier = SubscriptionTier.NONE
    logged_in: bool = False
    next_step: str = ""
    hidden: str = ""

    @property
    def line(self) -> str:
        """What was found, and where if that is not plain."""
        return f"{self.summary} ({self.hidden})" if self.hidden else self.summary


SHADOWS = ("ANTHROPIC_", "CLAUDE_CODE_")
"""How the variables begin that let the program use something else than the login."""


def find_claude_login(environ: Mapping[str, str] = os.environ) -> ClaudeLogin:
    """Ask the program that would answer: ``claude auth status``, without the variables that would make it
    look at an API key.
    """
    from attune.providers._claude_process import find_program

    program = find_program(environ)
    if program is None:
        from attune.providers.claude_subscription import INSTALL

        return ClaudeLogin("the claude program is not installed", next_step=INSTALL)
    found = _asked(program, environ)._replace(hidden=_hidden(program, environ))
    return found if found.logged_in else found._replace(next_step=f"run `{log_in_command(environ)}`")


def log_in_command(environ: Mapping[str, str] = os.environ) -> str:
    """How the user logs in with the program that would answer."""
    from attune.providers._claude_process import find_program

    program = find_program(environ)
    hidden = "" if program is None else _hidden(program, environ)
    return f"{shlex.quote(hidden) if hidden else 'claude'} auth login"


def _hidden(program: str, environ: Mapping[str, str]) -> str:
    return "" if shutil.which("claude", path=environ.get("PATH", "")) == program else program


def _asked(program: str, environ: Mapping[str, str]) -> ClaudeLogin:
    clean = {name: value for name, value in environ.items() if not name.startswith(SHADOWS)}
    clean["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"] = "1"  # nobody is asked anything else
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command, the program that is found
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

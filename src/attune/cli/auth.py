"""``attune auth``: what should pay.

Each ``cmd_auth_*`` returns the exit code and prints its errors. ``args`` is any object with the
options as attributes (an ``argparse.Namespace``, a ``SimpleNamespace`` ...); an option that it
does not have, or ``None`` for all, has its default.
"""

from __future__ import annotations

import argparse
from typing import Any

from attune.cli._exit import guarded
from attune.cli._parser import CommandParser, add_commands, add_shared_options

__all__ = ["cmd_auth_recommend", "cmd_auth_reset", "cmd_auth_setup", "cmd_auth_status", "configure"]


def configure(parser: CommandParser) -> None:
    """Add the commands of ``attune auth``."""
    parser.description = "Says what should pay for which work: a subscription or API keys."
    parser.epilog = "Each of them takes --json and --config FILE.\n\nexample:\n  attune auth status"
    add_commands(
        parser,
        {
            "setup": ("answer a few questions and save the strategy", _configure_setup),
            "status": ("show the strategy, where it is from, and what would pay now", _configure_status),
            "reset": ("forget the saved strategy", _configure_reset),
            "recommend": (
                "show what should pay for a file, and what it costs either way",
                _configure_recommend,
            ),
        },
    )


@guarded
def cmd_auth_setup(args: Any = None) -> int:
    """Ask for the strategy, or take it from the options, and save it; returns the exit code.

    Options: ``config``, ``json``, ``yes``, ``file``, ``enrol_plan`` and the fields of ``AuthStrategy``.
    """
    from attune.cli._auth_setup import setup

    return setup(args)


@guarded
def cmd_auth_status(args: Any = None) -> int:
    """Show the strategy and what would pay; returns the exit code.

    Options: ``config``, ``json`` and the fields of ``AuthStrategy``.
    """
    from attune.cli._auth_status import show_status

    return show_status(args)


@guarded
def cmd_auth_reset(args: Any = None) -> int:
    """Remove the saved strategy after asking; returns the exit code.

    Options: ``config``, ``json``, ``yes``.
    """
    from attune.cli._auth_setup import reset

    return reset(args)


@guarded
def cmd_auth_recommend(args: Any) -> int:
    """Recommend what should pay for a file or the files of a folder; returns the exit code, which is that of
    missing credentials where nothing can pay for one of them, and something is enrolled.

    Options: ``file`` (required), ``config``, ``json`` and the fields of ``AuthStrategy``.
    """
    from attune.cli._auth_recommend import show_recommendation

    return show_recommendation(args)


def _configure_setup(parser: CommandParser) -> None:
    parser.description = (
        "Looks for API keys (their names, never their values) and a Claude login, asks for the plan and\n"
        "the mode, and saves the strategy. With an option that answers a question nothing is asked."
    )
    parser.epilog = "examples:\n  attune auth setup\n  attune auth setup --plan max --mode auto"
    _add_strategy_options(parser)
    parser.add_argument(
        "--enrol-plan",
        action="store_true",
        help="let the Claude plan that is logged in answer: adds [providers.claude] to the configuration",
    )
    parser.add_argument("--file", metavar="FILE", help="show both modes' costs for this file")
    parser.add_argument(
        "--yes", action="store_true", help="ask nothing: take what was found and the defaults"
    )
    add_shared_options(parser)
    parser.set_defaults(run=cmd_auth_setup)


def _configure_status(parser: CommandParser) -> None:
    parser.description = (
        "Shows every field of the strategy and where it is from, which credentials are there, and which\n"
        "of them would pay for small, medium and large work right now."
    )
    parser.epilog = "example:\n  attune auth status --json"
    _add_strategy_options(parser)
    add_shared_options(parser)
    parser.set_defaults(run=cmd_auth_status)


def _configure_reset(parser: CommandParser) -> None:
    parser.description = "Forgets what `attune auth setup` saved, after asking. Keys are not touched."
    parser.epilog = "example:\n  attune auth reset --yes"
    parser.add_argument("--yes", action="store_true", help="do not ask")
    add_shared_options(parser)
    parser.set_defaults(run=cmd_auth_reset)


def _configure_recommend(parser: CommandParser) -> None:
    parser.description = (
        "Counts a file's lines and tokens, and shows what should pay for work on it, why, and what it\n"
        "costs either way at today's prices; for a folder a table of its modules, and a total. Does not end\n"
        "with 0 where nothing that is enrolled can pay."
    )
    parser.epilog = "example:\n  attune auth recommend src/app.py"
    parser.add_argument("file", metavar="PATH", help="a text file, or a folder of them")
    _add_strategy_options(parser)
    add_shared_options(parser)
    parser.set_defaults(run=cmd_auth_recommend)


def _add_strategy_options(parser: CommandParser) -> None:
    """An option for each field of the strategy; one that is not given is ``None``."""
    from attune.models.auth_strategy import AuthMode, Overflow, SubscriptionTier

    plans, modes = [plan.value for plan in SubscriptionTier], [mode.value for mode in AuthMode]
    overflows = [overflow.value for overflow in Overflow]
    group = parser.add_argument_group("the strategy")
    group.add_argument("--plan", dest="subscription_tier", choices=plans, help="the subscription you have")
    group.add_argument("--mode", dest="default_mode", choices=modes, help="what pays; auto decides by size")
    group.add_argument(
        "--overflow",
        choices=overflows,
        help="once the plan is used up: let API keys pay, wait for the reset, or fail (fail)",
    )
    for name, help_text in (
        ("prefer-subscription", "use the subscription where it serves"),
        ("cost-optimization", "let facts about the quota beat the size"),
    ):
        group.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=None, help=help_text)
    for name, kind, help_text in (
        ("small-module-threshold", int, "lines below which work is small"),
        ("large-module-threshold", int, "lines above which work is large"),
        ("loc-to-tokens-multiplier", float, "tokens a line, for estimates"),
        ("overflow-usd-per-day", float, "the most dollars a day (UTC) that --overflow api may cost (10)"),
    ):
        group.add_argument(f"--{name}", type=kind, metavar="N", help=help_text)

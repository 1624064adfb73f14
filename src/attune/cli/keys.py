"""``attune keys``: the keys of the gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.cli._exit import guarded
from attune.cli._parser import add_commands, add_shared_options

if TYPE_CHECKING:
    import argparse

    from attune.cli._parser import CommandParser

__all__ = ["cmd_keys_create", "cmd_keys_list", "cmd_keys_revoke", "configure"]

_CODES = """
exit codes:
  0    it worked
  2    the command line makes no sense, or a name is taken or unknown
  3    the configuration or the ledger cannot be read or written"""


def configure(parser: CommandParser) -> None:
    """Add the commands of ``attune keys``."""
    parser.description = (
        "Makes, lists and revokes the keys with which programs are let in by the gateway (`attune up`).\n"
        "Once there is a key, every caller needs one."
    )
    parser.epilog = (
        "Each of them takes --json and --config FILE.\n\n"
        "example:\n  attune keys create ci --tiers cheap --usd-per-day 5"
    )
    add_commands(
        parser,
        {
            "create": ("make a key, and show it once", _configure_create),
            "list": ("show what there is and what each may use, never the keys themselves", _configure_list),
            "revoke": ("take a key back, for good", _configure_revoke),
        },
    )


@guarded
def cmd_keys_create(args: argparse.Namespace) -> int:
    """Make a key and print it; returns the exit code."""
    from attune.cli._keys_change import create

    return create(args)


@guarded
def cmd_keys_list(args: argparse.Namespace) -> int:
    """Show every key; returns the exit code."""
    from attune.cli._keys_list import show

    return show(args)


@guarded
def cmd_keys_revoke(args: argparse.Namespace) -> int:
    """Revoke a key after asking; returns the exit code."""
    from attune.cli._keys_change import revoke

    return revoke(args)


def _configure_create(parser: CommandParser) -> None:
    parser.description = (
        "Makes a random key and prints it on standard output, this once: only its SHA-256 is kept.\n"
        "Without options it may use everything that callers may; each option narrows that. A list is\n"
        "given as words or with commas."
    )
    parser.epilog = (
        "examples:\n  attune keys create ci --tiers cheap capable --usd-per-day 5 --expires 30d\n"
        "  attune keys create editor --models claude-sonnet-5-5 --requests-per-minute 60" + f"\n{_CODES}"
    )
    parser.add_argument("name", metavar="NAME", help="your name for it: letters, digits, '.', '-' and '_'")
    scopes = parser.add_argument_group("what it may use")
    for option, what in (
        ("models", "these models, each as ID or PROVIDER/ID"),
        ("tiers", "models of these tiers: cheap, capable, premium"),
        ("routes", "these paths of the gateway, such as /v1/messages; without it all below /v1"),
        ("providers", "these providers"),
    ):
        scopes.add_argument(f"--{option}", nargs="+", action="extend", metavar="X", help=f"only {what}")
    scopes.add_argument("--realtime", action="store_true", help="it may say that a task is a realtime one")
    limits = parser.add_argument_group("how much")
    limits.add_argument("--requests-per-minute", type=int, metavar="N", help="calls a minute")
    limits.add_argument("--tokens-per-minute", type=int, metavar="N", help="tokens in and out a minute")
    limits.add_argument("--usd-per-day", type=float, metavar="X", help="dollars a day (UTC)")
    limits.add_argument("--usd-per-month", type=float, metavar="X", help="dollars a month (UTC)")
    limits.add_argument("--expires", metavar="TIME", help="how long it is valid, such as 45m, 12h, 30d or 8w")
    add_shared_options(parser)
    parser.set_defaults(run=cmd_keys_create)


def _configure_list(parser: CommandParser) -> None:
    parser.description = "Shows every key: what it may use, what it has spent, whether it is valid."
    parser.epilog = f"example:\n  attune keys list --json\n{_CODES}"
    add_shared_options(parser)
    parser.set_defaults(run=cmd_keys_list)


def _configure_revoke(parser: CommandParser) -> None:
    parser.description = (
        "Takes a key back, after asking. Gateways that are running refuse it within a second; calls under\n"
        "way are not ended."
    )
    parser.epilog = f"example:\n  attune keys revoke ci --yes\n{_CODES}\n  130  it was not confirmed"
    parser.add_argument("key", metavar="NAME|ID", help="its name or its id (see `attune keys list`)")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    add_shared_options(parser)
    parser.set_defaults(run=cmd_keys_revoke)

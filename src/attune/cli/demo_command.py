"""``attune demo``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.cli._exit import guarded
from attune.cli._parser import add_shared_options

if TYPE_CHECKING:
    import argparse

    from attune.cli._parser import CommandParser


def configure(parser: CommandParser) -> None:
    """Add the options of ``attune demo``."""
    parser.description = "Shows attune at work with the embedded model: no key and no network needed."
    parser.epilog = "example:\n  attune demo"
    add_shared_options(parser)
    parser.set_defaults(run=cmd_demo)


@guarded
def cmd_demo(args: argparse.Namespace) -> int:
    """Run the demo; returns the exit code."""
    from attune.cli.demo import run_demo

    return run_demo(json=args.json)

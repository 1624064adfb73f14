"""The grammar of the command line. A command's module is imported only when that command is given.

argparse, because a program that starts for every ``attune auth status`` cannot wait 0.3 s for a
parser: typer 0.29 imports pydantic for the first option it meets.
"""

from __future__ import annotations

import argparse
import importlib
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from attune.cli._exit import MEANINGS
from attune.errors import InvalidRequestError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["CommandParser", "add_commands", "build_parser"]


MAX_COLUMNS = 98
"""The longest lines of prose, however wide the terminal is."""


class Command(NamedTuple):
    """A command: the module that has its ``configure(parser)``, and what it does."""

    module: str
    help: str


COMMANDS = {
    "run": Command("attune.cli.run", "ask, and let attune choose who answers"),
    "route": Command("attune.cli.route", "show who would answer, and why, without asking"),
    "auth": Command("attune.cli.auth", "say what should pay: a subscription or API keys"),
    "models": Command("attune.cli.models", "list the models, their tiers and today's prices"),
    "tasks": Command("attune.cli.tasks", "list the known tasks and the tier that is enough for each"),
    "calls": Command("attune.cli.calls", "look back at the newest calls, or at one of them in full"),
    "stats": Command("attune.cli.stats", "show what happened: calls, success, cost, latency, savings"),
    "quota": Command("attune.cli.quota", "show what is left of your plan's quota, and when it runs out"),
    "breakers": Command("attune.cli.breakers", "show what is tripped, off or cooling down"),
    "keys": Command("attune.cli.keys", "make, list and revoke the keys of the gateway"),
    "outcome": Command("attune.cli.outcome", "say later whether the answer of a call was good"),
    "policy": Command("attune.cli.policy", "estimate what another policy would have cost on past calls"),
    "simulate": Command(
        "attune.cli.simulate", "replay a table of your own under a policy, before trusting it"
    ),
    "doctor": Command("attune.cli.doctor", "check what works, what does not, and what to do"),
    "up": Command("attune.cli.up", "start the gateway: one address for any client of OpenAI or Anthropic"),
    "demo": Command("attune.cli.demo_command", "see attune at work with the embedded model"),
}


class _Help(argparse.RawDescriptionHelpFormatter):
    """Folds what is said of a command to the terminal's width; indented lines, as of examples, stay."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        import textwrap
        from itertools import groupby

        folded: list[str] = []
        for is_prose, lines in groupby(text.splitlines(), key=_is_prose):
            if is_prose:
                folded += textwrap.wrap(" ".join(lines), min(width, MAX_COLUMNS), break_on_hyphens=False)
            else:
                folded += lines
        return "".join(f"{indent}{line}\n" for line in folded)


def _is_prose(line: str) -> bool:
    return bool(line) and not line.startswith(" ")


class CommandParser(argparse.ArgumentParser):
    """A parser that adds its options when it is used, and whose errors are one line with the nearest name."""

    def __init__(
        self, *args: Any, configure: Callable[[CommandParser], None] | None = None, **kwargs: Any
    ) -> None:
        kwargs.setdefault("formatter_class", _Help)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)
        self._configure = configure

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        if self._configure is not None:
            configure, self._configure = self._configure, None
            configure(self)
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            self._refuse(rest[0])
        return found, rest

    def error(self, message: str) -> NoReturn:
        raise InvalidRequestError(f"{message}; see `{self.prog} --help`")

    def _refuse(self, argument: str) -> NoReturn:
        if not argument.startswith("-"):
            self.error(f"unexpected argument {argument[:60]!r} (does something need quotes?)")
        options = [name for name in self._option_string_actions if name.startswith("--")]
        raise UnknownNameError("option", argument.partition("=")[0][:60], options, where=f"`{self.prog}`")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            what = action.metavar or "/".join(action.option_strings) or action.dest
            known = [str(choice) for choice in action.choices]
            raise UnknownNameError(str(what).lower(), str(value), known)


def build_parser() -> CommandParser:
    """The parser of the whole command line."""
    parser = CommandParser(
        prog="attune",
        description="Decides for every LLM call which credential pays, which tier is enough and which model "
        "serves it,\nand carries the call through failures.",
        epilog=_epilog(),
    )
    parser.add_argument("--version", action=_Version)
    add_shared_options(parser, top=True)
    add_commands(
        parser,
        {name: (command.help, _configurer(command)) for name, command in COMMANDS.items()},
    )
    return parser


def add_commands(
    parser: CommandParser, commands: dict[str, tuple[str, Callable[[CommandParser], None]]]
) -> None:
    """Give a parser commands: name -> (what it does, how its own parser is configured)."""
    group = parser.add_subparsers(metavar="COMMAND", parser_class=CommandParser, title="commands")
    for name, (help_text, configure) in commands.items():
        group.add_parser(name, help=help_text, configure=configure)
    parser.set_defaults(run=lambda _: _without_command(parser))


def add_shared_options(parser: CommandParser, *, top: bool = False) -> None:
    """``--config`` before or after the command, and ``--json`` after it."""
    default = None if top else argparse.SUPPRESS
    parser.add_argument("--config", metavar="FILE", default=default, help="the configuration to use")
    if not top:
        parser.add_argument("--json", action="store_true", help="print JSON for programs")


def _configurer(command: Command) -> Callable[[CommandParser], None]:
    def configure(parser: CommandParser) -> None:
        importlib.import_module(command.module).configure(parser)

    return configure


def _without_command(parser: CommandParser) -> int:
    parser.error("which command?")


def _epilog() -> str:
    codes = "\n".join(f"  {code.value}  {meaning}" for code, meaning in MEANINGS.items())
    return f"exit codes:\n{codes}\n\nexample:\n  attune run --task summarize 'In one line: ...'"


class _Version(argparse.Action):
    """``--version``: read only when asked for, which takes 10 ms."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show the version")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"attune {version('attune-models')}")
        parser.exit()

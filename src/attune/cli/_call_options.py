"""What `attune run` and `attune route` have in common: the prompt and what it may cost."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from attune.errors import InvalidRequestError
from attune.models.policy_names import POLICIES
from attune.models.request import ExecutionContext

if TYPE_CHECKING:
    import argparse

    from attune.cli._parser import CommandParser

__all__ = ["add_call_options", "check_text", "context_of", "read_prompt"]

MAX_PROMPT_BYTES = 32 * 1024 * 1024


def add_call_options(parser: CommandParser) -> None:
    """Add what the call is for, and its limits."""
    call = parser.add_argument_group("the call")
    call.add_argument("--task", metavar="T", help="the task, such as summarize (see `attune tasks`)")
    call.add_argument("--workflow", metavar="W", default="default", help="your name for the workflow")
    call.add_argument("--stage", metavar="S", default="default", help="your name for the stage of it")
    call.add_argument("--tier", metavar="T", help="cheap, capable or premium, whatever the task")
    call.add_argument("--model", metavar="M", help="this model, as ID or PROVIDER/ID")
    call.add_argument("--max-cost", type=float, metavar="USD", help="the most that one call may cost")
    call.add_argument("--max-latency-ms", type=float, metavar="N", help="the longest usual latency")
    call.add_argument("--policy", metavar="P", help=f"who decides: {', '.join(POLICIES)}")
    call.add_argument("--no-explore", action="store_true", help="try nothing but what is believed best")


def context_of(args: argparse.Namespace) -> ExecutionContext:
    """The context that the options describe. Raises ``InvalidRequestError``."""
    for name in ("workflow", "stage", "task", "tier", "model", "policy"):
        given = getattr(args, name)
        if given is not None and not given.strip():
            raise InvalidRequestError(f"--{name} is empty; give a name, or leave it out")
        check_text(f"--{name}", given or "")
    return ExecutionContext(
        workflow=args.workflow,
        stage=args.stage,
        task_type=args.task,
        tier=args.tier,
        model=args.model,
        max_cost=args.max_cost,
        max_latency_ms=args.max_latency_ms,
        policy=args.policy,
        explore=False if args.no_explore else None,
    )


def read_prompt(argument: str) -> str:
    """The prompt, from standard input for ``-``. Raises ``InvalidRequestError``."""
    if argument != "-":
        check_text("the prompt", argument)
        return argument
    content = sys.stdin.buffer.read(MAX_PROMPT_BYTES + 1)
    if len(content) > MAX_PROMPT_BYTES:
        raise InvalidRequestError(f"the prompt is above {MAX_PROMPT_BYTES // 1024 // 1024} MiB")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise InvalidRequestError("what came on standard input is not UTF-8 text") from None


def check_text(what: str, text: str) -> None:
    """Refuse what the system gave as bytes that are no text: neither a wire nor the ledger takes it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequestError(f"{what} is not UTF-8 text") from None

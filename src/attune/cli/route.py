"""``attune route``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from attune.cli._call_options import add_call_options, context_of, read_prompt
from attune.cli._decision import decision_as_json, show_decision, show_dropped, show_flips
from attune.cli._exit import ExitCode, guarded
from attune.cli._ledger import open_ledger
from attune.cli._parser import add_shared_options
from attune.cli._payment import check_enrolled
from attune.cli._terminal import load_config, print_json
from attune.errors import NoCandidateError
from attune.models.request import LLMRequest
from attune.models.tasks import normalize_task

if TYPE_CHECKING:
    import argparse

    from attune.cli._parser import CommandParser
    from attune.models.adaptive_routing import AdaptiveModelRouter
    from attune.models.request import ExecutionContext

__all__ = ["cmd_route", "configure"]


def configure(parser: CommandParser) -> None:
    """Add the options of ``attune route``."""
    parser.description = (
        "Decides without calling anyone, and shows every candidate with its score and the parts of it,\n"
        "why each other one came later, and why the rest was dropped. What other attune processes found\n"
        "out about open circuits and bad credentials counts."
    )
    parser.epilog = "example:\n  attune route --workflow code-review --task fix_bug --max-cost 0.01"
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="what would be asked, for its size")
    parser.add_argument("--flips", action="store_true", help="show what would have changed the choice")
    add_call_options(parser)
    add_shared_options(parser)
    parser.set_defaults(run=cmd_route)


@guarded
def cmd_route(args: argparse.Namespace) -> int:
    """Show the decision; returns the exit code."""
    from attune import runtime

    request = None if args.prompt is None else LLMRequest.from_prompt(read_prompt(args.prompt))
    context = context_of(args)
    config = load_config(args)
    check_enrolled(config, context.model)
    if ledger := open_ledger(config):
        ledger.facts()  # a corrupt ledger ends here: only what writes to it keeps it aside
    with runtime.build(config) as built:
        try:
            decision = built.decide(request, context)
        except NoCandidateError as error:
            if not args.json:
                show_dropped(error.drops)
            raise
    record = decision.record(decision_id="", call_id="", at=0.0)  # as it would be, were it made
    if request is None:
        record = record._replace(notes=(*record.notes, _assumed_size(built.router, context)))
    if args.json:
        print_json(decision_as_json(record))
    else:
        show_decision(record)
        if args.flips:
            show_flips(record)
    return ExitCode.OK


def _assumed_size(router: AdaptiveModelRouter, context: ExecutionContext) -> str:
    """Which size a call is taken to have whose prompt is not known."""
    from attune.models.route_request import DEFAULT_INPUT_TOKENS, DEFAULT_OUTPUT_TOKENS

    task = normalize_task(context.task_type) if context.task_type else ""
    stats, now = router.stats, time.time()
    mean = stats.mean_tokens(stats.levels(context.workflow, context.stage, task), stats.first_bucket(now))
    tokens_in, tokens_out = mean or (DEFAULT_INPUT_TOKENS, DEFAULT_OUTPUT_TOKENS)
    why = "" if mean is None else ", the mean of the calls so far"
    return f"no prompt is given: {tokens_in:,.0f} tokens in and {tokens_out:,.0f} out are assumed{why}"

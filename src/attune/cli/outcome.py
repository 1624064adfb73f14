"""``attune outcome``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from attune.cli._call_options import check_text
from attune.cli._exit import ExitCode, guarded, note
from attune.cli._ledger import find_call, unknown_call
from attune.cli._parser import add_shared_options
from attune.cli._terminal import load_config, print_json
from attune.errors import InvalidRequestError

if TYPE_CHECKING:
    import argparse

    from attune.cli._parser import CommandParser
    from attune.config import Config
    from attune.models.state import OutcomeTarget
    from attune.stores.sqlite import SqliteStore

__all__ = ["cmd_outcome", "configure"]


def configure(parser: CommandParser) -> None:
    """Add the options of ``attune outcome``."""
    parser.description = (
        "Says whether the answer of a call was good, once you know. The router learns from it: an answer\n"
        "that arrived but was no use counts as a failure. A later outcome replaces an earlier one, and is\n"
        "believed instead of what a validator said when the answer came."
    )
    parser.epilog = "example:\n  attune outcome 0a1b2c3d --failure --score 0.2"
    parser.add_argument(
        "call_id", metavar="CALL_ID", help="its id, or the beginning of it: `attune calls` lists them"
    )
    result = parser.add_mutually_exclusive_group(required=True)
    result.add_argument("--success", action="store_true", dest="success", help="the answer was good")
    result.add_argument("--failure", action="store_false", dest="success", help="the answer was no use")
    parser.add_argument("--score", type=float, metavar="X", help="how good, from 0 to 1")
    add_shared_options(parser)
    parser.set_defaults(run=cmd_outcome)


@guarded
def cmd_outcome(args: argparse.Namespace) -> int:
    """Record an outcome; returns the exit code."""
    if args.score is not None and not 0 <= args.score <= 1:
        raise InvalidRequestError(f"--score must be from 0 to 1, not {args.score:g}")
    target = _record(load_config(args), args)
    result = "success" if args.success else "failure"
    record = target.record
    if args.json:
        print_json(
            {
                "call_id": record.call_id,
                "success": args.success,
                "score": args.score,
                "provider": record.provider,
                "model": record.model_id,
                "previous": None if target.previous is None else target.previous.success,
            }
        )
    else:
        print(f"recorded {result} of {record.call_id}: {record.provider}/{record.model_id}")
    return ExitCode.OK


def _record(config: Config, args: argparse.Namespace) -> OutcomeTarget:
    """Store the outcome. Raises as ``find_call`` does for a call that the ledger does not know."""
    from attune.models.telemetry import Outcome
    from attune.stores.sqlite import SqliteStore

    check_text("the id of the call", args.call_id)
    if not config.paths.ledger_file.exists():
        raise unknown_call(args.call_id, ())
    durability, days = config.ledger
    store = SqliteStore.open(config.paths.ledger_file, durability=durability, retention_days=days)
    for notice in store.notices:
        note(notice)
    try:
        outcome = Outcome(args.call_id, time.time(), args.success, args.score)
        target = store.record_outcome(outcome)
        if target is None:
            call_id = find_call(store, args.call_id)
            target = store.record_outcome(outcome._replace(call_id=call_id))
        if target is None:
            raise InvalidRequestError(f"the call {call_id} has no attempt that an outcome could be of")
        _teach(store, target, outcome.label)
    finally:
        store.close()
    return target


def _teach(store: SqliteStore, target: OutcomeTarget, label: float) -> None:
    """Add what the first word on an answer says to what the policy that decided has learned."""
    from attune.models.policies import GuardedPolicy
    from attune.models.policy_names import VERSIONS

    record, previous, decided = target
    version = VERSIONS[GuardedPolicy.name]
    if previous is None and record.success and record.chosen_by_policy and decided.policy == version:
        policy = GuardedPolicy()
        policy.hear(store.policy_sums(version))
        policy.judge(decided, f"{record.provider}/{record.model_id}", label, changed=False)
        store.add_policy_sums(version, policy.tell())

"""``attune calls``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attune.cli._call_options import check_text
from attune.cli._decision import as_people_read, show_decision, show_flips
from attune.cli._exit import ExitCode, guarded
from attune.cli._ledger import find_call, open_ledger
from attune.cli._parser import add_shared_options
from attune.cli._terminal import dollars, folded, load_config, print_json, print_table, utc
from attune.errors import InvalidRequestError
from attune.models.candidate import Candidate
from attune.models.telemetry import NANOS_PER_USD, as_object

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from attune.cli._parser import CommandParser
    from attune.models.telemetry import DecisionRecord, LLMCallRecord, Outcome
    from attune.stores._chains import CallChain
    from attune.stores.sqlite import SqliteReader

__all__ = ["cmd_calls", "configure"]

LAST = 20
MOST = 1000


def configure(parser: CommandParser) -> None:
    """Add the options of ``attune calls``."""
    parser.description = (
        "Shows the newest calls: what each was for, who answered, what it took and how it ended. With the\n"
        "id of one, or its beginning if no other begins so, it shows that call in full: the decision with\n"
        "every candidate, each attempt with its cost and error, and what was said of the answer."
    )
    parser.epilog = "examples:\n  attune calls --last 5 --failed\n  attune calls 19ab03f6"
    parser.add_argument("call_id", nargs="?", metavar="ID", help="one call in full")
    parser.add_argument("--last", type=int, metavar="N", help=f"how many calls (default {LAST})")
    parser.add_argument(
        "--failed", action="store_true", help="only calls without an answer, or with one that was no good"
    )
    parser.add_argument("--workflow", metavar="W", help="only calls of this workflow")
    parser.add_argument(
        "--flips", action="store_true", help="with ID: show what would have changed the choice"
    )
    add_shared_options(parser)
    parser.set_defaults(run=cmd_calls)


@guarded
def cmd_calls(args: argparse.Namespace) -> int:
    """Show the newest calls, or one; returns the exit code."""
    _check(args)
    ledger = open_ledger(load_config(args))
    if args.call_id is not None:
        _one(ledger, args)
        return ExitCode.OK
    last = LAST if args.last is None else args.last
    found = ledger.recent_calls(last, args.workflow, failed=args.failed) if ledger else []
    if args.json:
        print_json({"calls": [_as_json(chain) for chain in found]})
    else:
        _list(found)
        if len(found) < last and (args.failed or args.workflow is not None):
            print(folded(_looked_at("no more such calls" if found else "no such call")))
        elif not found:
            print("no calls yet")
    return ExitCode.OK


def _check(args: argparse.Namespace) -> None:
    """Raise ``InvalidRequestError`` for options that make no sense, or not together."""
    if args.last is not None and not 1 <= args.last <= MOST:
        raise InvalidRequestError(f"--last must be from 1 to {MOST}, not {args.last}")
    check_text("--workflow", args.workflow or "")
    chooses = args.last is not None or args.failed or args.workflow is not None
    if args.call_id is not None and chooses:
        raise InvalidRequestError("--last, --failed and --workflow choose among calls: leave them or ID out")
    if args.call_id is None and args.flips:
        raise InvalidRequestError("--flips is of one call: give its ID")


def _looked_at(what: str) -> str:
    from attune.stores._chains import LOOKED_AT

    return f"{what} among the newest {LOOKED_AT:,}"


# -- the newest calls ----------------------------------------------------------------------------------


def _list(chains: Sequence[CallChain]) -> None:
    columns = ("time", "call", "for", "answered by", ">in", ">out", ">cost", ">ms", "outcome")
    if chains:
        print_table(columns, [_row(chain) for chain in chains], lead=2)


def _row(chain: CallChain) -> tuple[str, ...]:
    decision, answer, latency = chain.decision, chain.answer, _latency(chain)
    return (
        utc(decision.at),
        decision.call_id,
        _purpose(decision),
        "-" if answer is None else _candidate(answer),
        _number(_tokens(chain, "input_tokens")),
        _number(_tokens(chain, "output_tokens")),
        _paid(chain),
        "-" if latency is None else f"{latency:.0f}",
        _ended(chain),
    )


def _as_json(chain: CallChain) -> dict[str, Any]:
    """A call in short: its candidate is that of the answer, the rest is of all its attempts together."""
    decision, answer = chain.decision, chain.answer
    return {
        "call_id": decision.call_id,
        "at": decision.at,
        "workflow": decision.workflow,
        "stage": decision.stage,
        "task_type": decision.task_type,
        "provider": None if answer is None else answer.provider,
        "model": None if answer is None else answer.model_id,
        "tier": None if answer is None else answer.tier,
        "credential": None if answer is None else answer.credential,
        "attempts": len(chain.attempts),
        "input_tokens": _tokens(chain, "input_tokens"),
        "output_tokens": _tokens(chain, "output_tokens"),
        "cost_usd": _cost(chain),
        "list_cost_usd": _worth(chain),
        "by_credits": _by_credits(chain),
        "latency_ms": _latency(chain),
        "answered": answer is not None and answer.success,
        "error_class": "" if answer is None else answer.error_class,
        "outcome": chain.outcome,
    }


def _tokens(chain: CallChain, kind: str) -> int | None:
    known = [getattr(each.usage, kind) for each in chain.attempts if each.usage is not None]
    return sum(known) if known else None


def _cost(chain: CallChain) -> float | None:
    """USD of all attempts; ``None`` if that of any is unknown."""
    nanos = [each.cost_nanos for each in chain.attempts]
    return None if None in nanos else sum(filter(None, nanos)) / NANOS_PER_USD


def _worth(chain: CallChain) -> float | None:
    """USD at list price of what plans paid for; ``None`` if none did."""
    known = [each.list_cost_nanos for each in chain.attempts if each.list_cost_nanos is not None]
    return sum(known) / NANOS_PER_USD if known else None


def _by_credits(chain: CallChain) -> bool:
    """Whether prepaid credits were expected to pay the candidate of the answer."""
    answer = chain.answer
    payer = None if answer is None else (answer.provider, answer.model_id, answer.credential)
    return any(each.by_credits and each[:3] == payer for each in chain.decision.ranked)


def _paid(chain: CallChain) -> str:
    """What was billed, and what it is worth where a plan paid for it."""
    cost, worth = dollars(_cost(chain)), _worth(chain)
    if worth is not None:
        return f"{cost} (worth {dollars(worth)})"
    return f"{cost} (credits)" if _by_credits(chain) else cost


def _latency(chain: CallChain) -> float | None:
    """From the decision to the end of the last attempt."""
    ends = [each.at + each.latency_ms / 1000 for each in chain.attempts]
    return max(0.0, max(ends) - chain.decision.at) * 1000 if ends else None


def _ended(chain: CallChain) -> str:
    answer = chain.answer
    if answer is None:
        return "not tried" if chain.decision.ranked else "no candidate"
    if not answer.success:
        return f"failed: {answer.error_class}"
    return {None: "answered", True: "answered, good", False: "answered, no good"}[chain.outcome]


# -- one call ------------------------------------------------------------------------------------------


def _one(ledger: SqliteReader | None, args: argparse.Namespace) -> None:
    from attune.models.explanation import flips
    from attune.stores._chains import CallChain

    call_id = find_call(ledger, args.call_id)
    assert ledger is not None  # it knows the call
    decision = ledger.decision(call_id)
    assert decision is not None
    chain = CallChain(decision, tuple(ledger.attempts(call_id)), tuple(ledger.outcomes(call_id)))
    if args.json:
        print_json({**as_object(chain), "flips": as_object(flips(decision))})
        return
    print(folded(f"call {decision.call_id}, {utc(decision.at)}: {_purpose(decision)}"))
    show_decision(decision)
    if args.flips:
        show_flips(decision)
    print()
    _show_attempts(chain)
    for outcome in chain.outcomes:
        print(folded(_said(outcome)))


def _show_attempts(chain: CallChain) -> None:
    if not chain.attempts:
        print(
            "no attempt was recorded" if chain.decision.ranked else "nobody was asked: there was no candidate"
        )
        return
    columns = (">", "attempt", ">in", ">out", ">cost", ">first ms", ">ms", "how it ended")
    print_table(columns, [_attempt_row(each) for each in chain.attempts], lead=2)
    print()
    cost, latency = dollars(_cost(chain)), _latency(chain) or 0.0
    print(folded(f"{_ended(chain)}; {cost} and {latency:.0f} ms in all"))


def _attempt_row(attempt: LLMCallRecord) -> tuple[str, ...]:
    usage = attempt.usage
    cost = dollars(None if attempt.cost_nanos is None else attempt.cost_nanos / NANOS_PER_USD)
    return (
        str(attempt.position + 1),
        _candidate(attempt),
        _number(None if usage is None else usage.input_tokens),
        _number(None if usage is None else usage.output_tokens),
        f"{cost} (estimated)" if attempt.cost_status == "estimated" else cost,
        "-" if attempt.ttft_ms is None else f"{attempt.ttft_ms:.0f}",
        f"{attempt.latency_ms:.0f}",
        _how(attempt),
    )


def _how(attempt: LLMCallRecord) -> str:
    code = f" ({attempt.error_code})" if attempt.error_code else ""
    how = f"answered ({attempt.stop_reason})" if attempt.success else f"{attempt.error_class}{code}"
    if attempt.list_cost_nanos is not None:
        how += f", worth {dollars(attempt.list_cost_nanos / NANOS_PER_USD)} at list price"
    return how if attempt.chosen_by_policy else f"{how}; not chosen by the policy"


def _said(outcome: Outcome) -> str:
    score = "" if outcome.score is None else f", score {outcome.score:g}"
    good = "good" if outcome.success else "no good"
    return f"a {outcome.source} said at {utc(outcome.at)}: {good}{score}"


def _purpose(decision: DecisionRecord) -> str:
    return "/".join(filter(None, (decision.workflow, decision.stage, decision.task_type)))


def _candidate(attempt: LLMCallRecord) -> str:
    return as_people_read(Candidate(attempt.provider, attempt.model_id, attempt.credential).key)


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"

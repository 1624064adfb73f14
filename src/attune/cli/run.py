"""``attune run``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from attune.cli._call_options import add_call_options, context_of, read_prompt
from attune.cli._exit import ExitCode, guarded, note
from attune.cli._parser import add_shared_options
from attune.cli._payment import check_enrolled
from attune.cli._terminal import dollars, print_json
from attune.config.settings import NO_CREDENTIAL
from attune.errors import InvalidRequestError
from attune.models.executor import TextDelta
from attune.models.request import LLMRequest

if TYPE_CHECKING:
    import argparse

    from attune.cli._parser import CommandParser
    from attune.models.executor import LLMResponse
    from attune.models.request import ExecutionContext
    from attune.models.telemetry import DecisionRecord
    from attune.models.validation import Validator
    from attune.runtime import Runtime

__all__ = ["cmd_run", "configure"]


def configure(parser: CommandParser) -> None:
    """Add the options of ``attune run``."""
    parser.description = (
        "Asks, and prints the answer on standard output; who was chosen, why and what it cost is said on\n"
        "standard error. Failures are carried to the next candidate. An answer that does not pass its\n"
        "validation is printed all the same, and the exit code is 8."
    )
    parser.epilog = (
        "examples:\n  attune run --task summarize 'In one line: ...'\n  git diff | attune run --task "
        "review_security --max-cost 0.05 -"
    )
    parser.add_argument("prompt", metavar="PROMPT", help="what to ask; - reads it from standard input")
    parser.add_argument(
        "--stream", action="store_true", help="print the answer as it comes (not with --json)"
    )
    add_call_options(parser)
    judged = parser.add_argument_group("whether the answer will do")
    how = judged.add_mutually_exclusive_group()
    how.add_argument("--validate", metavar="REGEX", help="this regular expression has to match in it")
    how.add_argument("--schema", metavar="FILE", help="it has to be JSON that follows the schema in FILE")
    judged.add_argument("--escalate", action="store_true", help="if it will not, ask the tiers above")
    add_shared_options(parser)
    parser.set_defaults(run=cmd_run)


@guarded
def cmd_run(args: argparse.Namespace) -> int:
    """Ask and print the answer; returns the exit code."""
    import asyncio

    from attune import runtime

    if args.stream and args.json:
        raise InvalidRequestError("--json prints a whole answer: leave --stream out")
    if args.stream and args.escalate:
        raise InvalidRequestError("what is printed cannot be taken back: leave --stream or --escalate out")
    validator = _validator(args)
    request, context = LLMRequest.from_prompt(read_prompt(args.prompt)), context_of(args)
    opened = runtime.open(args.config, on_step=note)
    for notice in opened.notices:
        note(notice)
    return asyncio.run(_answer(opened, request, context, validator, args))


def _validator(args: argparse.Namespace) -> Validator | None:
    """What judges the answer. Raises ``InvalidRequestError``."""
    if args.validate is None and args.schema is None:
        if args.escalate:
            raise InvalidRequestError("--escalate needs --validate or --schema, which say what will not do")
        return None
    from attune.models.validation import Validator

    return Validator(args.validate if args.schema is None else _schema(args.schema))


def _schema(name: str) -> dict[str, Any]:
    import json

    from attune.cli._auth_recommend import read_text

    text = read_text(name)
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{name} is not JSON: {error}") from None
    if not isinstance(schema, dict):
        raise InvalidRequestError(f"{name} is not a JSON schema: it has to be an object")
    return schema


async def _answer(
    runtime: Runtime,
    request: LLMRequest,
    context: ExecutionContext,
    validator: Validator | None,
    args: argparse.Namespace,
) -> int:
    async with runtime:
        check_enrolled(runtime.config, context.model)
        runtime.on_decision = _announce
        if args.stream:
            response = await _streamed(runtime, request, context, validator)
        else:
            response = await runtime.run(request, context, validate=validator, escalate=args.escalate)
            print_json(_as_json(response)) if args.json else _print_text(response.text)
    _summarize(response)
    passed = validator is None or (response.verdict is not None and response.verdict.success)
    return ExitCode.OK if passed else ExitCode.NOT_PASSED


def _announce(decision: DecisionRecord) -> None:
    """Say who will be asked, before it takes its time; that nobody can be, the call itself says."""
    if decision.ranked:
        note(decision.reason)
        for remark in decision.notes:
            note(remark)


async def _streamed(
    runtime: Runtime, request: LLMRequest, context: ExecutionContext, validator: Validator | None
) -> LLMResponse:
    last = ""
    try:
        async with runtime.stream(request, context, validate=validator) as events:
            async for event in events:
                if isinstance(event.parsed, TextDelta) and event.parsed.text:
                    last = _printable(event.parsed.text)
                    sys.stdout.write(last)
                    sys.stdout.flush()
    finally:
        if last and not last.endswith("\n"):
            print(flush=True)
    assert events.response is not None  # it ended with its terminal event
    return events.response


def _print_text(text: str) -> None:
    print(_printable(text), end="" if text.endswith("\n") else "\n")


def _printable(text: str) -> str:
    """An answer as a terminal may get it: without the sequences that would control it."""
    if not sys.stdout.isatty():
        return text
    return "".join(c for c in text if c.isprintable() or c in "\n\t")


def _summarize(response: LLMResponse) -> None:
    cut = {"length": "; cut at its limit", "refusal": "; refused", "context_window": "; its window is full"}
    paid = "(no key needed)" if response.credential == NO_CREDENTIAL else f"({response.credential})"
    note(
        f"call {response.call_id}: {response.provider}/{response.model_id} {paid} in "
        f"{response.latency_ms:.0f} ms, {dollars(response.cost_usd)}{_worth(response)}"
        f"{cut.get(response.stop_reason, '')}"
        f"{_judged(response)}"
    )


def _worth(response: LLMResponse) -> str:
    """What an answer would have cost that a plan paid for."""
    usd = response.list_cost_usd
    return "" if usd is None else f", worth {dollars(usd)} at list price"


def _judged(response: LLMResponse) -> str:
    verdict = response.verdict
    if verdict is None:
        return f"; not judged: {response.validator_error}" if response.validator_error else ""
    why = f" ({verdict.reason})" if verdict.reason else ""
    return f"; {'passed' if verdict.success else 'failed'} the validation{why}"


def _as_json(response: LLMResponse) -> dict[str, Any]:
    decision = response.decision
    return {
        "call_id": response.call_id,
        "text": response.text,
        "stop_reason": response.stop_reason,
        "provider": response.provider,
        "model": response.model_id,
        "tier": response.tier,
        "credential": response.credential,
        "usage": None if response.usage is None else response.usage._asdict(),
        "cost_usd": response.cost_usd,
        "cost_status": response.cost_status.value,
        "list_cost_usd": response.list_cost_usd,
        "latency_ms": response.latency_ms,
        "ttft_ms": response.ttft_ms,
        "attempts": [attempt._asdict() for attempt in response.attempts],
        "reason": None if decision is None else decision.reason,
        "notes": [] if decision is None else list(decision.notes),
        "verdict": None if response.verdict is None else response.verdict._asdict(),
        "validator_error": response.validator_error,
    }

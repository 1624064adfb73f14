"""What the ``claude`` program is told and says, one JSON object a line."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from attune.errors import (
    CallerError,
    ConnectionFailedError,
    CredentialError,
    ModelUnavailableError,
    RefusalError,
    WindowSpentError,
)
from attune.providers._claude_windows import RateLimitInfo, window_in_text
from attune.wire import messages
from attune.wire.encoder import to_json
from attune.wire.errors import MALFORMED

if TYPE_CHECKING:
    from attune.errors import ProviderError
    from attune.models.registry import ModelInfo
    from attune.models.request import LLMRequest
    from attune.wire.errors import ErrorMapper

__all__ = [
    "Asked",
    "Line",
    "Result",
    "answer_to",
    "asked",
    "check_payer",
    "check_started",
    "control",
    "failure_of",
    "rate_limit_info",
    "sse",
    "turn",
]

OLDEST = (2, 1, 248)
"""The first version that takes a prompt as it is: an older one puts files into it that ``@`` names."""

Message = dict[str, Any]


class Line(msgspec.Struct, rename="camel"):
    """Any line; what a type has not is left at its default."""

    type: str = ""
    subtype: str = ""
    event: msgspec.Raw = msgspec.Raw(b"")
    response: msgspec.Raw = msgspec.Raw(b"{}")
    rate_limit_info: msgspec.Raw = msgspec.field(default=msgspec.Raw(b"{}"), name="rate_limit_info")
    api_key_source: str | None = None


class Result(msgspec.Struct):
    """How a turn ended. ``api_error_status`` and ``api_error_type`` are what the servers answered,
    ``begun_message_ids`` the answers that had begun, be it that nothing of them was shown.
    """

    is_error: bool = False
    result: str = ""
    stop_reason: str | None = None
    api_error_status: int | None = None
    api_error_type: str | None = None
    begun_message_ids: tuple[str, ...] = ()


class _Account(msgspec.Struct, rename="camel"):
    api_key_source: str | None = None
    token_source: str | None = None
    api_provider: str | None = None


class _Started(msgspec.Struct):
    account: _Account = msgspec.field(default_factory=_Account)
    claude_code_version: str = ""


class _Control(msgspec.Struct):
    request_id: str = ""
    subtype: str = ""
    error: str = ""
    response: msgspec.Raw = msgspec.Raw(b"{}")


class Asked(NamedTuple):
    """A request as the program is told it: its system prompt, its settings, and the turns of the talk."""

    system: str
    settings: Message
    turns: tuple[Message, ...]


def asked(request: LLMRequest, model: ModelInfo, errors: ErrorMapper, *, provider: str) -> Asked:
    """The request, encoded. Raises ``CallerError`` for what the program cannot be told, and for a request of
    another program: a plan is for what its own user runs.
    """
    if request.source is not None:
        raise errors.raised(CallerError, "a subscription answers no requests that are passed on for a client")
    if "fable" in model.id:
        raise errors.raised(
            ModelUnavailableError, f"{model.id} bills credits beside the plan, so it is left out"
        )
    plain = replace(request, extra={})
    body: Message = msgspec.json.decode(messages.encode(plain, model, provider=provider, errors=errors))
    settings = {
        "model": body.pop("model"),
        "env": {"CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(body.pop("max_tokens"))},
    }
    if effort := body.get("output_config", {}).pop("effort", None):
        settings["effortLevel"] = effort
    else:
        settings["env"]["CLAUDE_CODE_DISABLE_THINKING"] = "1"
    turns, system = body.pop("messages"), body.pop("system", "")
    untold = sorted({name for name, value in body.items() if value and name != "stream"} | {*request.extra})
    if untold:
        what = ", ".join(untold)
        raise errors.raised(CallerError, f"through a subscription a request cannot have {what}")
    if not turns or turns[-1]["role"] != "user":
        raise errors.raised(CallerError, "through a subscription the last message must be the user's")
    return Asked(system, settings, tuple(turns))


def turn(message: Message, *, answered: bool) -> Message:
    """A message of the conversation; one of the user is ``answered``, or only taken note of.

    It is marked as composed by a program, so that what looks like a command or a file in it is neither.
    """
    line: Message = {"type": message["role"], "message": message}
    if message["role"] == "user":
        line |= {"client_composed": True, "shouldQuery": answered}
    return line


def control(number: str, **request: Any) -> Message:
    """A request to the program itself, which answers it in a ``control_response``."""
    return {"type": "control_request", "request_id": number, "request": request}


def answer_to(number: str, line: Line, errors: ErrorMapper) -> msgspec.Raw | None:
    """What ``line`` answers to the ``control`` of this number; ``None`` for a line that is another.

    Raises ``CredentialError`` when the program refused it, and anything in ``MALFORMED``.
    """
    if line.type != "control_response":
        return None
    answer = msgspec.json.decode(line.response, type=_Control)
    if answer.request_id != number:
        return None
    if answer.subtype != "success":
        raise errors.raised(CredentialError, f"the claude program refused what it was asked: {answer.error}")
    return answer.response


def check_started(answer: msgspec.Raw, errors: ErrorMapper) -> None:
    """Raise ``CredentialError`` when not the subscription would pay, or the program is too old.

    ``answer`` is that to ``initialize``. May raise anything in ``MALFORMED``.
    """
    started = msgspec.json.decode(answer, type=_Started)
    version = re.match(r"(\d+)\.(\d+)\.(\d+)", started.claude_code_version)
    if version is None or tuple(map(int, version.groups())) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        shown = started.claude_code_version or "of an unknown version"
        raise errors.raised(
            CredentialError, f"the claude program is {shown}, at least {oldest} is needed; update it"
        )
    account = started.account
    check_payer(account.api_key_source, errors)
    check_payer(account.token_source, errors)
    if account.api_provider not in {None, "firstParty"}:
        check_payer(account.api_provider, errors)


def check_payer(source: str | None, errors: ErrorMapper) -> None:
    """Raise ``CredentialError`` unless the login pays: ``source`` is where the key is from, if one does."""
    if source not in {None, "none", "claude.ai"}:
        raise errors.raised(
            CredentialError,
            f"not the subscription would pay but {source}; "
            "take that out of what the claude program reads, or use the API key openly",
        )


def rate_limit_info(line: Line) -> RateLimitInfo:
    """The plan's report in a line; an empty one if it cannot be read: an answer is worth more."""
    try:
        return msgspec.json.decode(line.rate_limit_info, type=RateLimitInfo)
    except MALFORMED:
        return RateLimitInfo()


def sse(event: msgspec.Raw) -> bytes:
    """An event of Messages as a block of a stream."""
    return b"data: " + bytes(event) + b"\n\n"


def failure_of(result: Result, limits: RateLimitInfo, errors: ErrorMapper, now: float) -> ProviderError:
    """The error that a turn ended with.

    Classified like the same answer without the program between. ``limits`` is the plan's last report,
    ``now`` UTC epoch seconds.
    """
    if result.stop_reason == "refusal":
        return errors.raised(RefusalError, result.result)
    spent = window_in_text(result.result, now)
    if not result.is_error or (result.api_error_status is None and spent is None):
        if result.begun_message_ids or not result.is_error:
            return errors.broken(result.result or "the answer ended before its terminal event")
        kind = CredentialError if "/login" in result.result else ConnectionFailedError
        return errors.raised(kind, result.result)
    status = result.api_error_status or 429
    headers: dict[str, str] = {}
    if status == 429 and (limits.window_is_spent or spent is not None):
        resets_at = limits.resets_at or (spent.resets_at if spent else None)
        headers["anthropic-ratelimit-unified-status"] = "rejected"
        headers["anthropic-ratelimit-unified-reset"] = str(resets_at or "")
    message = f"{result.result}; run `claude auth login`" if status == 401 else result.result
    body = {"type": "error", "error": {"type": result.api_error_type or "", "message": message}}
    error = errors.from_response(status, headers, to_json(body, errors), now=now)
    if isinstance(error, WindowSpentError):  # it says more than that a limit was reached
        error.code = limits.window or (spent.name if spent else None) or error.code
    return error

"""What a failed answer means: an HTTP error or an error in a stream becomes a ``ProviderError``.

Classified by status, by the provider's typed codes and by headers; by the message's words only
where nothing else is given, and then by whole phrases. When several classes fit, money comes first,
then the subscription's window, context, model, credential, refusal, throttling, and last the caller.
"""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

from attune.errors import (
    CallerError,
    ContextTooLongError,
    CredentialError,
    ModelUnavailableError,
    MoneyGoneError,
    ProviderError,
    RefusalError,
    StreamBrokenError,
    ThrottledError,
    TransientError,
    WindowSpentError,
)
from attune.wire.redaction import one_line, without_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["MALFORMED", "MAX_ERROR_BODY_BYTES", "ErrorMapper", "retry_after"]

MALFORMED = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
"""Everything that ``msgspec.json.decode`` raises for bytes that are not the JSON expected."""

Raised = TypeVar("Raised", bound=ProviderError)

MAX_ERROR_BODY_BYTES = 64 * 1024
MAX_RETRY_AFTER_S = 31 * 86_400.0
_MAX_CODE_CHARS = 80

_MONEY_CODES = {
    "billing_error",
    "insufficient_quota",
    "credit_balance_exhausted",
    "enforced_spend_limit_reached",
    "billing_hard_limit_reached",
    "billing_not_active",
}
_CONTEXT_CODES = {"context_length_exceeded", "model_context_window_exceeded", "exceed_context_size_error"}
_MODEL_CODES = {"model_not_found", "model_not_available", "deploymentnotfound"}
_CREDENTIAL_CODES = {
    "authentication_error",
    "permission_error",
    "invalid_api_key",
    "api_key_invalid",
    "unauthenticated",
    "permission_denied",
}
_REFUSAL_CODES = {
    "content_filter",
    "content_policy_violation",
    "image_content_policy_violation",
    "misalignment_policy_violation",
    "bio_policy",
    "invalid_prompt",
    "responsibleaipolicyviolation",
    "safety",
    "prohibited_content",
}
_THROTTLE_CODES = {
    "rate_limit_error",
    "rate_limit_exceeded",
    "slow_down",
    "resource_exhausted",
    "too_many_requests",
}
_CALLER_CODES = {
    "invalid_request_error",
    "not_found_error",
    "request_too_large",
    "invalid_argument",
    "data_residency_mismatch",
    "invalid_image",
    "invalid_image_format",
    "invalid_image_mode",
    "invalid_image_url",
    "invalid_base64_image",
    "image_too_large",
    "image_too_small",
    "image_file_too_large",
    "image_file_not_found",
    "image_parse_error",
    "empty_image_file",
    "failed_to_download_image",
    "unsupported_image_media_type",
}

_MONEY_PHRASE = re.compile(r"\bspecified api usage limits\b|\bcredit balance is too low\b")
_WINDOW_PHRASE = re.compile(r"\byou've hit your [\w -]{1,30}\blimit\b")
_CREDENTIAL_PHRASE = re.compile(r"\bapi key not valid\b")
_DELAY_PHRASE = re.compile(r"\btry again in ((?:\d+(?:\.\d+)?(?:h|ms|m|s))+)\b", re.IGNORECASE)
_DELAY_PARTS = re.compile(r"([\d.]+)(h|ms|m|s)", re.IGNORECASE)
_UNIT_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_CONTEXT_PHRASE = re.compile(
    r"\bprompt is too long\b"
    r"|\bmaximum context length is\b"
    r"|\bexceeds the context window of this model\b"
    r"|\bexceeds the available context size\b"
    r"|\binput length and `?max_tokens`? exceed context limit\b"
    r"|\binput token count\b.{0,40}\bexceeds the maximum number of tokens allowed\b"
)


class _Signals(NamedTuple):
    """What classification looks at; ``codes`` and ``message`` in lower case.

    ``status`` is 0 for an error inside a stream that names no status of its own.
    """

    status: int
    codes: frozenset[str]
    message: str
    model: str
    unified_status: str = ""


def _is_money(seen: _Signals) -> bool:
    return (
        seen.status == 402
        or bool(seen.codes & _MONEY_CODES)
        or any(code.endswith("_spend_limit_exceeded") for code in seen.codes)
        or bool(_MONEY_PHRASE.search(seen.message))
    )


def _is_window(seen: _Signals) -> bool:
    return seen.unified_status == "rejected" or bool(_WINDOW_PHRASE.search(seen.message))


def _is_context(seen: _Signals) -> bool:
    if seen.codes & _CONTEXT_CODES:
        return True
    return seen.status in {0, 400, 413, 422} and bool(_CONTEXT_PHRASE.search(seen.message))


def _is_model(seen: _Signals) -> bool:
    if seen.codes & _MODEL_CODES:
        return True
    absent = seen.status in {403, 404} or (seen.status == 0 and "not_found_error" in seen.codes)
    # The id as a whole word: "gpt-6" is not named by a text about "gpt-6-luna" or "gpt-6.1".
    named = rf"(?<![\w.-]){re.escape(seen.model.lower())}(?![\w-]|\.\w)"
    return absent and bool(seen.model) and re.search(named, seen.message) is not None


def _is_credential(seen: _Signals) -> bool:
    return (
        seen.status in {401, 403}
        or bool(seen.codes & _CREDENTIAL_CODES)
        or bool(_CREDENTIAL_PHRASE.search(seen.message))
    )


def _is_refusal(seen: _Signals) -> bool:
    return bool(seen.codes & _REFUSAL_CODES)


def _is_throttled(seen: _Signals) -> bool:
    return seen.status == 429 or bool(seen.codes & _THROTTLE_CODES)


def _is_caller(seen: _Signals) -> bool:
    if seen.status == 0:
        return bool(seen.codes & _CALLER_CODES)
    return 400 <= seen.status < 500 and seen.status != 408


_CLASSES: tuple[tuple[Callable[[_Signals], bool], type[ProviderError]], ...] = (
    (_is_money, MoneyGoneError),
    (_is_window, WindowSpentError),
    (_is_context, ContextTooLongError),
    (_is_model, ModelUnavailableError),
    (_is_credential, CredentialError),
    (_is_refusal, RefusalError),
    (_is_throttled, ThrottledError),
    (_is_caller, CallerError),
)


def _class_of(seen: _Signals) -> type[ProviderError]:
    return next((cls for fits, cls in _CLASSES if fits(seen)), TransientError)


class ErrorMapper:
    """Makes the errors of one attempt at ``model`` of ``provider``; ``key`` is what it must not leak."""

    def __init__(self, provider: str, model: str, *, key: str = "") -> None:
        self._provider = provider
        self._model = model
        self._key = key

    def from_response(
        self, status: int, headers: Mapping[str, str], body: bytes, *, now: float
    ) -> ProviderError:
        """The error that an HTTP answer other than 2xx means; ``now`` is UTC epoch seconds."""
        lowered = {name.lower(): value for name, value in headers.items()}
        report = _read(body)
        unified = lowered.get("anthropic-ratelimit-unified-status", "")
        cls = _class_of(self._signals(report, status, unified))
        waits = (
            _window_reset(lowered, now) if cls is WindowSpentError else None,
            retry_after(lowered, now),
            report.retry_delay,
        )
        text = report.message
        if 300 <= status < 400:
            text = "a redirect, which is not followed; set base_url to where the service really is"
        return self._error(
            cls,
            f"answered {status}",
            report._replace(message=text),
            status=status,
            retry_after=next((wait for wait in waits if wait is not None), None),
            body=body,
        )

    def from_event(self, data: bytes) -> ProviderError:
        """The error that an error event in a stream, or an error body with status 200, means."""
        report = _read(data)
        cls = _class_of(self._signals(report, report.status, ""))
        if cls is TransientError:
            cls = StreamBrokenError
        return self._error(
            cls, "failed in its answer", report, status=200, retry_after=report.retry_delay, body=data
        )

    def broken(self, what: str) -> StreamBrokenError:
        """The answer began and cannot be completed: ``what`` says why."""
        return StreamBrokenError(
            f"{self._label}: {one_line(what, self._key)}", provider=self._provider, model=self._model
        )

    def raised(self, cls: type[Raised], what: str) -> Raised:
        """An error of class ``cls`` without an answer behind it."""
        return cls(f"{self._label}: {one_line(what, self._key)}", provider=self._provider, model=self._model)

    @property
    def _label(self) -> str:
        return f"{self._provider}/{self._model}"

    def _signals(self, report: _Report, status: int, unified_status: str) -> _Signals:
        message = " ".join(report.message.lower().replace("\u2019", "'").split())
        return _Signals(status, report.codes, message, self._model, unified_status.lower())

    def _error(
        self,
        cls: type[ProviderError],
        what: str,
        report: _Report,
        *,
        status: int,
        retry_after: float | None,
        body: bytes,
    ) -> ProviderError:
        code = one_line(report.code, self._key)[:_MAX_CODE_CHARS]
        text = one_line(report.message, self._key)
        message = f"{self._label} {what}" + (f" ({code})" if code else "") + (f": {text}" if text else "")
        return cls(
            message,
            status=status,
            code=code or None,
            retry_after=retry_after,
            body=without_key(body, self._key)[:MAX_ERROR_BODY_BYTES],
            provider=self._provider,
            model=self._model,
        )


class _Report(NamedTuple):
    """An error body read: the provider's ``code``, all typed ``codes`` in lower case, its message."""

    code: str = ""
    codes: frozenset[str] = frozenset()
    message: str = ""
    status: int = 0
    retry_delay: float | None = None


def _read(body: bytes) -> _Report:
    """Read the error bodies of OpenAI, Anthropic and Gemini, a bare string, HTML or plain text."""
    try:
        decoded = msgspec.json.decode(body[:MAX_ERROR_BODY_BYTES])
    except MALFORMED:
        return _Report(message=_plain_text(body[:MAX_ERROR_BODY_BYTES].decode("utf-8", "replace")))
    if isinstance(decoded, list) and decoded:  # Gemini's OpenAI endpoint wraps its error in a list
        decoded = decoded[0]
    if not isinstance(decoded, dict):
        return _Report(message=str(decoded))
    error = decoded.get("error") or decoded
    if not isinstance(error, dict):
        return _Report(message=str(error))
    details = [d for d in _as_list(error.get("details")) if isinstance(d, dict)]
    words = [w for part in (error, *details) for w in _typed_codes(part)]
    number = error.get("code")
    message = str(error.get("message") or error.get("detail") or "")
    return _Report(
        code=words[0] if words else "",
        codes=frozenset(word.lower() for word in words),
        message=message,
        status=number if isinstance(number, int) and 400 <= number < 600 else 0,
        retry_delay=next(filter(None, map(_retry_delay, details)), None) or _delay_in(message),
    )


def _typed_codes(part: dict[str, Any]) -> Iterator[str]:
    for name in ("code", "type", "status", "reason"):
        value = part.get(name)
        if isinstance(value, str) and value and value != "error":
            yield value


def _as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _plain_text(text: str) -> str:
    """The title of an HTML page, which is what a proxy says on behalf of a service, or the text."""
    if "<html" not in text[:2000].lower():
        return text
    title = re.search(r"<title[^>]*>([^<]{0,200})", text[:10_000], re.IGNORECASE)
    return f"an HTML page titled {title.group(1).strip()!r}" if title else "an HTML page"


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait by ``retry-after-ms`` or ``retry-after`` (seconds or an HTTP date), or ``None``.

    ``headers`` have lower-case names; ``now`` is UTC epoch seconds. At most ``MAX_RETRY_AFTER_S``.
    A date without a zone is UTC (RFC 9110, 5.6.7).
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return _clamp(milliseconds / 1000)
    value = headers.get("retry-after", "").strip()
    seconds = _number(value)
    if seconds is not None:
        return _clamp(seconds)
    try:
        date = parsedate_to_datetime(value)
        return _clamp((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _window_reset(headers: Mapping[str, str], now: float) -> float | None:
    reset = _number(headers.get("anthropic-ratelimit-unified-reset", ""))
    return None if reset is None else _clamp(reset - now)


def _retry_delay(detail: dict[str, Any]) -> float | None:
    """Google's ``RetryInfo.retryDelay``, a text such as "37s"."""
    value = detail.get("retryDelay")
    seconds = _number(value.removesuffix("s")) if isinstance(value, str) else None
    return None if seconds is None else _clamp(seconds)


def _delay_in(message: str) -> float | None:
    """The wait that OpenAI states in words where there is no header: "Please try again in 6m0.5s."."""
    phrase = _DELAY_PHRASE.search(message[:20_000])
    if phrase is None:
        return None
    parts = _DELAY_PARTS.findall(phrase[1])
    return _clamp(sum(float(number) * _UNIT_SECONDS[unit.lower()] for number, unit in parts))


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if isfinite(value) else None


def _clamp(seconds: float) -> float:
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)

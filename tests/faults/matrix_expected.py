"""What every cell of the fault matrix must come to: a table by kind of fault, with a word for each protocol
where they differ.

``{code}`` in it is the protocol's own code of the error, ``{cut}`` what is recorded of an answer that was cut
off, and ``{event}`` what the protocol calls an event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from faults.matrix import MODES, SETTINGS, Cell, Outcome, cells

if TYPE_CHECKING:
    from collections.abc import Mapping

OK = "ok, stop; 12+7 tokens; $0.000047 exact"
FREE = "no tokens; $0.000000 exact"
UNKNOWN = "no tokens; unknown"

REFUSED = "it was refused (401 or 403)"
NO_MONEY = "its account has no money left"
NO_MODEL = "this credential does not have the model"
THROTTLED = "it is throttled"
NOBODY = "no candidate is left"
TOO_LATE = "every candidate is throttled beyond the call's deadline"

Situation = tuple[str, str]
Situations = dict[Situation, Outcome]

ALONE, SECOND = SETTINGS
RUN, STREAM, FIFTH = MODES


def no_candidate(attempts: str, reason: str, why: str = NOBODY) -> str:
    """The line of a call that nobody answered."""
    return f"no candidate could answer ({attempts}, {why}): {reason}"


def asked(first: int, second: int | None = None) -> str:
    """How many requests arrived where."""
    return f"first {first}" if second is None else f"first {first}, second {second}"


def in_both_modes(setting: str, outcome: Outcome) -> Situations:
    """The same whether the answer is streamed or not."""
    return {(setting, RUN): outcome, (setting, STREAM): outcome}


def repeated(
    reason: str, attempt: str, *, blamed: str = "first/some-model", arrives: bool = True
) -> Situations:
    """Tried twice, then the second; every failure counts for the breaker of what is blamed.

    Without a second the fifth failure opens its circuit, which is in the third call. The fourth call is the
    last resort's, and the fifth asks nobody. With one the first is the table's choice until then.
    """
    tried, after = f"first: {attempt}", f"second: {OK}"
    closed, opened = (f"circuit of {blamed}: 2 counted",), (f"circuit of {blamed}: open, 5 counted",)
    message = no_candidate("2 attempts", f"first/some-model{reason}")
    refused = no_candidate("0 attempts", f"circuit of {blamed} is open; try again in N s")
    twice, five, six = (2, 5, 6) if arrives else (0, 0, 0)
    return (
        in_both_modes(ALONE, Outcome("AllProvidersFailedError", message, asked(twice), closed, (tried,) * 2))
        | in_both_modes(
            SECOND, Outcome("answer of second", "", asked(twice, 1), closed, (tried, tried, after))
        )
        | {
            (ALONE, FIFTH): Outcome(
                "AllProvidersFailedError with retry_at", refused, asked(six), opened, (tried,) * 6
            ),
            (SECOND, FIFTH): Outcome(
                "answer of second",
                "",
                asked(five, 5),
                opened,
                (*(tried, tried, after) * 2, tried, *(after,) * 3),
            ),
        }
    )


def cut(reason: str, attempt: str) -> Situations:
    """As ``repeated``; but what has been streamed to the caller cannot be taken back."""
    streamed = Outcome(
        "part of the answer, then StreamBrokenError",
        f"first/some-model{reason}",
        asked(1),
        ("circuit of first/some-model: 1 counted",),
        (f"first: {attempt}",),
    )
    return repeated(reason, attempt) | {
        (ALONE, STREAM): streamed,
        (SECOND, STREAM): streamed._replace(asked=asked(1, 0)),
    }


def at_once(reason: str, attempt: str, closed: str, refusal: str, why: str = NOBODY) -> Situations:
    """Tried once, then the second; then left alone for a while, for the reason ``refusal``."""
    tried, after = f"first: {attempt}", f"second: {OK}"
    alone = Outcome(
        "AllProvidersFailedError with retry_at",
        no_candidate("1 attempt", f"first/some-model{reason}", why),
        asked(1),
        (closed,),
        (tried,),
    )
    second = Outcome("answer of second", "", asked(1, 1), (closed,), (tried, after))
    return (
        in_both_modes(ALONE, alone)
        | in_both_modes(SECOND, second)
        | {
            (ALONE, FIFTH): alone._replace(message=no_candidate("0 attempts", refusal, why)),
            (SECOND, FIFTH): second._replace(asked=asked(1, 5), recorded=(tried, *(after,) * 5)),
        }
    )


def credential_off(reason: str, attempt: str, why: str) -> Situations:
    """As ``at_once``: the credential is not used for five minutes."""
    closed = f"credential_off first#api_key: {why}, for 300 s"
    return at_once(reason, attempt, closed, f"the credential first#api_key is off: {why}")


def first_only(alone: Outcome) -> Situations:
    """Nobody else is ever asked."""
    fifth = alone._replace(asked=asked(5), recorded=alone.recorded * 5)
    return (
        in_both_modes(ALONE, alone)
        | in_both_modes(SECOND, alone._replace(asked=asked(1, 0)))
        | {(ALONE, FIFTH): fifth, (SECOND, FIFTH): fifth._replace(asked=asked(5, 0))}
    )


def given_back(reason: str, attempt: str) -> Situations:
    """Nobody is blamed."""
    return first_only(
        Outcome("CallerError", f"first/some-model{reason}", asked(1), (), (f"first: {attempt}",))
    )


def answered(attempt: str = OK, how: str = "") -> Situations:
    """No fault at all, seen from outside."""
    return first_only(Outcome(f"answer of first{how}", "", asked(1), (), (f"first: {attempt}",)))


def throttled_for_a_moment(attempt: str, closed: str) -> Situations:
    """Waited for without a second, else not."""
    tried = f"first: {attempt}"
    waited = Outcome("answer of first", "", asked(2), (closed,), (tried, f"first: {OK}"))
    moved = Outcome("answer of second", "", asked(1, 1), (closed,), (tried, f"second: {OK}"))
    return in_both_modes(ALONE, waited) | in_both_modes(SECOND, moved)


EXPECTED: dict[str, Situations] = {
    "dns": repeated(": cannot reach HOST", f"connection; {FREE}", blamed="first", arrives=False),
    "refused": repeated(
        ": cannot reach 127.0.0.1:PORT: Connection refused",
        f"connection; {FREE}",
        blamed="first",
        arrives=False,
    ),
    "connect-timeout": repeated(
        ": no connection within N s", f"connection; {FREE}", blamed="first", arrives=False
    ),
    "tls": repeated(
        ": cannot reach 127.0.0.1:PORT: [SSL: ...]",
        f"connection; {FREE}",
        blamed="first",
        arrives=False,
    ),
    "reset": repeated(
        ": the connection failed: Connection reset by peer",
        f"connection; {UNKNOWN}",
        blamed="first",
    ),
    "headers-stall": repeated(
        "#api_key timed out after N s waiting for its first content", f"transient (timeout); {UNKNOWN}"
    ),
    "400": given_back(
        " answered 400 (invalid_request_error): messages: this is not valid",
        f"caller (invalid_request_error); {FREE}",
    ),
    "401": credential_off(" answered 401 ({code}): invalid key", f"credential ({{code}}); {FREE}", REFUSED),
    "402": credential_off(
        " answered 402 (billing_error): no credits are left", f"money (billing_error); {FREE}", NO_MONEY
    ),
    "403": credential_off(
        " answered 403 (permission_error): this key may not do that",
        f"credential (permission_error); {FREE}",
        REFUSED,
    ),
    "404": at_once(
        " answered 404 ({code}): model: some-model",
        f"model ({{code}}); {FREE}",
        f"model_off first/some-model#api_key: {NO_MODEL}, for 600 s",
        f"first/some-model: {NO_MODEL}",
    ),
    "408": repeated(
        " answered 408 (timeout_error): the request took too long", f"transient (timeout_error); {FREE}"
    ),
    "429-short": throttled_for_a_moment(
        f"throttled (rate_limit_error); {FREE}", f"cooldown first/some-model#api_key: {THROTTLED}, for 1 s"
    ),
    "429-long": at_once(
        " answered 429 (rate_limit_error): slow down",
        f"throttled (rate_limit_error); {FREE}",
        f"cooldown first/some-model#api_key: {THROTTLED}, for 3600 s",
        f"first/some-model: {THROTTLED}",
        TOO_LATE,
    ),
    "500": repeated(" answered 500 (api_error): internal error", f"transient (api_error); {FREE}"),
    "503": repeated(" answered 503 ({code}): overloaded", f"transient ({{code}}); {FREE}"),
    "529": repeated(" answered 529 (overloaded_error): overloaded", f"transient (overloaded_error); {FREE}"),
    "html-502": repeated(" answered 502: an HTML page titled '502 Bad Gateway'", f"transient (502); {FREE}"),
    "first-event-error": repeated(
        " failed in its answer ({code}): Overloaded", f"mid_stream ({{code}}); {UNKNOWN}"
    ),
    "late-error": cut(
        " failed in its answer ({code}): Overloaded", "mid_stream ({code}), truncated; {cut} estimated"
    ),
    "stall": cut(
        "#api_key timed out after N s waiting for the next event",
        "mid_stream (timeout), truncated; {cut} estimated",
    ),
    "drip": answered(),
    "truncate": cut(": the answer ended before its terminal event", "mid_stream, truncated; {cut} estimated"),
    "malformed": cut(
        ": an event is not a {event}: Input data was truncated", "mid_stream, truncated; {cut} estimated"
    ),
    "split-utf8": answered(),
    "empty-200": repeated(": the answer ended before its terminal event", f"mid_stream; {UNKNOWN}"),
    "usage-missing": answered("ok, stop; 3+7 tokens; $0.000038 estimated"),
    "broken-tool-call": answered(
        "ok, tool_calls; 12+7 tokens; $0.000047 exact", ", the tool call as it came"
    ),
}


class Words(NamedTuple):
    """Where the protocols differ."""

    cut: str
    event: str
    codes: Mapping[str, str]


_OPENAI_CODES = {
    "401": "invalid_api_key",
    "404": "model_not_found",
    "503": "server_is_overloaded",
    "first-event-error": "server_is_overloaded",
    "late-error": "server_is_overloaded",
}
_MESSAGES_CODES = {
    "401": "authentication_error",
    "404": "not_found_error",
    "503": "server_error",
    "first-event-error": "overloaded_error",
    "late-error": "overloaded_error",
}
WORDS = {
    "chat": Words("3+4 tokens; $0.000023", "Chat Completions chunk", _OPENAI_CODES),
    "responses": Words("3+4 tokens; $0.000023", "Responses event", _OPENAI_CODES),
    # Its first event tells the input tokens already.
    "messages": Words("12+4 tokens; $0.000032", "Messages event", _MESSAGES_CODES),
}


def expected(cell: Cell) -> Outcome:
    """What a cell must come to."""
    outcome = EXPECTED[cell.kind][cell.setting, cell.mode]
    words = WORDS[cell.protocol]

    def said(line: str) -> str:
        return line.format(code=words.codes.get(cell.kind, ""), cut=words.cut, event=words.event)

    return outcome._replace(message=said(outcome.message), recorded=tuple(map(said, outcome.recorded)))


def everything() -> dict[Cell, Outcome]:
    """The whole matrix as it must be."""
    return {cell: expected(cell) for cell in cells()}

"""The page "What happens when ...", in plain sentences, from the outcomes of the fault matrix."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from faults.matrix import PROTOCOLS, SETTINGS, Cell, Outcome
from support.faults import kinds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from support.upstream import Protocol

    Outcomes = Mapping[Cell, Outcome]

PROTOCOL_NAMES: dict[Protocol, str] = {
    "chat": "Chat Completions",
    "responses": "Responses",
    "messages": "Messages",
}

TITLES = {
    "dns": "the host's name is not known",
    "refused": "the connection is refused",
    "connect-timeout": "the connection is not accepted in time",
    "tls": "TLS fails",
    "reset": "the connection is reset before the answer",
    "headers-stall": "nothing comes in time",
    "400": "400, the request is at fault",
    "401": "401, the key is not valid",
    "402": "402, the account has no money left",
    "403": "403, the key may not do that",
    "404": "404, the model does not exist",
    "408": "408, the request took too long",
    "429-short": "429 once, to be tried again in 1 s",
    "429-long": "429, to be tried again in an hour",
    "500": "500",
    "503": "503",
    "529": "529, overloaded",
    "html-502": "502 with an HTML page, from a proxy",
    "first-event-error": "the stream begins with an error",
    "late-error": "an error comes after some text",
    "stall": "the stream falls silent after some text",
    "drip": "the answer comes byte by byte",
    "truncate": "the stream ends after some text, with no word that it is complete",
    "malformed": "an event is not JSON",
    "split-utf8": "a character is split between two packets",
    "empty-200": "200 with nothing in it",
    "usage-missing": "the answer does not say what it used",
    "broken-tool-call": "the arguments of a tool call are not JSON",
}

GROUPS = {
    "connect": ("The provider cannot be reached", "Nothing of an answer has come."),
    "status": ("The provider answers with an error", "The status, and its own code if it gives one, decide."),
    "stream": (
        "The answer breaks",
        """\
`run` and `ask` hand out whole answers only. What `stream` has handed out cannot be taken back: from the first
content on a failure is an error, and nothing is sent twice.""",
    ),
    "content": ("The answer is odd", "It came as a success; whether it is one shows in what is in it."),
}

INTRODUCTION = """\
# What happens when ...

`make docs` writes this page from the fault matrix (`make faults`). Each row was played with a real runtime,
ledger and sockets: a provider that fails in this way, and goes on failing unless the row says otherwise, once
as the only one and once with a second one that is well and has a model of the same tier. The limits are the
defaults, except for time-outs. `N s` stands for a time, `first` for the provider that fails.

- A candidate is tried once more after a failure that may pass, after a random pause (`retries` in `[call]`).
- Five failures in a row open a circuit (`[breaker]`).
- `retry_at` of an error is the soonest time worth trying again.
- `response.provider` says who answered, and `response.attempts` what failed before.
"""

GOING_ON = """\
## When it goes on

The fifth of five calls with `run`, one after the other. A circuit that is open lets one call through before
its time if there is nobody else to ask, and others not.
"""

USED_UP = """\
## A plan is used up

Played by the tests of overflow, not by the matrix: a Claude plan that should pay for the call says that a
quota window is used up, to this call or to one before, and an API key is enrolled beside it. `overflow` of
`[auth]` decides; what is recorded of the plan's attempt is `window_spent`, its cost 0. Where nobody is
logged in, or the login is refused, it is the same with `credential`, but nothing is waited for.

| `overflow` | you see | what attune does |
| --- | --- | --- |
| `fail` | `AllProvidersFailedError` with `retry_at`, the reset | bills nobody |
| `wait` | the answer of the plan, if the call's deadline is after its reset, else that error | waits |
| `api` | the answer of the key; after the reset that of the plan | holds it to `overflow_usd_per_day` |
| `api`, and nothing is left of that | `BudgetExhaustedError` | bills nobody |

- The plan is not asked again before its reset, by any process; from then on it is.
- What costs nothing, such as a local model, answers whatever the setting.
- Once the plan reports that credits are billed beside it, it is used up. The one answer that says so has the
  cost `unknown`.
- A cap that leaves no room for a model does not hand the call to a weaker one that costs money.
- Where the strategy has keys pay, the plan only stands in for them, and nothing overflows.

The error says:

```text
the credential claude#subscription is off: its quota window is used up until DATE (in 2 h) (five_hour); ...
...; [auth] overflow is "fail": `attune auth setup --overflow api` bills your API key instead, up to ...
...; beyond the call's deadline (`[call] deadline_seconds`, `deadline_s=`); ...
the credential claude#subscription is off: it was refused (401 or 403); `claude auth login` ...
the overflow cap of $10 a day leaves no room for up to $0.0201 more; ...; the credential ... until DATE
```
"""

PATIENCE = {"300 s": "5 minutes", "600 s": "10 minutes", "3600 s": "an hour"}


def page(outcomes: Outcomes) -> str:
    """The whole page. Where protocols differ, a sentence says of which one it is true."""
    groups = (_group(group, outcomes) for group in GROUPS)
    return "\n".join([INTRODUCTION, *groups, _going_on(outcomes), USED_UP])


def _group(group: str, outcomes: Outcomes) -> str:
    title, about = GROUPS[group]
    head = ("when", "alone, you see", "with a second, you see", "what attune does", "what is recorded")
    rows = [_row(kind, outcomes) for kind in kinds([group])]
    table = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    lines = dict.fromkeys(line for kind in kinds([group]) for line in _error_lines(kind, outcomes))
    said = ["", "The error says:", "", "```text", *lines, "```"] if lines else []
    return "\n".join([f"## {title}", "", about, "", *table, *said, ""])


def _going_on(outcomes: Outcomes) -> str:
    """What has come of it by the fifth call; kinds of which the same is true together."""
    together: dict[tuple[str, ...], list[str]] = {}
    for kind in kinds():
        played = [Cell(kind, PROTOCOLS[0], setting, "fifth run") for setting in SETTINGS]
        if played[0] in outcomes:
            together.setdefault(tuple(_fifth(outcomes[cell]) for cell in played), []).append(TITLES[kind])
    rows = [["when", "alone, you see", "with a second, you see"], ["---"] * 3]
    rows += (["; ".join(titles), *sentences] for sentences, titles in together.items())
    return "\n".join([GOING_ON, *(f"| {' | '.join(row)} |" for row in rows), ""])


def _fifth(outcome: Outcome) -> str:
    """What the fifth call saw, and how often the first was tried in all five."""
    tried = sum(line.startswith("first") for line in outcome.recorded)
    _, _, why = outcome.message.partition("): ")
    cause = f": {why}" if outcome.saw.startswith("AllProviders") else ""
    return f"{_saw(outcome)}{cause}; tried {tried} {'time' if tried == 1 else 'times'} in five calls"


def _row(kind: str, outcomes: Outcomes) -> list[str]:
    def of(sentence: Callable[[Protocol], str]) -> str:
        return _by_protocol({protocol: sentence(protocol) for protocol in PROTOCOLS})

    def cell(protocol: Protocol, setting: str, mode: str) -> Outcome:
        return outcomes[Cell(kind, protocol, setting, mode)]

    def seen(setting: str) -> str:
        return of(lambda p: _either(*(_saw(cell(p, setting, mode)) for mode in ("run", "stream"))))

    alone, second = "alone", "with a second"
    return [
        TITLES[kind],
        seen(alone),
        seen(second),
        of(lambda p: _does(cell(p, alone, "run"), cell(p, second, "run"), cell(p, second, "stream"))),
        of(lambda p: _records(cell(p, alone, "run"))),
    ]


def _by_protocol(sentences: Mapping[Protocol, str]) -> str:
    if len(set(sentences.values())) == 1:
        return next(iter(sentences.values()))
    return "; ".join(f"{PROTOCOL_NAMES[protocol]}: {text}" for protocol, text in sentences.items())


def _either(whole: str, streamed: str) -> str:
    return whole if whole == streamed else f"{whole}; with `stream`: {streamed}"


def _saw(outcome: Outcome) -> str:
    if outcome.saw.startswith("answer of "):
        _, _, how = outcome.saw.partition(", ")
        whose = " of the second" if outcome.saw.startswith("answer of second") else ""
        return f"the answer{whose}" + (f", {how}" if how else "")
    return re.sub(r"(\w+Error)", r"`\1`", outcome.saw).replace("retry_at", "`retry_at`")


def _does(alone: Outcome, second: Outcome, streamed: Outcome) -> str:
    """How often it asks whom, and what it leaves alone."""
    if alone.saw.startswith("answer of first") and len(alone.recorded) == 1:
        return "takes it as it is"
    if second.recorded[-1].startswith("first"):
        return "gives it back at once, asks nobody else and blames nobody"
    before = sum(line.startswith("first") for line in second.recorded)
    asks = "tries twice, then the second" if before == 2 else "goes to the second at once"
    if alone.saw.startswith("answer"):
        asks += ", or without one waits as long as it was asked to"
    if len(streamed.recorded) < len(second.recorded):
        asks += ", but nobody once content was streamed"
    return "; ".join([asks, *map(_leaves, second.closed)])


def _leaves(closed: str) -> str:
    """What one line of ``Outcome.closed`` means."""
    if found := re.fullmatch(r"circuit of ([^:]+): \d+ counted", closed):
        whose = "this model" if "/" in found[1] else "the provider"
        return f"each failure counts for the circuit of {whose}"
    kind, _, seconds = closed.partition(" ")[0], *closed.rpartition(", for ")[1:]
    what = {
        "credential_off": "the credential is off for",
        "model_off": "the model is off, for this credential, for",
        "cooldown": "the model rests, for this credential, for",
    }[kind]
    return f"{what} {PATIENCE.get(seconds, seconds)}"


def _records(outcome: Outcome) -> str:
    """The first attempt at the provider, as the ledger has it."""
    how, tokens, cost = outcome.recorded[0].removeprefix("first: ").split("; ")
    name, *truncated = re.sub(r" \((?!timeout\))\w+\)", "", how).split(", ")
    if name == "ok":
        return f"a success, its cost {_cost(tokens, cost)}"
    stop = [f"`{word}`" for word in truncated if word == "truncated"]
    name = re.sub(r"(\w+)", r"`\1`", name)
    return ", ".join([name, *stop, f"its cost {_cost(tokens, cost)}"])


def _cost(tokens: str, cost: str) -> str:
    if cost.endswith("exact"):
        return "0" if tokens == "no tokens" else "exact"
    return "estimated from what came" if cost.endswith("estimated") else "unknown"


def _error_lines(kind: str, outcomes: Outcomes) -> Iterable[str]:
    """The cause in the line of each protocol's error."""
    lines = [outcomes[Cell(kind, protocol, "alone", "run")].message for protocol in PROTOCOLS]
    return (re.sub(r"^no candidate could answer \([^)]*\): ", "", line) for line in lines if line)

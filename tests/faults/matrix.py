"""The fault matrix: what a caller sees, and what attune does and records, for every kind of fault.

A cell is a kind of fault, a protocol, a setting and a mode of calling. It is played with a real runtime of a
real configuration file, a real ledger and real sockets; nothing in it is simulated above the socket.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from attune.config import load
from attune.errors import AllProvidersFailedError, AttuneError
from attune.models.circuit_breaker import CircuitState
from attune.models.executor import TextDelta
from attune.models.request import LLMRequest, TextPart, Tool, ToolCallPart
from attune.runtime import build
from attune.stores.sqlite import SqliteStore
from support.faults import BROKEN_TOOL_CALL, FAULTS, TEXT, WELL, FaultServer, Site

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from attune.models.circuit_breaker import BreakerSnapshot
    from attune.models.executor import LLMResponse
    from attune.models.telemetry import LLMCallRecord
    from attune.runtime import Runtime
    from support.upstream import Protocol

PROTOCOLS: tuple[Protocol, ...] = ("chat", "responses", "messages")
SETTINGS = ("alone", "with a second")
MODES = ("run", "stream", "fifth run")

MODEL = "some-model"
KEY = "canary-value-of-a-key-not-a-secret"
TOOL = Tool("look", "looks", {"type": "object", "properties": {"city": {"type": "string"}}})

_TIME_LIMITS = {
    "connect-timeout": "connect_seconds = 0.7",
    "headers-stall": "first_content_seconds = 3.0",
    "stall": "idle_seconds = 3.0",
}
"""Small where the fault is to be waited for; elsewhere as users have them."""

AT_A_TIME = 24


class Cell(NamedTuple):
    """One play: the fault is always at the first provider; a second one, if any, is well.

    A ``fifth run`` comes after four others: the fault goes on. One protocol is enough for it.
    """

    kind: str
    protocol: Protocol
    setting: str
    mode: str


class Outcome(NamedTuple):
    """What came of a cell.

    ``saw`` is what the caller got, ``message`` the line of its error. ``asked`` counts the requests that
    arrived at each service. ``closed`` is what counts against whom afterwards: failures that a breaker has
    counted, cooldowns, credentials and models that are off. ``recorded`` is a line for each attempt in
    the ledger.
    """

    saw: str
    message: str
    asked: str
    closed: tuple[str, ...]
    recorded: tuple[str, ...]


def cells(kinds: Iterable[str] = tuple(FAULTS)) -> list[Cell]:
    """Every cell of some kinds."""
    return [
        Cell(kind, protocol, setting, mode)
        for kind in kinds
        for protocol in PROTOCOLS
        for setting in SETTINGS
        for mode in MODES
        if mode != "fifth run" or (protocol == PROTOCOLS[0] and kind != "429-short")  # which passes
    ]


def small(kind: str) -> list[Cell]:
    """A cell of each protocol, in a setting and mode that go round with the kind and the protocol, and for
    some kinds the fifth call.
    """
    turn = list(FAULTS).index(kind)
    combinations = [(setting, mode) for setting in SETTINGS for mode in MODES[:2]]
    once = [
        Cell(kind, protocol, *combinations[(turn + number) % len(combinations)])
        for number, protocol in enumerate(PROTOCOLS)
    ]
    fifth = kind in {"401", "404", "429-long", "500"}
    return once + [cell for cell in cells([kind]) if fifth and cell.mode == "fifth run"]


async def play_all(chosen: Iterable[Cell], folder: Path) -> dict[Cell, Outcome]:
    """The outcome of every cell; several are played at a time."""
    room = asyncio.Semaphore(AT_A_TIME)

    async def one(number: int, cell: Cell) -> Outcome:
        async with room:
            return await play(cell, server, folder / f"cell-{number}")

    async with FaultServer() as server, asyncio.TaskGroup() as group:
        played = {cell: group.create_task(one(number, cell)) for number, cell in enumerate(chosen)}
    return {cell: task.result() for cell, task in played.items()}


async def play(cell: Cell, server: FaultServer, home: Path) -> Outcome:
    """Play one cell with a home of its own, which must not exist yet."""
    sites = {"first": server.site(FAULTS[cell.kind])}
    if cell.setting == "with a second":
        sites["second"] = server.site(WELL)
    home.mkdir()
    (home / "config.toml").write_text(configuration(cell, sites))
    environ = {"ATTUNE_HOME": str(home), "FIRST_KEY": KEY, "SECOND_KEY": KEY}
    config = load(environ=environ)
    async with build(config, environ=environ) as ai:
        for _ in range(4 if cell.mode == "fifth run" else 0):
            await _call(ai, cell)
        saw, message = await _call(ai, cell)
        circuits = [_circuit(breaker) for breaker in ai.domains.snapshot() if breaker.consecutive_failures]
    ledger = config.paths.ledger_file
    records = reversed(SqliteStore.open_readonly(ledger).recent_attempts(100))
    return Outcome(
        saw,
        message,
        asked=", ".join(f"{name} {len(site.requests)}" for name, site in sites.items()),
        closed=(*circuits, *_facts(ledger)),
        recorded=tuple(_recorded(record) for record in records),
    )


def configuration(cell: Cell, sites: Mapping[str, Site]) -> str:
    """The configuration file of a cell."""
    names = list(sites)
    parts = [_provider(name, cell.protocol, site) for name, site in sites.items()]
    references = [f"{name}/{MODEL}" for name in names]
    parts.append(f"[tiers]\ncapable = {references}\n\n[routing]\nallow_providers = {names}\n")
    parts.append(f"[call]\n{_TIME_LIMITS.get(cell.kind, '')}\n")
    return "\n".join(parts)


def _provider(name: str, protocol: Protocol, site: Site) -> str:
    spoken = 'protocol = "responses"\n' if protocol == "responses" else ""
    return f"""\
[providers.{name}]
kind = "{"anthropic" if protocol == "messages" else "openai"}"
{spoken}base_url = "{site.base_url(protocol)}"
api_key = "env:{name.upper()}_KEY"

[[models]]
id = "{MODEL}"
provider = "{name}"
tier = "capable"
abilities = ["tools"]
context_window = 100000
input_price = 1.0
output_price = 5.0
"""


async def _call(ai: Runtime, cell: Cell) -> tuple[str, str]:
    """What the caller saw, and the line of its error."""
    request = LLMRequest.from_prompt("Say hello.", tools=(TOOL,) if cell.kind == "broken-tool-call" else ())
    text = ""
    try:
        if cell.mode != "stream":
            return _answer(await ai.run(request)), ""
        async with ai.stream(request) as events:
            async for event in events:
                if isinstance(event.parsed, TextDelta):
                    text += event.parsed.text
        if events.response is None:
            return "WRONG: an end without an answer", ""
        if text != events.response.text:
            return f"WRONG: streamed {text!r}", ""
        return _answer(events.response), ""
    except AttuneError as error:
        return _error(error, text), _line(error)


def _answer(response: LLMResponse) -> str:
    """Who answered, if it is the whole answer."""
    match response.content:
        case (TextPart(text),) if text == TEXT:
            return f"answer of {response.provider}"
        case (ToolCallPart(_, _, arguments),) if arguments == BROKEN_TOOL_CALL.tool_calls[0][2]:
            return f"answer of {response.provider}, the tool call as it came"
        case content:
            return f"WRONG: {content}"


def _error(error: AttuneError, text: str) -> str:
    name = type(error).__name__
    if text and not TEXT.startswith(text):
        return f"WRONG: {text!r}, then {name}"
    if isinstance(error, AllProvidersFailedError) and error.retry_at is not None:
        name += " with retry_at"
    return f"part of the answer, then {name}" if text else name


def _line(error: AttuneError) -> str:
    """The error's message without what differs from run to run, and from machine to machine."""
    line = re.sub(r"no-such-host-\S+", "HOST", str(error))  # so long that the rest does not fit in
    line = re.sub(r"(127\.0\.0\.1):\d+", r"\1:PORT", line)
    line = re.sub(r"\[SSL.*", "[SSL: ...]", line)  # in the words of the OpenSSL that is there
    line = re.sub(r"\[Errno \d+\] ", "", line)
    return re.sub(r"\b\d+(\.\d+)? s\b", "N s", line)


def _circuit(breaker: BreakerSnapshot) -> str:
    state = "" if breaker.state is CircuitState.CLOSED else f"{breaker.state.value}, "
    return f"circuit of {breaker.name}: {state}{breaker.consecutive_failures} counted"


def _facts(ledger: Path) -> list[str]:
    """What the ledger says to other processes, also what has passed since; circuits open for random times."""
    rows = "SELECT kind, key, until - at, detail FROM facts WHERE kind != 'breaker' ORDER BY kind, key, at"
    with closing(sqlite3.connect(ledger)) as connection:
        return [
            f"{kind} {key}: {detail}" + (f", for {seconds:.0f} s" if seconds > 0 else "")
            for kind, key, seconds, detail in connection.execute(rows)
        ]


def _recorded(record: LLMCallRecord) -> str:
    how = "ok" if record.success else record.error_class
    code = f" ({record.error_code})" if record.error_code else ""
    stop = f", {record.stop_reason}" if record.stop_reason else ""
    tokens = "no tokens"
    if record.usage is not None:
        tokens = f"{record.usage.input_tokens}+{record.usage.output_tokens} tokens"
    dollars = "" if record.cost_nanos is None else f"${record.cost_nanos / 1e9:.6f} "
    return f"{record.provider}: {how}{code}{stop}; {tokens}; {dollars}{record.cost_status.value}"

"""What other gateways are known to have got wrong: each kind of incident, and the test that would have
caught it at this one. This file has those of who may come in; a test without a file is here.

SQL injected through a key                     what_is_sent_as_a_key_becomes_no_sql
SQL injected through any other text            a_name_that_a_caller_chooses_becomes_no_sql
a key guessed bit by bit, from what is told    a_key_that_is_nearly_right_is_told_nothing_more
a default master key                           no_key_that_a_guesser_tries_first_is_let_in
admin, metrics, documentation without a key    nothing_but_health_and_readiness_is_open
a header that says: I am this machine          by_no_header_is_a_caller_taken_for_this_machine
no key left, and so the door is open           revoking_the_last_key_does_not_open_the_gateway
a revoked key that a cache still lets in       a_revoked_key_stops_within_a_second_...
a key in the URL                               a_key_in_the_url_opens_nothing
path traversal                                 a_path_leads_to_no_file
a request smuggled behind another              what_two_readers_may_split_differently_is_refused
pages of other origins, DNS rebinding          no_web_page_may_read_an_answer; http: without_keys_no_...
a database outage that answers 401             keys: keys_that_cannot_be_read_...; calls: a_ledger_that_is_...

in test_gateway_incidents_leads
a base URL that the caller chose gets the key  no_address_that_a_caller_names_is_asked
addresses in prompts fetched from inside       no_address_in_a_message_is_fetched_by_the_gateway
a gateway that serves as a proxy                the_gateway_is_no_proxy
a redirect that takes the key along            no_redirect_of_a_provider_is_followed_with_its_key
the caller's own key sent on to a provider     of_a_callers_credentials_nothing_reaches_a_provider

in test_gateway_incidents_calls
a cooldown shortened by a second 429           a_second_429_does_not_shorten_the_wait_of_the_first
9 s slept of a Retry-After of 107              a_wait_of_107_seconds_is_told_...
retries of several layers that multiply        retries_of_the_client_and_of_the_gateway_do_not_multiply
25 errors in a row, still in rotation          twenty_five_errors_in_a_row_do_not_stay_in_rotation
1 failure of 1 call is 100 %, and trips        one_failure_of_one_call_takes_nothing_out_of_rotation
waiting for a pool's place trips a breaker     hundreds_of_calls_at_once_wait_for_no_place_and_trip_nothing
a cancelled probe that closes, or sticks       a_probe_that_its_client_cancels_...
another model than the one that was named      a_model_that_was_named_is_not_replaced_by_another
mid-stream overloads logged as successes       overloads_in_the_middle_of_streams_are_counted_as_failures
cached tokens billed twice                     cached_tokens_are_told_and_billed_once_at_every_door
a stream without usage that costs nothing      a_stream_without_usage_is_not_free
a repeated attempt billed twice                a_repeated_attempt_is_billed_once
a budget passed by calls at once               a_budget_is_not_passed_by_many_calls_at_once
tokens for nothing by hanging up               a_client_that_hangs_up_has_not_had_its_tokens_for_nothing
a store that hangs, and every request with it  a_ledger_that_is_locked_is_no_bad_key_and_holds_up_no_answer
a token counter that stops everybody           a_prompt_of_a_megabyte_holds_up_nobody_else
idle connections closed under their clients    a_connection_that_waits_is_not_closed_before_its_client_would
balancing that loses the prompt cache          the_turns_of_a_session_stay_where_its_prompt_is_cached

in test_gateway_incidents_processes
limits multiplied by the number of replicas    a_budget_is_not_multiplied_by_the_number_of_gateways
spend lost at the end of a process             what_was_spent_just_before_the_end_is_in_the_books

elsewhere
keys in logs, URLs, argv; prompts in logs      incidents_canaries: no_key_and_no_text_is_where_...
a tenant answered with what is another's       tenants: every_tenant_is_answered_with_its_own
errors in a stream that nobody is told         failures: a_stream_that_breaks_after_content_...
results of before a trip that close a circuit  properties/test_breaker_exhaustively
windows shorter than the call they judge       faults/test_how_others_fail: failures_in_a_row_...
wall clocks that are set                       faults/test_how_others_fail: a_wall_clock_that_is_set_...
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from typing import TYPE_CHECKING

import pytest

from attune.gateway import server
from support.gateway import gateway
from support.stalls import anew_after_a_stall

if TYPE_CHECKING:
    from pathlib import Path

    from support.gateway import Gate

HI = [{"role": "user", "content": "hi"}]
ASKED = {
    "/v1/chat/completions": {"model": "beta", "messages": HI},
    "/v1/messages": {"model": "alpha", "max_tokens": 5, "messages": HI},
    "/v1/responses": {"model": "gamma", "input": "hi"},
}
"""A request at each door, for the provider that speaks its protocol."""

CHAT = json.dumps(ASKED["/v1/chat/completions"]).encode()
OPEN = ("/health", "/ready")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def statuses(raw: bytes) -> list[int]:
    """The status of each answer in what came over a connection."""
    return [int(part[:3]) for part in raw.split(b"HTTP/1.1 ")[1:]]


async def send(gate: Gate, method: str, target: str, *headers: str, body: bytes = b"") -> tuple[int, bytes]:
    """A request line exactly as written: clients would tidy it up."""
    lines = [f"{method} {target} HTTP/1.1", f"content-length: {len(body)}", "connection: close", *headers]
    if not any(line.lower().startswith("host:") for line in headers):
        lines.insert(1, "host: localhost")
    raw = await gate.raw("\r\n".join([*lines, "", ""]).encode() + body)
    return (statuses(raw) or [0])[0], raw


# -- keys --------------------------------------------------------------------------------------------

SQL = (
    "' OR '1'='1",
    "' OR 1=1 --",
    '" OR ""="',
    "'; DROP TABLE gateway_keys; --",
    "'; UPDATE gateway_keys SET revoked = NULL; --",
    "x' UNION SELECT * FROM gateway_keys --",
    "' || randomblob(1000000000) || '",
    "%' AND name LIKE '%",
    "\\'; VACUUM; --",
)


def contents(home: Path) -> list[str]:
    """The ledger's tables and its keys, as another process reads them."""
    (path,) = home.rglob("*.db")
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as reader:
        tables = reader.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall()
        keys = reader.execute("SELECT * FROM gateway_keys ORDER BY 1").fetchall()
    reader.close()
    return [str(row) for row in (*tables, *keys)]


async def test_what_is_sent_as_a_key_becomes_no_sql(tmp_path: Path) -> None:
    """Every such key is told, in the same bytes, what any wrong one is told: nothing can be asked by it."""
    async with gateway(tmp_path, keys={"mine": {}}) as gate:
        before = contents(tmp_path)
        shaped = [("attune-" + each)[:50].rstrip().ljust(50, "x") for each in SQL]
        wrong = [await gate.chat(headers=bearer(each)) for each in ("sk-wrong", "attune-" + "x" * 43)]
        for texts, as_any in ((SQL, wrong[0]), (shaped, wrong[1])):
            for text in texts:
                for headers in (bearer(text), {"x-api-key": text}):
                    answer = await gate.chat(headers=headers)
                    assert (answer.status, answer.body) == (401, as_any.body), text
        assert contents(tmp_path) == before
        assert (await gate.chat(headers=bearer(gate.secrets["mine"]))).status == 200


@pytest.mark.parametrize("text", SQL)
async def test_a_name_that_a_caller_chooses_becomes_no_sql(tmp_path: Path, text: str) -> None:
    async with gateway(tmp_path, keys={"mine": {}, "other": {}}) as gate:
        before = contents(tmp_path)
        mine = bearer(gate.secrets["mine"])
        assert (await gate.chat(headers=bearer(gate.secrets["other"]))).status == 200
        named = {f"x-attune-{each}": text for each in ("workflow", "stage", "session")}
        call_id = (await gate.chat(headers={**mine, **named})).headers["x-attune-call-id"]
        record = (await gate.attempts(call_id))[0]
        assert (record.workflow, record.stage, record.session_id) == (text, text, text)
        assert (await gate.get(f"/v1/attune/decisions/{call_id}{text}", mine)).status == 404
        outcome = {"call_id": text, "success": True}
        assert (await gate.post("/v1/attune/outcomes", outcome, mine)).status == 404
        assert (await gate.chat(text, mine)).status == 404
        assert contents(tmp_path) == before


async def test_a_key_that_is_nearly_right_is_told_nothing_more(tmp_path: Path) -> None:
    async with gateway(tmp_path, keys={"mine": {}}) as gate:
        key = gate.secrets["mine"]
        told = {(await gate.chat(headers=bearer("attune-" + "x" * 43))).body}
        for place in range(len("attune-"), len(key)):
            other = "A" if key[place] != "A" else "B"
            answer = await gate.chat(headers=bearer(key[:place] + other + key[place + 1 :]))
            assert answer.status == 401
            told.add(answer.body)
        for near in (key.swapcase(), key[::-1][:43].rjust(50, "x")):
            assert (await gate.chat(headers=bearer(near))).status == 401
        assert len(told) == 1


async def test_no_key_that_a_guesser_tries_first_is_let_in(tmp_path: Path) -> None:
    guesses = ("sk-1234", "sk-attune", "attune", "attune-", "admin", "master", "test", "any", "null", "", " ")
    async with gateway(tmp_path, keys={"mine": {}}) as gate:
        record = next(iter(gate.runtime.store.all_keys()))
        kept = (record.id, record.name, record.digest.hex(), "attune-" + record.digest.hex()[:43])
        for guess in (*guesses, *kept, *gate.environ.values()):
            for headers in (bearer(guess), {"x-api-key": guess}, {"authorization": guess}):
                assert (await gate.get("/v1/models", headers)).status == 401, guess
        assert gate.asked == []


@anew_after_a_stall
async def test_a_revoked_key_stops_within_a_second_also_on_a_connection_that_stays_open(
    tmp_path: Path,
) -> None:
    async with gateway(tmp_path, keys={"taken": {}, "mine": {}}) as gate:
        taken = next(each for each in gate.runtime.store.all_keys() if each.name == "taken")
        headers = bearer(gate.secrets["taken"])
        assert (await gate.chat(headers=headers)).status == 200
        gate.runtime.store.revoke_key(taken.id, 3.0)
        revoked = time.monotonic()
        async with asyncio.timeout(60):
            while (await gate.chat(headers=headers)).status == 200:
                served = time.monotonic()
                assert served - revoked < 1
        assert (await gate.chat(headers=bearer(gate.secrets["mine"]))).status == 200


async def test_revoking_the_last_key_does_not_open_the_gateway(tmp_path: Path) -> None:
    async with gateway(tmp_path, keys={"last": {}}) as gate:
        (last,) = gate.runtime.store.all_keys()
        gate.runtime.store.revoke_key(last.id, 3.0)
        async with asyncio.timeout(60):
            while (await gate.get("/v1/models", bearer(gate.secrets["last"]))).status == 200:
                await asyncio.sleep(0.05)
        assert (await gate.chat()).status == 401
        assert gate.asked == []


async def test_a_key_in_the_url_opens_nothing(tmp_path: Path) -> None:
    async with gateway(tmp_path, keys={"mine": {}}) as gate:
        key = gate.secrets["mine"]
        for query in (f"?key={key}", f"?api_key={key}", f"?api-key={key}&access_token={key}"):
            answer = await gate.post("/v1/chat/completions" + query, ASKED["/v1/chat/completions"])
            assert answer.status == 401
            assert key not in answer.body.decode()
        with_both = await gate.post(f"/v1/messages?beta=true&key={key}", ASKED["/v1/messages"], bearer(key))
        assert with_both.status == 200
        assert gate.first.received[0].path == "/v1/messages"


# -- paths -------------------------------------------------------------------------------------------

PATHS = (
    *ASKED,
    *("/v1/models", "/v1/models/auto", "/v1/attune/decisions/x", "/v1/attune/outcomes"),
    "/v1/messages/count_tokens",
    *("/", "/admin", "/ui", "/docs", "/swagger", "/debug", "/config", "/keys", "/key/generate"),
    *("/v1/keys", "/v1/admin", "/.env", "/config.toml", "/v1", "/static/x", "/server-status"),
    *(
        "/health/../v1/models",
        "/ready/..%2fv1/models",
        "/health/x",
        "/health%00",
        "//v1/models",
        "/V1/models",
    ),
    *("/health;/v1/models", "/v1/models/", "/metrics/../v1/models", "*", "http://localhost/v1/models"),
)
"""What the gateway has, what others have, and ways to write them that are read in two ways."""


async def names_of_this_installation(gate: Gate, path: str) -> list[str]:
    text = (await gate.get(path)).body.decode()
    return [each for each in (*gate.environ.values(), "first/alpha", "watcher") if each in text]


async def test_nothing_but_health_and_readiness_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is on an address that other machines reach; on this machine alone metrics are open too."""
    monkeypatch.setattr(server, "is_loopback", lambda host: False)
    async with gateway(tmp_path, keys={"mine": {}, "watcher": {"routes": frozenset({"/metrics"})}}) as gate:
        for path in (*PATHS, "/metrics", "/metrics/", "/metrics?x=/health"):
            for method in METHODS:
                status, _ = await send(gate, method, path, body=CHAT)
                assert status in {400, 401}, (method, path, status)
        for path in OPEN:
            assert (await send(gate, "GET", path))[0] == 200
            assert (await send(gate, "POST", path, body=CHAT))[0] == 405
            assert not await names_of_this_installation(gate, path)
        assert not await names_of_this_installation(gate, "/openapi.json")  # the same everywhere
        assert (await gate.get("/metrics", bearer(gate.secrets["mine"]))).status == 403
        assert (await gate.get("/metrics", bearer(gate.secrets["watcher"]))).status == 200
        assert gate.asked == []


async def test_by_no_header_is_a_caller_taken_for_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "is_loopback", lambda host: False)
    names = (
        "x-forwarded-for",
        "x-real-ip",
        "forwarded",
        "x-original-url",
        "x-rewrite-url",
        "x-forwarded-host",
    )
    async with gateway(tmp_path, keys={"mine": {}}) as gate:
        for name in (*names, "x-http-method-override", "x-admin", "x-attune-key", "x-attune-account"):
            for value in ("127.0.0.1", "for=127.0.0.1", "/health", "true"):
                for path in ("/v1/models", "/metrics"):
                    assert (await send(gate, "GET", path, f"{name}: {value}"))[0] == 401, (name, value)


@pytest.mark.parametrize("root", ["/", "/v1/", "/v1/models/", "/v1/attune/decisions/", "/metrics/"])
async def test_a_path_leads_to_no_file(tmp_path: Path, root: str) -> None:
    marks = (b"root:", b"KEY_first", b"SQLite format", b"[providers.")
    async with gateway(tmp_path, keys={"mine": {}}) as gate:
        up = (
            "../",
            "..%2f",
            "%2e%2e/",
            "%252e%252e%252f",
            "..\\",
            "..%5c",
            "..%00/",
            "....//",
            "%c0%ae%c0%ae/",
        )
        for step in up:
            for file in ("etc/passwd", str(tmp_path / "config.toml")[1:], "data/ledger.db", "config.toml"):
                target = root + step * 6 + file
                status, raw = await send(gate, "GET", target, f"x-api-key: {gate.secrets['mine']}")
                assert status in {400, 403, 404}, (target, status)
                assert not [mark for mark in marks if mark in raw]


BODY_LENGTH = b"content-length: %d\r\n" % len(CHAT)
HIDDEN = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    "lines",
    [
        b"content-length: 0\r\ntransfer-encoding: chunked\r\n",
        b"content-length: 0\r\ncontent-length: %d\r\n" % len(HIDDEN),
        b"content-length: +%d\r\n" % len(HIDDEN),
        b"content-length: 0x10\r\n",
        b"content-length: %d, 0\r\n" % len(HIDDEN),
        b"content-length : 0\r\n",
        b"transfer-encoding : chunked\r\n",
        b"transfer-encoding: chunked, identity\r\n",
        b"transfer-encoding: xchunked\r\n",
        b"x: y\ntransfer-encoding: chunked\r\n",
        b"x: y\r\n transfer-encoding: chunked\r\n",
        b"x: y\rcontent-length: 0\r\n",
        b"x\x00y: z\r\n",
        b": no name\r\n",
    ],
)
async def test_what_two_readers_may_split_differently_is_refused(tmp_path: Path, lines: bytes) -> None:
    """A proxy in front that reads such a request in another way would take what follows for the next one's:
    it is refused, the connection ends, and what follows is not read.
    """
    async with gateway(tmp_path) as gate:
        raw = await gate.raw(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n%b\r\n%b" % (lines, HIDDEN)
        )
        assert statuses(raw) in ([400], []), raw  # none: it was hung up on
        assert (b"connection: close" in raw) is (raw != b"")
        assert gate.asked == []


async def test_no_web_page_may_read_an_answer(tmp_path: Path) -> None:
    """No answer says that a page of another origin may read it, with a key or without one."""
    async with gateway(tmp_path, keys={"mine": {}}) as gate:
        for origin in ("https://evil.example", "null", gate.url):
            for path in (*ASKED, "/v1/models", "/metrics", "/health"):
                for key in ({}, bearer(gate.secrets["mine"])):
                    headers = {"origin": origin, "access-control-request-method": "POST", **key}
                    for method in ("OPTIONS", "GET", "POST"):
                        async with gate.http.request(method, gate.url + path, headers=headers) as answer:
                            assert not [n for n in answer.headers if n.lower().startswith("access-control")]
                            assert answer.status != 204

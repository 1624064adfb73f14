"""The published OpenAPI document: what is served, what the code has, and what a stranger finds with it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from attune.gateway import app, naming
from support.gateway import Gate, gateway
from support.openapi import document, reachable, route
from support.scale import scaled
from support.upstream import Answer, Received

VECTOR = """
[[models]]
id = "vector"
provider = "second"
abilities = ["embeddings"]
context_window = 8192
input_price = 0.02
[gateway.aliases]
"attune/cheap" = "auto"
"attune/capable" = "auto"
"attune/premium" = "auto"
"alpha" = "auto"
"beta" = "auto"
"gamma" = "auto"
[breaker]
failure_threshold = 1000000
"""
CONFIGURATION = """
[checks.negative_data_rejection]
expected-statuses = ["400", "401", "403", "404", "405", "415", "431"]
"""


async def test_the_document_is_served_as_it_is_packaged_without_a_key(tmp_path: Path) -> None:
    async with gateway(tmp_path, keys={"one": {}}) as gate:
        answer = await gate.get("/openapi.json")
        assert (answer.status, answer.json) == (200, document())
        assert answer.headers["content-type"] == "application/json"


def test_the_document_has_every_route_of_the_code_and_no_other() -> None:
    paths = document()["paths"]
    posts = {*app.DOORS, *app._WRITES}
    assert {route(path) for path in paths} == {*posts, *app._READS, *app._OPEN}
    for path, operations in paths.items():
        assert set(operations) == {"post" if path in posts else "get"}


def test_the_document_has_every_header_that_is_read_and_no_other() -> None:
    whole = document()
    for path, door in app.DOORS.items():
        given = whole["paths"][path]["post"]["parameters"]
        names = [whole["components"]["parameters"][each["$ref"].rpartition("/")[2]]["name"] for each in given]
        assert sorted(names) == sorted((*naming._TEXTS, *naming._NUMBERS, *door.FORWARDED))


@pytest.mark.parametrize(
    "path",
    [
        "/metrics/x",
        "/v1/attune/decisions",
        "/v1/attune/decisions/",
        "/v1/attune/decisions/a/b",
        "/v1/modelsx",
    ],
)
async def test_a_path_that_is_in_no_document_is_404(path: str, tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        answer = await gate.get(path)
        assert answer.status == 404
        assert "unknown path" in answer.json["error"]["message"]


async def test_every_operation_of_the_document_is_there(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        for path, operations in document()["paths"].items():
            url = path.replace("{id}", "auto").replace("{call_id}", "x")
            answer = await (gate.post(url, b"{") if "post" in operations else gate.get(url))
            assert answer.status in ({400} if "post" in operations else {200, 404})
            assert b"unknown path" not in answer.body


def answer(seen: Received) -> Answer:
    body = json.dumps({"object": "list", "data": [{"embedding": [0.5]}], "usage": {"prompt_tokens": 1}})
    return Answer(body=body.encode()) if seen.path.endswith("embeddings") else Answer()


async def judged(gate: Gate, tmp_path: Path, *options: str) -> None:
    """What schemathesis finds at a gateway: nothing."""
    for upstream in gate.upstreams:
        upstream.default = answer
    key = {"authorization": f"Bearer {gate.secrets['one']}"} if gate.secrets else {}
    made = await gate.chat(headers=key)
    narrowed = tmp_path / "openapi.json"
    narrowed.write_text(json.dumps(reachable(document(), made.headers["x-attune-call-id"])))
    auth = f'[auth.openapi.bearer]\nbearer = "{gate.secrets["one"]}"\n' if key else ""
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION + auth)
    support = str(Path(__file__).parent.parent)
    untraced = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run", str(narrowed), "--url", gate.url),
        *("--generation-deterministic", "--warnings", "off", "--no-color"),
        *("--request-timeout", "60", "--suppress-health-check", "all"),
        *("--phases", "coverage,fuzzing", "-n", str(scaled(test=2, faults=100, soak=1000)), *options),
        cwd=tmp_path,
        env={**untraced, "PYTHONPATH": support, "SCHEMATHESIS_HOOKS": "support.whole_numbers"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()[-10_000:]
    for path in document()["paths"]:
        metrics = (await gate.get("/metrics", key)).body.decode()
        assert f'attune_requests_total{{outcome="complete",path="{route(path)}",status="200"}}' in metrics, (
            path
        )


async def test_schemathesis_finds_nothing_where_no_key_is_needed(tmp_path: Path) -> None:
    async with gateway(tmp_path, extra=VECTOR) as gate:
        await judged(gate, tmp_path, "--exclude-checks", "ignored_auth")


async def test_schemathesis_finds_nothing_where_keys_are_needed(tmp_path: Path) -> None:
    routes = ("/v1", "/metrics")
    async with gateway(tmp_path, extra=VECTOR, keys={"one": {"routes": routes}}) as gate:
        await judged(gate, tmp_path, "--mode", "positive", "--phases", "coverage")

"""What a client is told of its answer agrees with what happened: what was left out, and how it ended."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from support.gateway import gateway
from support.upstream import Answer, sse

if TYPE_CHECKING:
    from pathlib import Path

HI = [{"role": "user", "content": "hi"}]
REASONING_MODEL = """\
[[models]]
id = "gpt-6-nova"
provider = "second"
tier = "capable"
context_window = 100000
max_output_tokens = 4000
abilities = ["tools", "thinking"]
input_price = 1.0
output_price = 5.0
"""


async def test_a_parameter_that_the_model_rejects_is_named_though_its_provider_speaks_the_protocol(
    tmp_path: Path,
) -> None:
    async with gateway(tmp_path, extra=REASONING_MODEL) as gate:
        for stream in (False, True):
            answer = await gate.chat("gpt-6-nova", temperature=0.5, seed=7, stream=stream)
            assert answer.status == 200
            assert answer.headers["x-attune-dropped"] == "temperature"
        assert ["temperature" in each.body for each in gate.second.received] == [False, False]
        assert [each.body["seed"] for each in gate.second.received] == [7, 7]
        assert "x-attune-dropped" not in (await gate.chat("beta", temperature=0.5)).headers


async def test_a_whole_answer_that_the_ledger_calls_a_success_reaches_the_client(tmp_path: Path) -> None:
    """Also one that only its own protocol can say, and that its provider tells in an odd way."""

    def said(kind: str, **fields: Any) -> bytes:
        return sse({"type": kind, **fields}, kind)

    stream = [
        said("message_start", message={"id": "msg_1", "content": [], "usage": {"input_tokens": 3}}),
        said("content_block_delta", index=0, delta={"type": "text_delta", "text": "It rains."}),
        said("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 2}),
        said("message_stop"),
    ]
    tools = [{"type": "web_search_20250305", "name": "web_search"}]
    body = {"model": "alpha", "max_tokens": 9, "messages": HI, "tools": tools}
    async with gateway(tmp_path) as gate:
        gate.first.then(Answer(body=b"".join(stream), content_type="text/event-stream"))
        answer = await gate.post("/v1/messages", body)
        assert answer.status == 200
        assert json.loads(answer.body)["content"] == [{"type": "text", "text": "It rains."}]
        await gate.runtime.store.flush()
        assert [each.success for each in gate.runtime.store.recent_attempts(9)] == [True]

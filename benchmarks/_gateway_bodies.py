"""What is asked and answered in ``gateway.py``: a request of about 1 KB, an answer of about 1 KB, a stream
of 50 pieces of text. Standard library only.
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

EVENTS = 50
"""Events of a stream that hold text; its beginning, its end and its usage come beside them."""

ANSWER = " ".join(
    ["Rayleigh scattering: short waves of light are scattered far more than long ones by the air."] * 8
)
_SYSTEM = " ".join(["You answer in plain words, with the reason first and the detail after it."] * 7)
_QUESTION = " ".join(["Why is the sky blue by day, and why is it red when the sun is low?"] * 6)
_CHAT = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": "model-0"}
_USAGE = {"prompt_tokens": 230, "completion_tokens": 180, "total_tokens": 410}


def chat_request(model: str, *, stream: bool = False) -> str:
    """A request of OpenAI's Chat Completions."""
    messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _QUESTION}]
    fields: dict[str, Any] = {"model": model, "messages": messages, "temperature": 0.2, "max_tokens": 500}
    if stream:
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(fields)


def messages_request(model: str) -> str:
    """The same as a request of Anthropic's Messages."""
    messages = [{"role": "user", "content": _QUESTION}]
    fields = {"model": model, "system": _SYSTEM, "messages": messages, "temperature": 0.2, "max_tokens": 500}
    return json.dumps(fields)


def chat() -> str:
    """The answer of Chat Completions in one body."""
    message = {"role": "assistant", "content": ANSWER}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({**_CHAT, "object": "chat.completion", "choices": [choice], "usage": _USAGE})


def messages() -> str:
    """The answer of Messages in one body."""
    return json.dumps(
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "model-0",
            "content": [{"type": "text", "text": ANSWER}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 230, "output_tokens": 180},
        }
    )


def pieces() -> list[str]:
    """The answer in ``EVENTS`` pieces."""
    ends = [len(ANSWER) * place // EVENTS for place in range(EVENTS + 1)]
    return [ANSWER[begin:end] for begin, end in pairwise(ends)]


def streamed() -> str:
    """The answer of Chat Completions as a stream."""
    deltas = [{"role": "assistant", "content": ""}, *({"content": piece} for piece in pieces()), {}]
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": delta, "finish_reason": None if delta else "stop"}]}
        for delta in deltas
    ]
    chunks.append({"choices": [], "usage": _USAGE})
    head = {**_CHAT, "object": "chat.completion.chunk"}
    return "".join(f"data: {json.dumps(head | chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"

"""The Responses protocol of the provider on loopback: what ``support.upstream.Answer`` is in it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from support.upstream import Answer

RESPONSES_USAGE = {
    "input_tokens": 12,
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens": 7,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 19,
}
ENCRYPTED = "enc-1"
"""The encrypted content of the reasoning of every answer that thinks."""

Item = dict[str, Any]


def responses_body(answer: Answer, model: str) -> bytes:
    """A whole Responses answer."""
    return json.dumps(_response(answer, model), ensure_ascii=False).encode()


def responses_stream(answer: Answer, model: str = "m") -> list[bytes]:
    """A Responses stream, one block an event, in the service's own order."""
    pending = _response(answer, model) | {"status": "in_progress", "output": [], "incomplete_details": None}
    pending["usage"] = None
    events = [("response.created", {"response": pending}), ("response.in_progress", {"response": pending})]
    for index, item in enumerate(_output(answer)):
        events += ((name, {"output_index": index} | fields) for name, fields in _events_of(item))
    done = _response(answer, model)
    events.append((f"response.{done['status']}", {"response": done}))
    return [response_event(name, number, **fields) for number, (name, fields) in enumerate(events)]


def responses_failure(code: str, message: str, model: str = "m") -> list[bytes]:
    """A Responses stream that begins and then says that the answer failed."""
    begun = {"id": "resp_1", "object": "response", "created_at": 1_780_000_000, "model": model, "output": []}
    begun |= {"parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "error": None, "usage": None}
    failed = begun | {"status": "failed", "error": {"code": code, "message": message}}
    return [
        response_event("response.created", 0, response=begun | {"status": "in_progress"}),
        response_event("response.in_progress", 1, response=begun | {"status": "in_progress"}),
        response_event("response.failed", 2, response=failed),
    ]


def response_event(name: str, number: int, **fields: Any) -> bytes:
    """One event of a Responses stream."""
    data = {"type": name, "sequence_number": number, **fields}
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def _response(answer: Answer, model: str) -> dict[str, Any]:
    complete = answer.stop_reason in {None, "default"}
    usage: Mapping[str, Any] = RESPONSES_USAGE if answer.usage is None else answer.usage
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_780_000_000,
        "status": "completed" if complete else "incomplete",
        "error": None,
        "incomplete_details": None if complete else {"reason": answer.stop_reason},
        "model": model,
        "output": _output(answer),
        "parallel_tool_calls": True,
        "store": False,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage or None,
    }


def _output(answer: Answer) -> list[Item]:
    items: list[Item] = []
    if answer.thinking:
        summary = [{"type": "summary_text", "text": answer.thinking}]
        items.append({"id": "rs_1", "type": "reasoning", "summary": summary, "encrypted_content": ENCRYPTED})
    if answer.text:
        message = {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant"}
        items.append(message | {"content": [_text_part(answer.text)]})
    for number, (call_id, name, arguments) in enumerate(answer.tool_calls, start=1):
        call = {"id": f"fc_{number}", "type": "function_call", "status": "completed"}
        items.append(call | {"arguments": arguments, "call_id": call_id, "name": name})
    return items


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def _events_of(item: Item) -> Iterator[tuple[str, dict[str, Any]]]:
    events = {"reasoning": _reasoning_events, "message": _message_events, "function_call": _call_events}
    yield from events[item["type"]](item)
    yield "response.output_item.done", {"item": item}


def _reasoning_events(item: Item) -> Iterator[tuple[str, dict[str, Any]]]:
    begun = item | {"summary": [], "encrypted_content": f"{ENCRYPTED[:-1]}0"}  # not yet the final one
    yield "response.output_item.added", {"item": begun}
    for index, part in enumerate(item["summary"]):
        at = {"item_id": item["id"], "summary_index": index}
        yield "response.reasoning_summary_part.added", at | {"part": part | {"text": ""}}
        for delta in _halves(part["text"]):
            yield "response.reasoning_summary_text.delta", at | {"delta": delta, "obfuscation": "x9F"}
        yield "response.reasoning_summary_text.done", at | {"text": part["text"]}
        yield "response.reasoning_summary_part.done", at | {"part": part}


def _message_events(item: Item) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "response.output_item.added", {"item": item | {"status": "in_progress", "content": []}}
    for index, part in enumerate(item["content"]):
        at = {"item_id": item["id"], "content_index": index}
        yield "response.content_part.added", at | {"part": part | {"text": ""}}
        for delta in _halves(part["text"]):
            fields = {"delta": delta, "logprobs": [], "obfuscation": "aQ"}
            yield "response.output_text.delta", at | fields
        yield "response.output_text.done", at | {"text": part["text"], "logprobs": []}
        yield "response.content_part.done", at | {"part": part}


def _call_events(item: Item) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "response.output_item.added", {"item": item | {"status": "in_progress", "arguments": ""}}
    for delta in _halves(item["arguments"]):
        fields = {"item_id": item["id"], "delta": delta, "obfuscation": "k"}
        yield "response.function_call_arguments.delta", fields
    yield (
        "response.function_call_arguments.done",
        {"item_id": item["id"], "arguments": item["arguments"]},
    )


def _halves(text: str) -> tuple[str, ...]:
    return tuple(part for part in (text[: len(text) // 2], text[len(text) // 2 :]) if part)

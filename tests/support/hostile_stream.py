"""Strategies for the streams of providers that are nearly right, and a strict reader of what clients get."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any, NamedTuple

from hypothesis import strategies as st

from support.hostile_json import encoded, mutated
from support.upstream import Answer, chat_body, chat_stream, messages_body, messages_stream
from support.upstream_responses import responses_body, responses_stream

__all__ = ["BODIES", "PATHS", "Event", "events_of", "last_event", "streams"]

ANSWERS = (
    Answer(),
    Answer(text="", tool_calls=(("call_1", "look", '{"a": 1}'), ("call_2", "look", '{"b": 2}'))),
    Answer(text="é" * 30, thinking="let me see", tool_calls=(("", "look", ""),)),
    Answer(text="cut", stop_reason="length"),
    Answer(text="", stop_reason=None, usage={}),
)
MAKERS = {"chat": chat_stream, "messages": messages_stream, "responses": responses_stream}
BODIES = {"chat": chat_body, "messages": messages_body, "responses": responses_body}
PATHS = {"chat": "/v1/chat/completions", "messages": "/v1/messages", "responses": "/v1/responses"}
ODD_BLOCKS = (
    *(
        b": comment\n\n",
        b"\n\n",
        b"data:\n\n",
        b"data: \n\n",
        b"data\n\n",
        b"event: x\n\n",
        b"id: 7\nretry: 1\n\n",
    ),
    *(b"data: {}\n\n", b"data: []\n\n", b"data: null\n\n", b'data: "x"\n\n', b"data: 7\n\n", b"data: {\n\n"),
    *(b'data: {"type":"ping"}\n\n', b'event: ping\ndata: {"type": "ping"}\n\n', b"data: [DONE] \n\n"),
    *(b'event: novel\ndata: {"type": "novel", "index": 7}\n\n', b"{}\n\n", b'{"a":1}\ndata: {}\n\n'),
    *(b"data: \xff\xfe\n\n", b"\xef\xbb\xbfdata: {}\n\n", b"data: {}\x00\n\n", b"data: {\ndata: }\n\n"),
    b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"busy"}}\n\n',
    b'data: {"error":{"message":"busy","type":"server_error","code":null}}\n\n',
    b'data: {"type":"message_delta","delta":null,"usage":null}\n\n',
    b'data: {"type":"content_block_delta","index":9,"delta":{"type":"text_delta","text":"lost"}}\n\n',
    b'data: {"type":"content_block_stop","index":9}\n\n',
    b'data: {"type":"response.output_text.delta","output_index":9,"delta":"lost"}\n\n',
    b'data: {"type":"response.completed"}\n\n',
    b'data: {"choices":[{"index":3,"delta":{"content":"other"}}]}\n\n',
    b"data: " + b"x" * 100_000 + b"\n\n",
    b'data: {"a":' + b"[" * 5000 + b"]" * 5000 + b"}\n\n",
    b'data: {"a":' + b"9" * 5000 + b',"b":1e400,"c":"\\ud800"}\n\n',
)


FIELDS = {"event", "data", "id", "retry"}


class Event(NamedTuple):
    """One event as a client reads it; ``data`` is its JSON, or the text that is none."""

    name: str
    data: Any


@st.composite
def _block(draw: st.DrawFn, block: bytes) -> bytes:
    """``block`` with its JSON mutated."""
    head, _, data = block.partition(b"data: ")
    return head + b"data: " + encoded(draw(mutated(json.loads(data), 2))) + b"\n\n"


@st.composite
def streams(draw: st.DrawFn, protocol: str) -> tuple[bytes, ...]:
    """The pieces in which a stream of ``protocol`` arrives, nearly right."""
    made = MAKERS[protocol](draw(st.sampled_from(ANSWERS)), "m")
    blocks = list(made)
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, max(0, len(blocks) - 1)))
        match draw(st.sampled_from(("drop", "double", "swap", "odd", "odd", "foreign", "change", "change"))):
            case "drop":
                del blocks[place : place + 1]
            case "double":
                blocks[place:place] = blocks[place : place + 1]
            case "swap":
                blocks[place : place + 2] = reversed(blocks[place : place + 2])
            case "odd":
                blocks.insert(place, draw(st.sampled_from(ODD_BLOCKS)))
            case "foreign":
                other = MAKERS[draw(st.sampled_from(sorted(MAKERS)))](ANSWERS[1], "m")
                blocks.insert(place, draw(st.sampled_from(other)))
            case _:
                sound = {each for each in blocks[place : place + 1] if each in made} - {b"data: [DONE]\n\n"}
                blocks[place : place + 1] = [draw(_block(each)) for each in sound]
    content = b"".join(blocks)
    match draw(st.sampled_from(("none",) * 6 + ("cut", "returns", "mixed", "mark"))):
        case "cut":
            content = content[: draw(st.integers(0, len(content)))]
        case "returns":
            content = content.replace(b"\n", b"\r\n")
        case "mixed":
            content = content.replace(b"\n\n", b"\r\n\n", 3).replace(b"}\n", b"}\r", 2)
        case "mark":
            content = b"\xef\xbb\xbf" + content
    cuts = sorted(draw(st.lists(st.integers(0, len(content)), max_size=3)))
    return tuple(content[a:b] for a, b in pairwise([0, *cuts, len(content)]) if a < b) or (b"\n",)


def events_of(content: bytes) -> list[Event]:
    """The events of a stream that was made well: raises ``ValueError`` for any other."""
    text = content.decode()
    if not text.endswith("\n\n"):
        raise ValueError(f"the stream ends within an event: {text[-60:]!r}")
    events = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        lines = [line.partition(": ") for line in block.split("\n") if line and not line.startswith(":")]
        if {field for field, _, _ in lines} - FIELDS:
            raise ValueError(f"what is no field: {block[:80]!r}")
        data = "\n".join(value for field, _, value in lines if field == "data")
        name = "".join(value for field, _, value in lines if field == "event")
        if lines:
            events.append(Event(name, "[DONE]" if data.strip() == "[DONE]" else json.loads(data)))
    return events


def last_event(content: bytes) -> Event:
    """The last event of a stream, whatever is before it and however its lines end."""
    unified = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").rstrip(b"\n")
    return events_of(unified.rpartition(b"\n\n")[2] + b"\n\n")[-1]

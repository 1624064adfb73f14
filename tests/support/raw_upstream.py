"""A provider on loopback that answers bytes as they are, whatever it is asked, and a client that asks so."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from aiohttp import web

from support.upstream import Answer, FakeUpstream, chat_stream, messages_stream
from support.upstream_responses import responses_stream

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterable, Mapping, Sequence

TOOL = Answer(text="Hello there, friend", thinking="let me see", tool_calls=(("call_1", "look", '{"a": 1}'),))
STREAMS = {
    "chat/completions": b"".join(chat_stream(TOOL, "m")),
    "messages": b"".join(messages_stream(TOOL, "m")),
    "responses": b"".join(responses_stream(TOOL, "m")),
    "embeddings": b'{"object": "list", "data": [{"embedding": [0.5]}], "usage": {"prompt_tokens": 1}}',
}
"""A sound stream of each protocol, by the end of its path; embeddings come in one body."""


class RawUpstream(FakeUpstream):
    """Answers ``pieces`` one after the other with ``media_type``; without pieces a sound stream."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: Sequence[bytes] = ()
        self.media_type = "text/event-stream"
        self.bodies: list[bytes] = []

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.bodies.append(await request.content.read())
        response = web.StreamResponse()
        sound = next(each for end, each in STREAMS.items() if request.path.endswith(end))
        response.content_type = "application/json" if sound.startswith(b"{") else self.media_type
        await response.prepare(request)
        for piece in self.pieces or (sound,):
            await response.write(piece)
        await response.write_eof()
        return response


class Told(NamedTuple):
    """A response, read to its end."""

    status: int
    media_type: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body, parse_int=str)  # a number that is repeated may be of any length


def ask(url: str, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Told:
    """POST ``body`` from a thread, on a connection of its own. Raises ``OSError`` after 60 s of silence."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    try:
        connection.request("POST", path, body, {"content-type": "application/json", **(headers or {})})
        response = connection.getresponse()
        told = {name.lower(): value for name, value in response.getheaders()}
        return Told(response.status, told["content-type"], told, response.read())
    finally:
        connection.close()


def defects(records: Iterable[logging.LogRecord]) -> list[logging.LogRecord]:
    """What the gateway has logged of its own defects; the providers' servers log here too."""
    names = ("attune", "uvicorn", "asyncio")
    return [each for each in records if each.name.startswith(names) and (each.exc_info or each.levelno >= 40)]

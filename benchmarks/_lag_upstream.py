"""Worker of ``gateway_lag.py``: an upstream that throws bodies away and answers a short stream, or below
"/long" a long one: below "/words" word by word, below "/whole" in one body. Prints its port.
"""

from __future__ import annotations

import asyncio
import json

PIECE = "lorem ipsum \\n" * 1000
LONG = 800
"""Pieces of the long answer: 10 MB."""

WORDS = 65_000
"""Events of a word each: 10 MB."""


def chat(pieces: int, piece: str = "ok") -> bytes:
    """A Chat Completions stream."""
    head = '{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":'
    delta = head + '[{"index":0,"delta":{"content":%s},"finish_reason":null}]}'
    events = [delta % f'"{piece}"'] * pieces
    events.append(head + '[{"index":0,"delta":{},"finish_reason":"stop"}]}')
    events.append(head + '[],"usage":{"prompt_tokens":9,"completion_tokens":9,"total_tokens":18}}')
    return "".join(f"data: {each}\n\n" for each in (*events, "[DONE]")).encode()


def messages() -> bytes:
    """A Messages stream."""
    usage = {"input_tokens": 9, "output_tokens": 1}
    message = {"id": "m", "type": "message", "role": "assistant", "content": [], "model": "m", "usage": usage}
    events = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "ok"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    ]
    return "".join(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in events).encode()


def whole() -> bytes:
    """A Chat Completions body."""
    head = '{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":'
    message = '{"role":"assistant","content":"%s"},"finish_reason":"stop"}]' % (PIECE * LONG)
    usage = '"usage":{"prompt_tokens":9,"completion_tokens":9,"total_tokens":18}'
    return f"{head}{message},{usage}}}".encode()


ANSWERS = {
    b"/long": chat(LONG, PIECE),
    b"/whole": whole(),
    b"/words": chat(WORDS, "lorem "),
    b"/v1/messages": messages(),
    b"/v1/chat": chat(1),
}
"""By how the path begins."""


class Upstream(asyncio.BufferedProtocol):
    """One connection; bodies are read into one buffer and forgotten."""

    def __init__(self) -> None:
        self._into = memoryview(bytearray(256 * 1024))
        self._head = b""
        self._left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._into

    def buffer_updated(self, nbytes: int) -> None:
        if not self._left:
            self._head += self._into[:nbytes]
            head, found, body = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            self._head, nbytes = head, len(body)
            lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
            self._left = int(lines[b"content-length"])
        self._left -= nbytes
        if self._left == 0:
            self._answer(self._head.split(b" ", 2)[1])
            self._head = b""

    def _answer(self, path: bytes) -> None:
        body = next(body for begins, body in ANSWERS.items() if path.startswith(begins))
        kind = b"application/json" if path.startswith(b"/whole") else b"text/event-stream"
        head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n" % (kind, len(body))
        self._transport.write(head + body)


async def main() -> None:
    """Answer until killed."""
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())

"""How late the gateway's event loop is while clients send bodies of 10 MB without a pause, and its memory.

A probe inside the gateway's process sleeps a millisecond a thousand times a second and notes how late it
wakes up ("lag"), and how much of that time the process itself was computing ("own"): what other programs
take of a busy machine is in the first alone. Beside the large bodies a client sends small requests one after
the other; their latency is what another user of the gateway feels. The first row is the same without large
bodies.

    python benchmarks/gateway_lag.py [--seconds 5] [--clients 3] [--json] [CASE ...]
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import _table

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 10_000_000
TARGET_MS = 20.0
HERE = Path(__file__).parent
WORDS = 'The quick brown fox "jumps" over\nthe lazy dog. '

_PROVIDERS = """\
[providers.chat]
kind = "openai"
base_url = "{url}/v1"
api_key = "env:KEY"
[providers.long]
kind = "openai"
base_url = "{url}/long/v1"
api_key = "env:KEY"
[providers.whole]
kind = "openai"
base_url = "{url}/whole/v1"
api_key = "env:KEY"
[providers.words]
kind = "openai"
base_url = "{url}/words/v1"
api_key = "env:KEY"
[providers.messages]
kind = "anthropic"
base_url = "{url}"
api_key = "env:KEY"
[routing]
allow_providers = ["chat", "long", "whole", "words", "messages"]
"""
_MODEL = """\
[[models]]
id = "{name}-model"
provider = "{name}"
tier = "capable"
context_window = 100000000
max_output_tokens = 10000000
abilities = ["vision"]
"""


def image() -> list[dict[str, Any]]:
    """One image and a question."""
    url = "data:image/png;base64," + base64.b64encode(os.urandom(SIZE * 3 // 4)).decode()
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    return [{"role": "user", "content": parts}]


def text() -> list[dict[str, Any]]:
    """One long text with escapes, as JSON has them."""
    return [{"role": "user", "content": WORDS * (SIZE // len(WORDS))}]


def unicode_text() -> list[dict[str, Any]]:
    """One long text that is no ASCII."""
    words = "Съешь же ещё этих мягких французских булок. 中文 "
    return [{"role": "user", "content": words * (SIZE // len(words.encode()))}]


def turns() -> list[dict[str, Any]]:
    """5,000 turns of 2 KB."""
    said = (WORDS * 50)[:2000]
    return [{"role": ("user", "assistant")[place % 2], "content": said} for place in range(4999)]


def small() -> list[dict[str, Any]]:
    """A question."""
    return [{"role": "user", "content": "hi"}]


def request(path: str, model: str, conversation: list[dict[str, Any]], *, stream: bool = False) -> bytes:
    """A whole HTTP request."""
    fields = {"model": model, "max_tokens": 100, "stream": stream, "messages": conversation}
    body = json.dumps(fields, ensure_ascii=False).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


CHAT, MESSAGES, COUNT = "/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens"
CASES: dict[str, Any] = {
    "small requests only": lambda: b"",
    "an image": lambda: request(CHAT, "chat-model", image()),
    "an image, streamed": lambda: request(CHAT, "chat-model", image(), stream=True),
    "a text": lambda: request(CHAT, "chat-model", text()),
    "a text of no ASCII": lambda: request(CHAT, "chat-model", unicode_text()),
    "5,000 messages": lambda: request(CHAT, "chat-model", turns()),
    "5,000 messages, Messages": lambda: request(MESSAGES, "messages-model", turns()),
    "an image, Chat to Messages": lambda: request(CHAT, "messages-model", image()),
    "a text, Chat to Messages": lambda: request(CHAT, "messages-model", text(), stream=True),
    "5,000 messages, Chat to Messages": lambda: request(CHAT, "messages-model", turns()),
    "an answer of 10 MB": lambda: request(CHAT, "long-model", small()),
    "an answer of 10 MB, streamed": lambda: request(CHAT, "long-model", small(), stream=True),
    "an answer of 10 MB, word by word": lambda: request(CHAT, "words-model", small(), stream=True),
    "an answer of 10 MB in one body": lambda: request(CHAT, "whole-model", small()),
    "count_tokens of a text": lambda: request(COUNT, "messages-model", text()),
    "count_tokens, small": lambda: request(COUNT, "messages-model", small()),
}


async def ask(port: int, content: bytes) -> float:
    """Milliseconds until the answer has ended. Raises ``RuntimeError`` for one that is no success."""
    began = perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(content)
    status = await reader.readline()
    last = b""
    while piece := await reader.read(2**20):
        last = piece[-1000:]
    writer.close()
    if b" 200 " not in status:
        raise RuntimeError(f"the gateway answered {status + last!r}")
    return (perf_counter() - began) * 1000


async def again(port: int, content: bytes, until: float, took: list[float]) -> None:
    """Ask one after the other."""
    while perf_counter() < until:
        took.append(await ask(port, content))


async def measure(gateway: subprocess.Popen[str], port: int, name: str, options: Any) -> dict[str, Any]:
    """One case."""
    large, until = CASES[name](), perf_counter() + options.seconds
    figures(gateway)
    beside: list[float] = []
    took: list[float] = []
    clients = [again(port, large, until, took) for _ in range(options.clients)] if large else []
    await asyncio.gather(again(port, request(CHAT, "chat-model", small()), until, beside), *clients)
    found = figures(gateway)
    beside.sort()
    found |= {"case": name, "large": len(took), "small": len(beside)}
    found["beside_p99"] = beside[int(len(beside) * 0.99)]
    await asyncio.sleep(1.5)
    found["mib_after"] = figures(gateway)["mib"]
    return found


def figures(gateway: subprocess.Popen[str]) -> dict[str, Any]:
    """The gateway's figures since they were last asked for."""
    assert gateway.stdin is not None
    assert gateway.stdout is not None
    gateway.stdin.write("\n")
    gateway.stdin.flush()
    return dict(json.loads(gateway.stdout.readline()))


@contextmanager
def worker(name: str, *argv: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A worker that has said its port."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, str(HERE / name), *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"{name} did not start")
            yield process, int(line)
        except RuntimeError as error:
            errors.seek(0)
            raise RuntimeError(f"{error}\n{errors.read()[-2000:]}") from None
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("cases", nargs="*", help="parts of names of cases")
    options = parser.parse_args()
    names = [name for name in CASES if not options.cases or any(part in name for part in options.cases)]
    with tempfile.TemporaryDirectory() as folder, worker("_lag_upstream.py") as (_, upstream):
        config = _PROVIDERS.format(url=f"http://127.0.0.1:{upstream}")
        config += "".join(_MODEL.format(name=name) for name in ("chat", "long", "whole", "words", "messages"))
        path = Path(folder) / "config.toml"
        path.write_text(config)
        os.environ.update(ATTUNE_HOME=folder, KEY="not-a-secret")
        with worker("_lag_gateway.py", str(path)) as (gateway, port):
            found = [asyncio.run(measure(gateway, port, name, options)) for name in names]
    if options.json:
        print(json.dumps(found, indent=1))
        return
    rows = [
        [
            each["case"],
            *(f"{each['lag'][name]:.1f}" for name in ("p50", "p99", "p999")),
            *(f"{each['own'][name]:.1f}" for name in ("p99", "p999", "max")),
            _table.verdict(each["own"]["p999"], TARGET_MS),
            f"{each['beside_p99']:.0f}",
            str(each["large"]),
            str(each["small"]),
            *(f"{each[name]:.0f}" for name in ("mib", "mib_after")),
        ]
        for each in found
    ]
    lag = ["lag p50", "p99", "p99.9", "own p99", "p99.9", "max", ""]
    header = ["case", *lag, "small p99", "large", "small", "MiB", "MiB after"]
    _table.show(f"Lag of the event loop in ms, {options.clients} clients", header, rows)


if __name__ == "__main__":
    main()

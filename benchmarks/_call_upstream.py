"""The static upstream of ``call.py``: nginx on loopback, which answers every request with the same bytes."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import _call_rounds

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS_TO_START = 5.0

_CONFIG = """
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr crit;
events {{ worker_connections 512; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 300s;
    tcp_nodelay on;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    server {{
        listen 127.0.0.1:{port};
        location /whole/ {{ default_type application/json; return 200 {whole}; }}
        location /streamed/ {{ default_type text/event-stream; return 200 {streamed}; }}
    }}
}}
"""

_HEAD = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": "model-0"}
_USAGE = {"prompt_tokens": 12, "completion_tokens": 15, "total_tokens": 27}


def whole() -> str:
    """The answer as one body."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": _call_rounds.ANSWER},
        "finish_reason": "stop",
    }
    return json.dumps({**_HEAD, "object": "chat.completion", "choices": [choice], "usage": _USAGE})


def streamed() -> str:
    """The same answer as a stream, a chunk a word, as OpenAI sends it."""
    words = _call_rounds.ANSWER.split(" ")
    pieces = [words[0], *(f" {word}" for word in words[1:])]
    deltas = [{"role": "assistant", "content": ""}, *({"content": piece} for piece in pieces), {}]
    chunks = [
        {"choices": [{"index": 0, "delta": delta, "finish_reason": None if delta else "stop"}]}
        for delta in deltas
    ]
    chunks.append({"choices": [], "usage": _USAGE})
    head = {**_HEAD, "object": "chat.completion.chunk"}
    return "".join(f"data: {json.dumps(head | chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"


@contextmanager
def upstream() -> Iterator[str]:
    """The address of a running nginx. Raises ``RuntimeError`` where there is none."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        raise RuntimeError("nginx is not on the PATH; on Debian: apt-get install nginx-light")
    with tempfile.TemporaryDirectory() as folder:
        port = _free_port()
        file = Path(folder) / "nginx.conf"
        file.write_text(_CONFIG.format(port=port, whole=_quoted(whole()), streamed=_quoted(streamed())))
        argv = [nginx, "-p", folder, "-e", "stderr", "-c", str(file)]
        process = subprocess.Popen(argv)
        try:
            _wait_for(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + SECONDS_TO_START
    while process.poll() is None and time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError("nginx did not start; its reason stands above")

"""llmock, an independent fake of the services, as a process of its own.

with llmock("--stream-chunk-delay-ms", "8") as url:
    control(url, "verdict")
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL, Popen, TimeoutExpired
from typing import TYPE_CHECKING, Any

from support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT_SECONDS = 120


@contextmanager
def llmock(*options: str) -> Iterator[str]:
    """Its address, once it answers."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    program = [Path(sys.executable).with_name("llmock"), "serve", "--port", str(port), *options]
    # It is nobody's to measure, and coverage's handling of SIGTERM may hold up its end.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    with Popen(program, stdout=DEVNULL, stderr=DEVNULL, env=environ) as process:
        try:
            _wait_until_up(url, process)
            yield url
        finally:
            _end(process)


def _wait_until_up(url: str, process: Popen[bytes]) -> None:
    give_up = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < give_up and process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=LIMIT_SECONDS).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"llmock did not start at {url}")


def _end(process: Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except TimeoutExpired:
        process.kill()


def control(url: str, path: str, data: Any = None) -> Any:
    """Ask or tell the llmock at ``url`` something."""
    body = None if data is None else json.dumps(data).encode()
    asked = urllib.request.Request(f"{url}/_llmock/{path}", body)
    with urllib.request.urlopen(asked, timeout=LIMIT_SECONDS) as answer:
        return json.load(answer)

"""A server that is measured: a process group of its own on loopback, started, watched and ended."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

LIMIT_SECONDS = 1800.0
"""A server that nobody has ended after this long is killed."""

SECONDS_TO_START = 90.0
SECONDS_TO_END = 40.0
POLL_SECONDS = 0.005

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


class ServerProcess:
    """A process that listens on ``port``. It is ready when ``ready_path`` is answered with 200.

    Raises ``RuntimeError`` with the last line of one that does not get so far. What it prints goes to a file
    of ``home``.
    """

    def __init__(
        self, of: str, argv: Sequence[str], *, port: int, ready_path: str, env: Mapping[str, str], home: Path
    ) -> None:
        self.of = of
        self.port = port
        self.address = f"http://127.0.0.1:{port}"
        self._log = home / "output"
        began = time.perf_counter()
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                argv,
                env=env,
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._limit = threading.Timer(LIMIT_SECONDS, self._signal, [signal.SIGKILL])
        self._limit.daemon = True
        self._limit.start()
        try:
            self._wait_for(ready_path, began + SECONDS_TO_START)
        except BaseException:
            self.end()
            raise
        self.seconds_to_ready = time.perf_counter() - began

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End it, and all that it started, as an operator would; by force if that does not help."""
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(SECONDS_TO_END)
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._limit.cancel()

    def cpu_seconds(self) -> float:
        """Time on a processor so far, of the whole group, in user and in system mode."""
        return sum(int(fields[11]) + int(fields[12]) for fields in self._group()) / _TICK

    def resident_mb(self) -> float:
        """Resident memory of the whole group now, in MB (10⁶ bytes)."""
        return sum(int(fields[21]) for fields in self._group()) * _PAGE_MB

    def _group(self) -> Iterator[list[str]]:
        """The fields of ``/proc/PID/stat`` after the name, of each process of the group."""
        for file in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # it has just ended
                fields = file.read_text().rpartition(")")[2].split()
                if int(fields[2]) == self._process.pid:
                    yield fields

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _wait_for(self, path: str, end: float) -> None:
        while self._process.poll() is None and time.perf_counter() < end:
            if self._answers(path):
                return
            time.sleep(POLL_SECONDS)
        raise RuntimeError(f"{self.of} did not start: {self._last_line()}")

    def _answers(self, path: str) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _last_line(self) -> str:
        return (self._log.read_text(errors="replace").strip() or "no output").splitlines()[-1]

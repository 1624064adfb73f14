"""A disk that fails on demand, below SQLite: the kernel asks this process what a system call returns.

    disk = FailingDisk()                   # in a process of its own, before the store is opened
    store = SqliteStore.open(path)
    disk.fail("fsync", errno.EIO, path)
    disk.work()

It is a seccomp filter with a listener (Linux 5.5, x86-64 and ARM64), installed through ctypes; nothing
but the kernel is needed. The thread that answers for the disk is started before the filter is installed
and is alone outside of it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import queue
import struct
import threading
from pathlib import Path

_NUMBERS = {
    "x86_64": {"seccomp": 317, "pwrite64": 18, "fsync": 74, "fdatasync": 75},
    "aarch64": {"seccomp": 277, "pwrite64": 68, "fsync": 82, "fdatasync": 83},
}
CALLS = {"write": ("pwrite64",), "fsync": ("fsync", "fdatasync")}

_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ASK = 0x7FFF0000, 0x7FC00000
_CONTINUE = 1
_REQUEST_BYTES = 80


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


class FailingDisk:
    """Works until it is told to ``fail``. Raises ``OSError`` where the system allows no such filter."""

    def __init__(self) -> None:
        numbers = _NUMBERS.get(platform.machine())
        if numbers is None or platform.system() != "Linux":
            raise OSError(errno.ENOSYS, f"no seccomp numbers for {platform.system()} {platform.machine()}")
        self.failures = 0
        self._numbers = numbers
        self._fault: tuple[frozenset[int], int, str] = (frozenset(), 0, "")
        listener: queue.Queue[int] = queue.Queue()
        threading.Thread(target=self._answer, args=(listener,), daemon=True).start()
        listener.put(self._install())

    def fail(self, kind: str, number: int, path: str) -> None:
        """Let a kind of call ("write" or "fsync") on files that begin with ``path`` end with an errno."""
        self._fault = (frozenset(self._numbers[name] for name in CALLS[kind]), number, path)

    def work(self) -> None:
        """Let everything succeed again."""
        self._fault = (frozenset(), 0, "")

    def _install(self) -> int:
        """Filter this thread and all that it starts; returns what the kernel asks through."""
        asked = [self._numbers[name] for names in CALLS.values() for name in names]
        steps = [(_LOAD, 0, 0, 0)]  # the number of the call
        steps += [(_JUMP_IF_EQUAL, len(asked) - place, 0, call) for place, call in enumerate(asked)]
        steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ASK)]
        filters = b"".join(struct.pack("HBBI", *step) for step in steps)
        libc = ctypes.CDLL(None, use_errno=True)
        program = ctypes.byref(_Program(len(steps), filters))
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
            listener: int = libc.syscall(self._numbers["seccomp"], _SET_MODE_FILTER, _NEW_LISTENER, program)
            if listener >= 0:
                return listener
        raise OSError(ctypes.get_errno(), f"no seccomp filter: {os.strerror(ctypes.get_errno())}")

    def _answer(self, listener: queue.Queue[int]) -> None:
        asks = listener.get()
        while True:
            request = bytearray(_REQUEST_BYTES)
            fcntl.ioctl(asks, _RECEIVE, request)
            (question,) = struct.unpack_from("Q", request)
            (call,) = struct.unpack_from("i", request, 16)
            (file,) = struct.unpack_from("Q", request, 32)
            calls, number, path = self._fault
            fails = call in calls and str(Path(f"/proc/self/fd/{file}").readlink()).startswith(path)
            self.failures += fails
            answer = (question, 0, -number, 0) if fails else (question, 0, 0, _CONTINUE)
            fcntl.ioctl(asks, _SEND, struct.pack("QqiI", *answer))

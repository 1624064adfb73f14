"""What is open is closed before SIGTERM or SIGHUP ends the program."""

from __future__ import annotations

import signal
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol
from weakref import WeakSet

from attune.errors import StoreError

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["close_on_signals", "close_opened"]


class _Closeable(Protocol):
    def close(self) -> None:
        """Finish what is under way; again: nothing."""


_opened: WeakSet[_Closeable] = WeakSet()


def close_on_signals(opened: _Closeable) -> None:
    """Close ``opened`` first when a signal ends the program, if it is still there then.

    Only called in the main thread is this sure, and only signals that the program neither handles nor
    ignores are taken.
    """
    _opened.add(opened)
    if threading.current_thread() is not threading.main_thread():
        return
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _close_and_die)


def close_opened() -> None:
    """Close everything."""
    for each in tuple(_opened):
        with suppress(StoreError):  # the writer has logged it
            each.close()


def _close_and_die(number: int, _frame: FrameType | None) -> None:
    """Leave the work to a thread: the signal may have come while this one held a lock of the ledger,
    and the event loop that must cancel its calls may be the one interrupted here.
    """
    signal.signal(number, signal.SIG_DFL)

    def close_and_die() -> None:
        try:
            close_opened()
        finally:
            signal.raise_signal(number)

    threading.Thread(target=close_and_die, name="attune-shutdown").start()

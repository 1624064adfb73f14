"""Coroutines that are begun at once, so that one that has nothing to wait for needs no time-out."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["Eager"]

T = TypeVar("T")

_HANDED_OVER = object()


class Eager(Generator[Any, Any, T]):
    """A coroutine that has run up to its first wait, in the task that makes this.

    It is ``done`` when it came to its end without any: ``result`` is what it returned, and what it raised
    is raised here. Else awaiting this goes on with it, which the same task must do before it waits for
    anything else.
    """

    __slots__ = ("_coroutine", "_first", "done", "result")

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine
        self.done = False
        self.result: T
        try:
            self._first: Any = coroutine.send(None)
        except StopIteration as end:
            self.done = True
            self.result = end.value

    def __await__(self) -> Generator[Any, Any, T]:
        return self

    def send(self, value: Any) -> Any:
        """Hand over what it waits for first, then whatever it waits for next."""
        first, self._first = self._first, _HANDED_OVER
        return self._coroutine.send(value) if first is _HANDED_OVER else first

    def throw(self, *error: Any) -> Any:
        """Raise an exception, such as a cancellation, where it waits."""
        return self._coroutine.throw(*error)

"""The ledger as commands that only look at it see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.errors import InvalidRequestError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from attune.config import Config
    from attune.stores.sqlite import SqliteReader

__all__ = ["find_call", "open_ledger", "unknown_call"]

RECENT_CALLS = 200
"""Among so many a mistyped id is looked for."""


def open_ledger(config: Config) -> SqliteReader | None:
    """The ledger for reading, or ``None`` before the first call. Raises ``StoreError``."""
    if not config.paths.ledger_file.exists():
        return None
    from attune.stores.sqlite import SqliteStore

    return SqliteStore.open_readonly(config.paths.ledger_file)


def find_call(ledger: SqliteReader | None, given: str) -> str:
    """The id of the call whose id is, or alone begins with, what was ``given``.

    Raises ``UnknownNameError`` when there is none, ``InvalidRequestError`` when there are several.
    """
    from attune.cli._call_options import check_text

    check_text("the id of the call", given)
    found = ledger.call_ids(given, 3) if ledger is not None and given else []
    if given in found or len(found) == 1:
        return found[0]  # in their order the whole id stands before those that it is the beginning of
    if found:
        several = ", ".join(found[:2]) + (", ..." if len(found) > 2 else "")
        raise InvalidRequestError(f"several calls begin with {given!r}: {several}; give more of the id")
    recent = [] if ledger is None else ledger.recent_attempts(RECENT_CALLS)
    raise unknown_call(given, {each.call_id for each in recent})


def unknown_call(given: str, recent: Iterable[str]) -> UnknownNameError:
    """What to raise for a call that the ledger does not know; ``recent`` are some that it knows."""
    return UnknownNameError("call", given, recent, where="the ledger", otherwise="`attune calls` lists them")

"""The ledger as commands that only look at it see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attune.config import Config
    from attune.stores.sqlite import SqliteReader

__all__ = ["open_ledger"]


def open_ledger(config: Config) -> SqliteReader | None:
    """The ledger for reading, or ``None`` before the first call. Raises ``StoreError``."""
    if not config.paths.ledger_file.exists():
        return None
    from attune.stores.sqlite import SqliteStore

    return SqliteStore.open_readonly(config.paths.ledger_file)

"""``auth.json``: the strategy that ``attune auth setup`` saved. It holds choices, never a key."""

from __future__ import annotations

import contextlib
import json
import os
import time
from itertools import count
from typing import TYPE_CHECKING

from attune.errors import ConfigError, CorruptFileError, InvalidRequestError
from attune.models.auth_strategy import AuthStrategy
from attune.wire.redaction import one_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["load_auth", "reset_auth", "save_auth"]

MAX_BYTES = 64 * 1024


def load_auth(
    path: Path, *, clock: Callable[[], float] = time.time
) -> tuple[AuthStrategy | None, tuple[str, ...]]:
    """What was saved, or ``None``, and notices to show.

    A file that is no strategy is kept aside as ``auth.json.corrupt-STAMP`` (UTC, by ``clock`` in
    epoch seconds), which the notice says. Raises ``ConfigError`` if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None, ()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}; mend its permissions") from None
    try:
        return _parsed(content), ()
    except (ValueError, RecursionError) as error:  # also an InvalidRequestError
        return None, (_keep_aside(path, one_line(str(error)), clock()),)


def save_auth(path: Path, strategy: AuthStrategy) -> None:
    """Write the strategy: all of it or nothing, readable by the user alone. Raises ``ConfigError``."""
    content = json.dumps(strategy.to_dict(), indent=2).encode() + b"\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}")
    try:
        if not path.parent.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            _write(temporary, content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror or error}; "
            "make its folder writable or choose another with ATTUNE_HOME"
        ) from None


def reset_auth(path: Path) -> bool:
    """Remove what was saved; whether there was something. Raises ``ConfigError``."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigError(f"cannot remove {path}: {error.strerror or error}") from None
    return True


def _parsed(content: bytes) -> AuthStrategy:
    if len(content) > MAX_BYTES:
        raise InvalidRequestError(f"it is above {MAX_BYTES // 1024} KiB")
    values = json.loads(content)
    if not isinstance(values, dict):
        raise InvalidRequestError("it is not a JSON object")
    return AuthStrategy.from_dict(values, "it")


def _keep_aside(path: Path, reason: str, now: float) -> str:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    kept = path.with_name(f"{path.name}.corrupt-{stamp}")
    for number in count(1):
        if not kept.exists():
            break
        kept = path.with_name(f"{path.name}.corrupt-{stamp}-{number}")
    try:
        with contextlib.suppress(FileNotFoundError):  # another process did it
            path.rename(kept)
    except OSError as error:
        raise ConfigError(
            f"{path} is unreadable ({reason}) and cannot be kept aside: {error.strerror or error}"
        ) from None
    return f"{CorruptFileError(str(path), str(kept), reason)}; run `attune auth setup`"


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    """Make the new name durable, where a folder can be opened for that."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

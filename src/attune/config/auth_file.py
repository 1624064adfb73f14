"""``auth.json``: the strategy that ``attune auth setup`` saved. It holds choices, never a key."""

from __future__ import annotations

import contextlib
import json
import os
import time
from itertools import count
from typing import TYPE_CHECKING, Any

from attune.errors import ConfigError, InvalidRequestError
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

    A file that is no JSON object is kept aside as ``auth.json.corrupt-STAMP`` (UTC, by ``clock`` in
    epoch seconds); the notice that says so comes again until a strategy is saved or reset.
    Raises ``ConfigError`` for a file that cannot be read, or with a field that is wrong.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None, _kept_notices(path)
    except NotADirectoryError:
        blocking = next((each for each in path.parents if each.is_file()), path.parent)
        raise ConfigError(
            f"cannot read {path}: {blocking} is a file, not a folder; choose another with ATTUNE_HOME"
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}; mend its permissions") from None
    try:
        values = _parsed(content)
    except (ValueError, RecursionError) as error:
        reason = one_line(str(error))
        _keep_aside(path, reason, clock())
        return None, _kept_notices(path, f" ({reason})")
    try:
        return AuthStrategy.from_dict(values, str(path)), ()
    except InvalidRequestError as error:
        raise ConfigError(
            f"{one_line(str(error))}; mend it, or forget all with `attune auth reset`"
        ) from None


def save_auth(path: Path, strategy: AuthStrategy) -> None:
    """Write the strategy: all of it or nothing, readable by the user alone. Raises ``ConfigError``."""
    replace_file(path, json.dumps(strategy.to_dict(), indent=2).encode() + b"\n")


def replace_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file of the configuration: all of it or nothing. Raises ``ConfigError``."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}")
    try:
        if not path.parent.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            _write(temporary, content, mode)
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
    """Remove what was saved, corrupt files that were kept too; whether there was something.

    Raises ``ConfigError``.
    """
    files = saved_files(path)
    try:
        for file in files:
            file.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot remove {error.filename}: {error.strerror or error}") from None
    return bool(files)


def saved_files(path: Path) -> list[Path]:
    """What ``reset_auth`` would remove: the file itself, and corrupt ones that were kept, oldest first."""
    return [file for file in (path, *_kept(path)) if os.path.lexists(file)]


def _kept(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.corrupt-*"))  # a name holds its time


def _kept_notices(path: Path, reason: str = "") -> tuple[str, ...]:
    """That a corrupt file was kept, while nothing is saved in its place."""
    return tuple(
        f"{path} was unreadable{reason} and was kept as {kept}; the defaults hold until you run "
        "`attune auth setup` (or `attune auth reset`, which removes it)"
        for kept in _kept(path)[-1:]
    )


def _parsed(content: bytes) -> dict[str, Any]:
    if len(content) > MAX_BYTES:
        raise InvalidRequestError(f"it is above {MAX_BYTES // 1024} KiB")
    values = json.loads(content)
    if not isinstance(values, dict):
        raise InvalidRequestError("it is not a JSON object")
    return values


def _keep_aside(path: Path, reason: str, now: float) -> None:
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


def _write(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
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

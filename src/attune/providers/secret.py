"""Keys: where they come from, and a wrapper that keeps them out of every text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from attune.errors import ConfigError
from attune.wire.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Secret", "resolve_secret", "without_secrets"]

_MAX_KEY_BYTES = 16 * 1024
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HARMLESS = re.compile(
    r"(PATH|HOME|USER|LANG|TZ|TMPDIR|TMP|TEMP|SYSTEMROOT|VIRTUAL_ENV|(LD|DYLD)_LIBRARY_PATH)"
    r"|(LC|PYTHON|COV|COVERAGE|OMP|GGML|CUDA|HIP|ROCR)[A-Z_]*"
)


class Secret:
    """A key. Every text made of it shows only its ``source``; ``reveal`` gives the key itself."""

    __slots__ = ("_value", "source")

    def __init__(self, value: str, source: str) -> None:
        self._value = value
        self.source = source

    def reveal(self) -> str:
        """The key, for the header that needs it."""
        return self._value

    @property
    def fingerprint(self) -> str:
        """Tells one key from another: 32 bits of a hash, too few to find the key by."""
        import hashlib

        return hashlib.blake2b(self._value.encode(), digest_size=4, person=b"attune").hexdigest()

    def __repr__(self) -> str:
        return f"Secret({self.source!r})"

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled")


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """What a process of our own needs of an environment: named, for nobody knows the names of all keys."""
    return {name: value for name, value in environ.items() if _HARMLESS.fullmatch(name)}


def resolve_secret(reference: str, environ: Mapping[str, str], *, where: str = "api_key") -> Secret:
    """The key that ``env:NAME`` or ``file:PATH`` refers to; ``where`` names the setting in errors.

    Raises ``ConfigError`` when there is none, and for a key given as such: it would lie open in a
    file or a command line.
    """
    scheme, _, name = reference.partition(":")
    match scheme:
        case "env" if _ENV_NAME.fullmatch(name):
            value = environ.get(name, "")
            missing = f"the environment variable {redact(name)} is not set"
        case "file" if name:
            value, missing = _read(Path(name).expanduser(), where), f"the file {name} is empty"
        case _:
            raise ConfigError(
                f'{where} must refer to a key, as "env:NAME" or "file:PATH"; it must not be one'
            )
    value = value.strip()
    if not value:
        raise ConfigError(f"{where}: {missing}")
    if not (value.isascii() and value.isprintable()) or " " in value:
        raise ConfigError(
            f"{where}: what {redact(reference)} holds is not a key: it has blanks or odd characters"
        )
    return Secret(value, redact(reference))


def _read(path: Path, where: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_KEY_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{where}: cannot read {path}: {error.strerror or error}") from error
    if len(content) > _MAX_KEY_BYTES:
        raise ConfigError(f"{where}: {path} is too large to be a key")
    return content.decode("utf-8", "replace")

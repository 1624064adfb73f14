"""The one thing that attune writes into the user's configuration, and only when it is told to."""

from __future__ import annotations

import stat
import tomllib
from typing import TYPE_CHECKING

from attune.config.auth_file import replace_file
from attune.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["PLAN", "enrol_plan"]

PLAN = "claude"
"""The name of the provider that is enrolled."""

_TABLE = f'[providers.{PLAN}]\nkind = "claude_subscription"\n'


def enrol_plan(file: Path) -> None:
    """Add the user's Claude plan to the end of a configuration, which else stays as it is.

    Raises ``ConfigError`` where a provider has the name already, or it cannot be read or written.
    """
    file = file.resolve()  # a link to it stays one
    try:
        text, mode = (file.read_text(), stat.S_IMODE(file.stat().st_mode)) if file.exists() else ("", 0o600)
        added = f"{text.rstrip()}\n\n{_TABLE}".lstrip("\n")
        tomllib.loads(added)
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror or error}") from None
    except ValueError:  # UnicodeDecodeError and TOMLDecodeError
        raise ConfigError(
            f"{file} takes no [providers.{PLAN}] at its end; add a provider with "
            'kind = "claude_subscription" yourself, under a name that is free'
        ) from None
    replace_file(file, added.encode(), mode)

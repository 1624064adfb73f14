"""The limits in ``[gateway]``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from attune.config import load
from attune.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def gateway_of(home: Path, lines: str):
    (home / "config.toml").write_text(f"[gateway]\n{lines}\n")
    return load(environ={"ATTUNE_HOME": str(home)}).gateway


def test_limits_are_read(tmp_path: Path) -> None:
    found = gateway_of(tmp_path, "max_bodies_mib = 64\nclient_timeout_seconds = 2.5\nmax_connections = 7")
    assert (found.max_bodies_mib, found.client_timeout_seconds, found.max_connections) == (64, 2.5, 7)


@pytest.mark.parametrize(
    "line",
    [
        "max_bodies_mib = 0",
        "client_timeout_seconds = 0",
        "client_timeout_seconds = true",
        "max_connections = 0",
    ],
)
def test_a_limit_that_makes_no_sense_is_refused_by_name(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError, match=line.split(maxsplit=1)[0]):
        gateway_of(tmp_path, line)

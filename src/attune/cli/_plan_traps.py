"""What is known to go wrong around a Claude plan: other payers, proxies, and others on the machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from attune.cli._claude import SHADOWS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["plan_traps"]

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")


def plan_traps(environ: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each trap. Values are never shown: some are secrets, and an address may hold one."""
    shadows = [name for name in sorted(environ) if name.startswith(SHADOWS) and environ[name].strip()]
    if shadows:
        yield (
            f"{_listed(shadows)} set: a claude that you start yourself may bill that instead of the plan; "
            "attune never passes it on"
        )
    proxies = [name for name in _PROXIES if environ.get(name, "").strip()]
    if proxies:
        yield f"{_listed(proxies)} set: the claude program asks through it, and it has to let that through"
    yield from _shared(environ)


def _listed(names: list[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"


def _shared(environ: Mapping[str, str]) -> Iterator[str]:
    """Whether others on the machine could use the login. Only who may is looked at, never what is there."""
    home = Path(environ.get("HOME") or Path.home())
    folder = Path(environ.get("CLAUDE_CONFIG_DIR") or home / ".claude")
    try:
        owner = home.stat().st_uid
        mode = folder.stat().st_mode if folder.exists() else 0o700
    except OSError as error:
        yield f"{error.filename} cannot be looked at: {error.strerror}"
        return
    if hasattr(os, "getuid") and owner != os.getuid():
        yield f"{home} is not yours: a plan is for one person, whose login this may not be"
    # The program keeps its usual folder readable, and the login in it private; of another one who knows.
    if mode & (0o077 if environ.get("CLAUDE_CONFIG_DIR") else 0o022):
        yield f"{folder} is open to others on this machine, and with it maybe the login: chmod 700 {folder}"

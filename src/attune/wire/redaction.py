"""Text from outside made fit for a message: one line, capped, without anything like a key."""

from __future__ import annotations

import re

__all__ = ["MAX_TEXT_CHARS", "one_line", "redact", "without_key"]

MAX_TEXT_CHARS = 300
REDACTED = "[redacted]"
_SHORTEST_KEY = 8  # shorter "keys" are placeholders such as "ollama" that would blot out words

# The key formats of the services attune meets. `*` and `.` because some services print a key that
# they have masked in the middle.
_KEY = re.compile(
    r"\b(?:sk|pk|rk|xai|gsk|hf|ghp|pplx)[-_][\w*.-]{6,}"
    r"|\battune-[\w-]{40,}"  # the gateway's own
    r"|\bAIza[\w*.-]{6,}|\bya29\.[\w.-]+|\beyJ[\w-]+\.[\w-]+\.[\w-]*"
    r"|(?<=bearer )\S+",
    re.IGNORECASE,
)


def redact(text: str, key: str = "") -> str:
    """``text`` with ``key`` and anything that looks like a key replaced by ``[redacted]``."""
    if len(key) >= _SHORTEST_KEY:
        text = text.replace(key, REDACTED)
    return _KEY.sub(REDACTED, text)


def without_key(body: bytes, key: str) -> bytes:
    """``body`` unmodified but for ``key`` itself, which some services repeat in their errors."""
    return body.replace(key.encode(), REDACTED.encode()) if len(key) >= _SHORTEST_KEY else body


def one_line(text: str, key: str = "") -> str:
    """``text`` redacted, on one line without control characters, at most ``MAX_TEXT_CHARS`` long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[:20_000]).split())
    line = redact(line, key)  # before the cut, which could leave half a key that no longer matches
    return line if len(line) <= MAX_TEXT_CHARS else line[: MAX_TEXT_CHARS - 3] + "..."

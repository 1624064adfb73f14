"""The gateway's log: one JSON object a line, without prompts and without keys."""

from __future__ import annotations

import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec

from attune.wire.redaction import redact

__all__ = ["JSONLines", "log_step", "log_to_stderr"]

_OWN_WORDS = re.compile(
    r"( answered \d{3}| failed in its answer)( \([\w.-]+\))?.*?"
    r"(; next [\w.-]+/\S+|; next a model with a larger window|; again in [\d.]+ s)?$",
    re.DOTALL,
)
"""A step about an error of a provider: what it was, its code, its words, and what comes next."""

_log = logging.getLogger("attune.gateway")


class JSONLines(logging.Formatter):
    """Writes a record as one line: the fields of a message that is a ``dict``, any other as ``message``."""

    def format(self, record: logging.LogRecord) -> str:
        """See ``logging.Formatter``."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
        }
        if isinstance(record.msg, dict):
            entry |= record.msg
        else:
            entry["message"] = redact(record.getMessage())
        if record.exc_info:
            entry["trace"] = redact(self.formatException(record.exc_info))
        return msgspec.json.encode(entry).decode()


def log_step(line: str) -> None:
    """Log what became of an attempt, but for the words of a provider: they may repeat the prompt."""
    _log.info("%s", _OWN_WORDS.sub(r"\1\2\3", line))


def log_to_stderr() -> None:
    """Send what is logged, from the level of information on, to standard error."""
    # What no line shows need not be looked up for every line: where in the source it was, on which thread.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("uvicorn").setLevel(logging.WARNING)

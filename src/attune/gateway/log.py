"""The gateway's log: one JSON object a line, without prompts and without keys."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec

from attune.wire.redaction import redact

__all__ = ["JSONLines", "log_to_stderr"]


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


def log_to_stderr() -> None:
    """Send what is logged, from the level of information on, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("uvicorn").setLevel(logging.WARNING)

"""The table that a simulation replays, and the tiers of its models, from files of the user."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from attune.errors import InvalidRequestError, UnknownNameError
from attune.models.registry import ModelTier
from attune.models.simulation import row_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from attune.models.simulation import Row

__all__ = ["NO_KEY", "Table", "read_table", "read_tiers"]

NO_KEY = "none"
MAX_BYTES = 256 * 1024 * 1024
MAX_ROWS = 100_000
MAX_MODELS = 50
MAX_NAME_CHARS = 100
_GZIP = b"\x1f\x8b"


class Table(NamedTuple):
    """The rows of a file, the models that all of them have (in the order of the first), and the text fields
    of the first row that could be the key.
    """

    rows: list[Row]
    models: list[str]
    fields: list[str]


def read_table(name: str, key: str, *, timed: bool) -> Table:
    """The table in a file of JSON lines, which may be compressed with gzip; ``key`` is a field or ``none``.

    ``timed``: every result needs its ``latency_ms``. Raises ``InvalidRequestError`` that names the file, the
    line and what to do.
    """
    field = None if key == NO_KEY else key
    rows: list[Row] = []
    models: list[str] = []
    fields: list[str] = []
    for number, line in enumerate(_content(name).split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{name} line {number}"
        if len(rows) == MAX_ROWS:
            raise InvalidRequestError(f"{where}: a table has at most {MAX_ROWS:,} rows; take a sample of it")
        record = _record(line, where)
        if not rows:
            fields = [f for f, value in record.items() if f != "prompt" and isinstance(value, str)]
            if field is not None and field not in fields:
                raise UnknownNameError("key field", field, [*fields, NO_KEY], where=where)
        row = row_of(record, field, where)
        models = models or _models(row, where)
        _check_cells(row, models, where, timed=timed)
        rows.append(row)
    if not rows:
        raise InvalidRequestError(f"{name} is empty; a table has one JSON object a line, a task each")
    return Table(rows, models, fields)


def _content(name: str) -> bytes:
    """The bytes of the file, unpacked. A device or a pipe that never ends is no table."""
    path = Path(name)
    try:
        if not path.is_file():
            what = "is not a regular file" if path.exists() else "does not exist"
            raise InvalidRequestError(f"{name} {what}; name a file of JSON lines")
        with path.open("rb") as file:
            packed = file.read(len(_GZIP)) == _GZIP
            file.seek(0)
            if packed:
                with gzip.GzipFile(fileobj=file) as unpacked:
                    content = unpacked.read(MAX_BYTES + 1)
            else:
                content = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        if isinstance(error, InvalidRequestError):
            raise
        raise InvalidRequestError(
            f"cannot read {name}: {getattr(error, 'strerror', None) or error}"
        ) from None
    if len(content) > MAX_BYTES:
        raise InvalidRequestError(
            f"{name} is above {MAX_BYTES // 1024**2} MiB unpacked; take a sample of its rows"
        )
    return content.removeprefix(b"\xef\xbb\xbf")


def _record(line: bytes, where: str) -> dict[str, Any]:
    try:
        # Whole numbers are read as floats: one with a million digits is infinite, and refused as such.
        record = json.loads(line.decode(), parse_int=float)
    except UnicodeDecodeError:
        raise InvalidRequestError(f"{where}: this is not UTF-8 text; save the table as UTF-8") from None
    except (ValueError, RecursionError):
        raise InvalidRequestError(
            f"{where}: this is not JSON; a row is an object on one line, such as "
            '{"arms": {"MODEL": {"reward": 1, "cost": 0.002}, ...}}'
        ) from None
    if not isinstance(record, dict):
        raise InvalidRequestError(f"{where}: a row is a JSON object, not {type(record).__name__}")
    return record


def _models(row: Row, where: str) -> list[str]:
    """The models of the first row, which all others must have too."""
    models = list(row.arms)
    if len(models) < 2:
        raise InvalidRequestError(
            f"{where}: has one model, {_shown(models[0])!r}, so there is nothing to choose; "
            "a table needs at least two in every row"
        )
    if len(models) > MAX_MODELS:
        raise InvalidRequestError(f"{where}: has {len(models)} models; a table has at most {MAX_MODELS}")
    if any(not model.strip() or len(model) > MAX_NAME_CHARS for model in models):
        raise InvalidRequestError(f"{where}: the name of a model has 1 to {MAX_NAME_CHARS} characters")
    return models


def _check_cells(row: Row, models: list[str], where: str, *, timed: bool) -> None:
    missing = next((model for model in models if model not in row.arms), None)
    if missing is not None:
        raise InvalidRequestError(
            f"{where}: has no result of {_shown(missing)!r}; every row needs all the models of the first: "
            "leave out the row, or the model everywhere"
        )
    if len(row.arms) > len(models):
        extra = next(model for model in row.arms if model not in models)
        raise InvalidRequestError(
            f"{where}: has a result of {_shown(extra)!r}, which the first row has not; "
            "every row needs the same models"
        )
    if timed and (untimed := next(_untimed(row), None)):
        raise InvalidRequestError(
            f"{where}, model {_shown(untimed)}: has no latency_ms; "
            "--max-latency-ms needs that of every result"
        )


def _untimed(row: Row) -> Iterator[str]:
    return (model for model, arm in row.arms.items() if arm.latency_ms is None)


def _shown(name: str) -> str:
    return name if len(name) <= MAX_NAME_CHARS else f"{name[:MAX_NAME_CHARS]}..."


# -- tiers -----------------------------------------------------------------------------------------------


def read_tiers(name: str, models: list[str]) -> dict[str, int]:
    """The tier of each model that the TOML file names, 0 the cheapest, in the file's order.

    ``[tiers]`` has tier = list of models, in the order of the static table. Raises ``ConfigError``, which
    names the line and the nearest name.
    """
    from attune.config._document import Document

    root = Document.read(Path(name)).root
    root.check_keys(("tiers",))
    table = root.table("tiers")
    table.check_keys([tier.value for tier in ModelTier])
    ranks: dict[str, int] = {}
    for tier in table.values:
        for model in table.texts(tier):
            if model not in models:
                raise table.unknown("model", model, models, tier)
            if model in ranks:
                raise table.error(tier, f"{_shown(model)!r} is named twice; a model has one tier")
            ranks[model] = ModelTier(tier).rank
    if not ranks:
        raise root.error(None, 'no tiers: write [tiers] and in it, say, cheap = ["MODEL"]')
    return ranks

"""A TOML file whose every mistake can be named with its line.

``tomllib`` does not tell on which line a key stands, so the lines are found afterwards, when one
is asked for: statement by statement, each being a TOML document of its own.
"""

from __future__ import annotations

import functools
import tomllib
from typing import TYPE_CHECKING, Any, TypeAlias

from attune.errors import ConfigError, UnknownNameError
from attune.wire.redaction import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

__all__ = ["Document", "Table", "shown"]

MAX_BYTES = 256 * 1024
"""A configuration is written by hand; a file beyond this is a mistake."""

MAX_SHOWN_CHARS = 60

KeyPath: TypeAlias = "tuple[str | int, ...]"


def shown(name: str) -> str:
    """A name out of the file as a message may show it: one line, capped, nothing like a key in it."""
    return one_line(name)[:MAX_SHOWN_CHARS]


class Document:
    """The text of a file, parsed. Raises ``ConfigError`` if it is no TOML."""

    def __init__(self, file: Path, text: str) -> None:
        self.file = file
        self._text = text
        try:
            self.values = tomllib.loads(self._text)
        except (ValueError, RecursionError) as error:
            # ValueError also stands for numbers and dates that Python refuses to make.
            what = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise ConfigError(f"{file}: this is not valid TOML: {one_line(what)}") from None

    @classmethod
    def read(cls, file: Path) -> Document:
        """The document in a file. Raises ``ConfigError`` also if that cannot be read."""
        return cls(file, _read(file))

    @property
    def root(self) -> Table:
        """The table of everything."""
        return Table(self, self.values, ())

    @functools.cached_property
    def _lines(self) -> Mapping[KeyPath, int]:
        found: dict[KeyPath, int] = {}
        for path, number in _paths(self._text):
            found.setdefault(path, number)
        return found

    def line(self, path: KeyPath) -> int:
        """The line on which the statement that gives ``path`` begins."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    def where(self, path: KeyPath) -> str:
        """``FILE line N``."""
        return f"{self.file} line {self.line(path)}"


class Table:
    """One table of a document, read key by key. Every read raises ``ConfigError``."""

    def __init__(self, document: Document, values: Mapping[str, Any], path: KeyPath) -> None:
        self.document = document
        self.values = values
        self.path = path

    @property
    def label(self) -> str:
        """The table as TOML writes it: ``[providers.mine]``, ``[[models]]``."""
        names = [shown(str(part)) for part in self.path if isinstance(part, str)]
        return f"[[{'.'.join(names)}]]" if len(names) < len(self.path) else f"[{'.'.join(names)}]"

    def where(self, key: str | None = None) -> str:
        """``FILE line N`` of the table or of a key in it."""
        return self.document.where(self.path if key is None else (*self.path, key))

    def error(self, key: str | None, problem: str) -> ConfigError:
        """What to raise: the file, the line, the table and the key, and the problem.

        A table without this key is named itself: the key is missing.
        """
        name = f" {shown(key)}" if key is not None else ""
        label = self.label if self.path else ""
        return ConfigError(f"{self.where(key)}: {f'{label}{name}'.strip()}: {problem}")

    def unknown(self, kind: str, name: str, known: Iterable[str], key: str | None = None) -> ConfigError:
        """What to raise for a name that does not exist, with the nearest one."""
        return self.error(key, str(UnknownNameError(kind, shown(name), known)))

    def check_keys(self, known: Iterable[str]) -> None:
        """Refuse keys that nothing reads."""
        known = tuple(known)
        for key in self.values:
            if key not in known:
                what = "key" if self.path else "table"
                place = self.label if self.path else "the file"
                problem = UnknownNameError(what, shown(key), known, where=place)
                raise ConfigError(f"{self.where(key)}: {problem}")

    def text(self, key: str, default: str | None = None) -> str:
        """A text that is not empty; required where there is no default."""
        value = self.values.get(key, default)
        if value is None:
            raise self.error(None, f"{key} is missing")
        if not isinstance(value, str) or not value.strip():
            raise self.error(key, "must be a text in quotes, not empty")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """``true`` or ``false``."""
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "must be true or false")
        return value

    def number(self, key: str, default: float | None, low: float, high: float) -> float | None:
        """A number from ``low`` to ``high``."""
        value = self.values.get(key, default)
        if value is not None and (
            not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high
        ):
            raise self.error(key, f"must be a number from {low:g} to {high:g}")
        return value

    def whole(self, key: str, default: int | None, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``; required where there is no default."""
        value = self.values.get(key, default)
        if value is None:
            raise self.error(None, f"{key} is missing")
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(key, f"must be a whole number from {low} to {high}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of at least one text."""
        value = self.values[key]
        if not isinstance(value, list) or not value or not all(isinstance(v, str) and v for v in value):
            raise self.error(key, 'must be a list of at least one text, such as ["a", "b"]')
        return tuple(value)

    def table(self, key: str) -> Table:
        """A table within this one; an empty one if it is not there."""
        value = self.values.get(key, {})
        if not isinstance(value, dict):
            raise self.error(key, "must be a table")
        return Table(self.document, value, (*self.path, key))

    def named_tables(self) -> Iterator[tuple[str, Table]]:
        """Every table in this one, by its name."""
        return ((name, self.table(name)) for name in self.values)

    def tables(self, key: str) -> list[Table]:
        """A list of tables, ``[[key]]``; empty if it is not there."""
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.error(key, f"must be a list of tables: write [[{key}]]")
        return [Table(self.document, item, (*self.path, key, place)) for place, item in enumerate(value)]


def _read(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {file}: {error.strerror or error}") from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{file} is above {MAX_BYTES // 1024} KiB: too large to be a configuration")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{file} line {line}: this is not UTF-8 text; save the file as UTF-8") from None


def _paths(text: str) -> Iterator[tuple[KeyPath, int]]:
    """Every table and key of a valid document, with the line on which its statement begins."""
    table: KeyPath = ()
    places: dict[KeyPath, int] = {}
    for statement, number in _statements(text):
        keys = [path for path in _flat(tomllib.loads(statement), ()) if path]
        header = statement.lstrip()
        if header.startswith("["):
            table = _rooted(max(keys, key=len), places)
            if header.startswith("[["):
                places[table] = places.get(table, -1) + 1
                table = (*table, places[table])
            yield table, number
        else:
            for path in keys:
                yield (*table, *path), number


def _statements(text: str) -> Iterator[tuple[str, int]]:
    """The document cut into its smallest parts that are TOML by themselves, with their first lines."""
    waiting: list[str] = []
    start = 1
    for number, line in enumerate(text.split("\n"), 1):
        waiting.append(line)
        try:
            parsed = tomllib.loads("\n".join(waiting))
        except ValueError:
            continue  # within a text or a list of several lines
        if parsed:
            yield "\n".join(waiting), start
        waiting.clear()
        start = number + 1


def _flat(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    """The path of every key in nested tables, outer ones first."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, (*path, key))


def _rooted(path: KeyPath, places: Mapping[KeyPath, int]) -> KeyPath:
    """A table's path with the place of each list of tables that it lies in: the last one so far."""
    rooted: KeyPath = ()
    for part in path[:-1]:
        rooted = (*rooted, part)
        if rooted in places:
            rooted = (*rooted, places[rooted])
    return (*rooted, *path[-1:])

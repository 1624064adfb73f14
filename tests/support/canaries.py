"""Texts that may be in few places, and the search for them everywhere else: in any common encoding."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


def forms(text: str) -> set[bytes]:
    """A text as it may be written: plain, as JSON, in a URL, in hexadecimal, in base64 at any offset."""
    plain = text.encode()
    forms = {plain, json.dumps(text)[1:-1].encode(), quote(text, safe="").encode()}
    forms |= {plain.hex().encode(), plain.hex().upper().encode(), plain[::-1], text.encode("utf-16-le")}
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + plain)
        inner = encoded[4 if offset else 0 : len(encoded) // 4 * 4 - 4]  # without what neighbours change
        forms |= {inner, inner.replace(b"+", b"-").replace(b"/", b"_")}
    return forms


def leaks(places: Iterable[tuple[str, bytes]], canaries: Mapping[str, str]) -> list[str]:
    """Each canary that is in a place: ``canary in place``. ``canaries`` are the texts by their names."""
    wanted = {name: forms(text) for name, text in canaries.items()}
    return [
        f"{name} in {place}"
        for place, content in places
        for name, written in wanted.items()
        if any(form in content for form in written)
    ]


def files_below(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file of a folder, with its name."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield str(path.relative_to(folder)), path.read_bytes()


def descendants(pid: int) -> Iterator[int]:
    """The processes that a process has started, and those that they have."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            yield child
            yield from descendants(child)


def seen_in_proc(pid: int) -> Iterator[tuple[str, bytes]]:
    """What other programs of the machine may see of a process and its descendants: the command lines, and
    of descendants the environments that they were given.
    """
    yield "its command line", Path(f"/proc/{pid}/cmdline").read_bytes()
    for child in descendants(pid):
        for file in ("cmdline", "environ"):
            yield f"{file} of a child", Path(f"/proc/{child}/{file}").read_bytes()

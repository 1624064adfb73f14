"""Large JSON in steps: no call into C works on more than a piece, so that other threads get their turn.

``msgspec`` keeps the interpreter lock for as long as a call takes, which is 20 to 30 ms for 10 MB of text: a
thread alone does not keep the event loop free. Here the same is done piece by piece: the outermost fields
first, as they are, then each of them, down to slices of long texts. What remains whole is finding the ends of
a value, 3 ms for 10 MB, and putting a text together, 5 ms. Before a step the loop has its turn (``turns``).
"""

from __future__ import annotations

import re
from functools import lru_cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

import msgspec

from attune.wire.turns import turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ["STEP", "Pieces", "decode", "encode"]

STEP = 256 * 1024
"""Bytes of JSON, or characters of a text, that are worked on in one go: below a millisecond."""

_TEXTS = (str, msgspec.Raw)  # made once: this is asked of every field of every request
_MANY = 64
_TAIL = 64
_LONGEST_ESCAPE = 6
_BETWEEN = re.compile(
    rb"(?<=[^\\])(?=\\(?!u[dD][c-fC-F]))"  # before an escape, but for the second half of a surrogate pair
    rb"|(?=[\xc0-\xff])"  # before a character of several bytes
    rb"|(?<=[\x20-\x5b\x5d-\x7f]{6})"  # after more than any escape has
)
_AT_PATH = re.compile(r"(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?", re.DOTALL)
_objects = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_arrays = msgspec.json.Decoder(list[msgspec.Raw]).decode
_texts = msgspec.json.Decoder(str).decode


class Pieces(list[str]):
    """A text in pieces, which ``encode`` writes as the one text that they make."""


def decode(raw: bytes | msgspec.Raw, kind: Any, where: str = "$") -> Any:
    """What ``msgspec.json.decode(raw, type=kind)`` gives, and raises.

    ``kind`` is a struct, ``str``, a list of such, or a union of these and anything small; ``where`` is the
    path for errors. Of two errors in one text it may be the other that is raised.
    """
    if kind is msgspec.Raw and isinstance(raw, msgspec.Raw):
        return raw
    if len(raw) <= STEP:
        return _whole(raw, kind, where)
    named = _members(kind)
    match bytes(memoryview(raw)[:1]):
        case b"{" if "{" in named:
            return _struct(_placed(_objects, raw, where), named["{"], where)
        case b"[" if "[" in named:
            items = _placed(_arrays, raw, where)
            return [decode(item, named["["], f"{where}[{place}]") for place, item in enumerate(items)]
        case b'"' if '"' in named:
            texts = [_placed(_texts, piece, where) for piece in _pieces(memoryview(raw))]
            turn()
            return "".join(texts)
    return _whole(raw, kind, where)


def encode(value: Any, enc_hook: Callable[[Any], Any] | None = None) -> bytes:
    """What ``msgspec.json.encode(value, enc_hook=enc_hook)`` gives, and raises."""
    if not _is_long(value):
        return msgspec.json.encode(value, enc_hook=enc_hook)
    whole = msgspec.json.Encoder(enc_hook=enc_hook).encode
    return b"".join(_encoded(value, whole))


def _struct(fields: Mapping[str, msgspec.Raw], kind: Any, where: str) -> Any:
    kinds = _fields_of(kind)
    values = {
        name: decode(raw, kinds[name].type, f"{where}.{name}")
        for name, raw in fields.items()
        if name in kinds
    }
    for name, field in kinds.items():
        if name not in values and field.required:
            raise _invalid(f"Object missing required field `{name}`", where)
    return kind(**values)


def _whole(raw: bytes | msgspec.Raw, kind: Any, where: str) -> Any:
    return _placed(_decoder(kind), raw, where)


def _placed(decode_: Callable[[Any], Any], raw: Any, where: str) -> Any:
    """What ``decode_`` gives; its errors say where in the whole they are."""
    turn()
    try:
        return decode_(raw)
    except msgspec.ValidationError as error:
        found = _AT_PATH.fullmatch(str(error))
        what, path = (found["what"], found["path"] or "") if found else (str(error), "")
        raise _invalid(what, where + path) from None


def _invalid(what: str, where: str) -> msgspec.ValidationError:
    return msgspec.ValidationError(what if where == "$" else f"{what} - at `{where}`")


@lru_cache(maxsize=64)
def _decoder(kind: Any) -> Callable[[Any], Any]:
    return msgspec.json.Decoder(kind).decode


@lru_cache(maxsize=64)
def _fields_of(kind: Any) -> dict[str, msgspec.structs.FieldInfo]:
    return {field.encode_name: field for field in msgspec.structs.fields(kind)}


@lru_cache(maxsize=64)
def _members(kind: Any) -> dict[str, Any]:
    """By the first character of a value, which member of ``kind`` takes it; of a list its items' kind."""
    members = get_args(kind) if get_origin(kind) in {Union, UnionType} else (kind,)
    found: dict[str, Any] = {}
    for member in members:
        if member is str:
            found['"'] = str
        elif get_origin(member) is list:
            found["["] = get_args(member)[0]
        elif isinstance(member, type) and issubclass(member, msgspec.Struct):
            found["{"] = member
        elif member is not NoneType and member is not msgspec.UnsetType:
            return {}  # takes anything: as it is
    return found


def _pieces(text: memoryview) -> Iterator[bytes]:
    """A JSON string cut into JSON strings, never within a character."""
    start, end = 1, len(text) - 1
    while start < end:
        stop = _cut(text, start + STEP)
        yield b"".join((b'"', text[start:stop], b'"'))
        start = stop


def _cut(text: memoryview, near: int) -> int:
    """A place at or shortly before ``near``, or some steps after it, where no character is cut in two."""
    end = len(text) - 1
    while near < end:
        begin = near - _TAIL
        found = _BETWEEN.finditer(text[begin : near + _LONGEST_ESCAPE])
        if places := [each.end() for each in found if each.end() <= _TAIL]:
            return begin + places[-1]
        near += STEP  # nothing but backslashes
    return end


def _encoded(value: Any, whole: Callable[[Any], bytes]) -> Iterator[bytes]:
    turn()
    if not _is_long(value):
        yield whole(value)
    elif isinstance(value, str):
        yield from _text([value], whole)
    elif isinstance(value, Pieces):
        yield from _text(value, whole)
    elif isinstance(value, msgspec.Raw):
        given = memoryview(value)
        yield from (bytes(given[start : start + STEP]) for start in range(0, len(given), STEP))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield b"," if place else b"["
            yield from _encoded(item, whole)
        yield b"]"
    else:
        for place, (name, item) in enumerate(value.items()):
            yield b"%b%b:" % (b"," if place else b"{", whole(name))
            yield from _encoded(item, whole)
        yield b"}"


def _text(pieces: Sequence[str], whole: Callable[[Any], bytes]) -> Iterator[bytes]:
    yield b'"'
    for first in range(0, len(pieces), _MANY):
        text = "".join(pieces[first : first + _MANY])
        for start in range(0, len(text), STEP):
            turn()
            yield whole(text[start : start + STEP])[1:-1]
    yield b'"'


def _is_long(value: Any) -> bool:
    if isinstance(value, _TEXTS):
        return len(value) > STEP
    if isinstance(value, Pieces):
        return True
    if isinstance(value, list):
        return len(value) > _MANY or any(map(_is_long, value))
    return isinstance(value, dict) and any(map(_is_long, value.values()))

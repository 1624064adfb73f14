"""Strategies for bodies that are nearly right: a sound one with parts replaced by what hurts parsers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Shown", "Verbatim", "encoded", "mutated", "spoilt"]


class Verbatim(NamedTuple):
    """JSON text, or what is none, that is written as it is."""

    text: bytes


class Shown(bytes):
    """Bytes of which a failure shows no more than can be read."""

    def __repr__(self) -> str:
        return repr(bytes(self)) if len(self) < 3000 else f"{bytes(self[:1500])!r} ... {bytes(self[-300:])!r}"


HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, "", "x", " ", [], {}, [[]], [None], [{}], {"": None}, {"type": "x"}),
    *(10**18, 2**63 - 1, 2**63, 2**64, 10**30, -(10**30), 1e308, "a\nb", "\u0000", "\u2028", "é" * 300),
    *("auto", "null", "NaN", "data:image/png;base64,!!", {"type": 7}, [1, "a", None], {"a": {"b": [1, {}]}}),
    *({"type": "object", "required": 5, "additionalProperties": False}, {"required": [[]], "properties": []}),
    Verbatim(b"1e400"),
    Verbatim(b"1e-400"),
    Verbatim(b"-0"),
    Verbatim(b"1.0"),
    Verbatim(b"1" * 400),
    Verbatim(b"1" * 5000),
    Verbatim(b'"\\u0000"'),
    Verbatim(b'{"type":"text","type":7}'),
    Verbatim(b'{"a":1,"a":2}'),
    Verbatim(b"{" + b'"a":1,' * 3000 + b'"a":1}'),
    Verbatim(b'{"' + b"k" * 70_000 + b'":1}'),
    *(Verbatim(b"[" * depth + b"]" * depth) for depth in (50, 300, 450, 900, 980, 1000, 20_000)),
    *(Verbatim(b'{"a":' * depth + b"1" + b"}" * depth) for depth in (50, 300, 450, 900, 980, 1000, 20_000)),
)
NO_JSON = (
    *(Verbatim(text) for text in (b"NaN", b"-Infinity", b"01", b"'x'", b"", b'"\x00"', b"\xff", b"tru")),
    *(Verbatim(text) for text in (b'"\\ud800"', b'"\\udc00\\ud800"', b'{"\\ud800":1}')),
    *(Verbatim(text) for text in (b'"\xff"', b'{"\xff":"\xc3"}', b'"\xed\xa0\x80"')),
)
SPOILINGS = ("mark", "cut", "followed", "flipped", "encoded")
KEYS = ("", "x", "type", "role", "content", "model", "stream", "é", "\n", "__class__", "k" * 500)


def encoded(value: Any) -> bytes:
    """``value`` as JSON, but for what is ``Verbatim`` in it."""
    if isinstance(value, Verbatim):
        return value.text
    if isinstance(value, dict):
        return b"{%b}" % b",".join(json.dumps(k).encode() + b":" + encoded(v) for k, v in value.items())
    if isinstance(value, list):
        return b"[%b]" % b",".join(map(encoded, value))
    return json.dumps(value, ensure_ascii=False).encode()


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from _places(each, (*path, key))


def _changed(value: Any, path: tuple[Any, ...], new: Any, *, drop: bool) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    if drop and len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = _changed(value[path[0]], path[1:], new, drop=drop)
    return copy


@st.composite
def mutated(draw: st.DrawFn, value: Any, most: int = 3) -> Any:
    """``value`` with up to ``most`` of its parts replaced, left out, doubled or added to."""
    for _ in range(draw(st.integers(0, most))):
        path = draw(st.sampled_from(list(_places(value))[1:] or [()]))
        new = draw(st.sampled_from((*HOSTILE, *HOSTILE, *HOSTILE, *NO_JSON)))
        match draw(st.sampled_from(("replace", "replace", "replace", "drop", "add", "double"))):
            case "add":
                parent = value
                for key in path[:-1]:
                    parent = parent[key]
                added = {**parent, draw(st.sampled_from(KEYS)): new} if isinstance(parent, dict) else new
                value = _changed(value, path[:-1], added, drop=False)
            case "double" if path and isinstance(path[-1], str):
                key = json.dumps(path[-1]).encode()
                parent = value
                for step in path[:-1]:
                    parent = parent[step]
                twice = encoded(parent)[:-1] + b"," + key + b":" + encoded(new) + b"}"
                value = _changed(value, path[:-1], Verbatim(twice), drop=False)
            case how:
                value = _changed(value, path, new, drop=how == "drop")
        if not isinstance(value, dict):
            break
    return value


def spoilt(content: bytes) -> st.SearchStrategy[Shown]:
    """``content``, most often as it is, or with its bytes cut, prefixed, followed or flipped."""
    return _spoilt(content).map(Shown)


@st.composite
def _spoilt(draw: st.DrawFn, content: bytes) -> bytes:
    match draw(st.sampled_from((*SPOILINGS, *(["none"] * 20)))):
        case "mark":
            return b"\xef\xbb\xbf" + content
        case "cut":
            return content[: draw(st.integers(0, len(content)))]
        case "followed":
            return content + draw(st.sampled_from((b"x", b"{}", b"\x00", b"\n\n ", b"\xff")))
        case "flipped":
            place = draw(st.integers(0, len(content) - 1))
            return content[:place] + draw(st.binary(min_size=1, max_size=3)) + content[place + 1 :]
        case "encoded":
            return content.decode("utf-8", "replace").encode(draw(st.sampled_from(("utf-16", "utf-32"))))
        case _:
            return content

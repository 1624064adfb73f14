"""What weighs that of a request which is not read: documents, sound, and blocks of types that nobody knows.

Only the provider knows what they cost. Taken for nothing they would pass every limit, so each is taken for
what it may cost: by what the providers document where that can be counted, else by its bytes.
"""

from __future__ import annotations

import re
import zlib
from binascii import Error as Base64Error
from binascii import a2b_base64
from typing import TYPE_CHECKING, Any

import msgspec

from attune.models.request import BYTES_PER_TOKEN, IMAGE_TOKENS
from attune.wire.errors import MALFORMED
from attune.wire.steps import STEP, decode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["PAGE_TOKENS", "unread_tokens"]

PAGE_TOKENS = 3000
"""Tokens assumed for a page of a PDF, its text and its picture: the most that Anthropic documents for the
text of one; with the picture 2,500 were measured for a dense page, and far fewer by others.
"""

BYTES_PER_PAGE = 4096
MOST_PAGES = 100
"""Of a PDF whose pages cannot be counted: how few bytes a page has, and the most pages that are assumed."""

REFERRED_PAGES = 10
"""Pages assumed of a document that is only referred to, by an address or an id: a guess."""

SOUND_TOKENS = 32
"""Tokens of a second of sound, as Google documents; OpenAI counts fewer."""

_SOUND_BYTES = {"wav": 16_000, "pcm16": 16_000}
_LEAST_SOUND_BYTES = 4000  # a second at 32 kbit/s; those above at 8 kHz and 16 bits

_OVERLAP = 64 * 1024
_MOST_INFLATED = 16 * 1024 * 1024
_DEEPEST = 3
_PAGE = re.compile(rb"/Type\s*/Page(?![A-Za-z])")
_PACKED = re.compile(rb"/Type\s*/ObjStm\b.{0,400}?\bstream\r?\n", re.DOTALL)
_NOTHING = msgspec.Raw(b"null")


class _Item(msgspec.Struct):
    """A message, an input item or a block of any protocol; what may hold more of it."""

    type: str = "message"
    content: msgspec.Raw = _NOTHING
    output: msgspec.Raw = _NOTHING
    source: msgspec.Raw = _NOTHING
    file: msgspec.Raw = _NOTHING
    input_audio: msgspec.Raw = _NOTHING
    image_url: msgspec.Raw = _NOTHING


class _Held(msgspec.Struct):
    """What a block holds, or refers to."""

    type: str = ""
    data: msgspec.Raw = _NOTHING
    file_data: msgspec.Raw = _NOTHING
    format: str = ""


def unread_tokens(fields: Mapping[str, Any]) -> int:
    """The tokens that what is not read of a client's ``fields`` may cost, estimated rather too high.

    What is read weighs nothing here.
    """
    lists = (fields[name] for name in ("system", "messages", "input") if name in fields)
    return sum(_weight(raw, 0) for each in lists for raw in _items(each))


def _items(raw: msgspec.Raw) -> Iterator[msgspec.Raw]:
    if bytes(memoryview(raw)[:1]) == b"[":
        yield from decode(raw, list[msgspec.Raw])


def _weight(raw: msgspec.Raw, depth: int) -> int:
    try:
        item: _Item = decode(raw, _Item)
        return _weight_of(item, raw, depth)
    except MALFORMED:
        return _by_bytes(raw)


def _weight_of(item: _Item, raw: msgspec.Raw, depth: int) -> int:
    match item.type:
        case "message" | "tool_result" | "function_call_output" if depth < _DEEPEST:
            held = (*_items(item.content), *_items(item.output))
            return sum(_weight(each, depth + 1) for each in held)
        case kind if kind in _READ:
            return 0
        case "image":
            return 0 if decode(item.source, _Held).type in {"url", "base64"} else IMAGE_TOKENS
        case "image_url" | "input_image":
            return IMAGE_TOKENS if item.image_url == _NOTHING else 0
        case "computer_call_output" | "image_generation_call":
            return IMAGE_TOKENS
        case "document":
            return _document(item.source)
        case "file":
            return _document(item.file)
        case "input_file":
            return _document(raw)
        case "input_audio":
            return _sound(item.input_audio)
        case _:
            return _by_bytes(raw)


_READ = frozenset(
    (
        *("text", "refusal", "thinking", "redacted_thinking", "tool_use"),
        *("input_text", "output_text", "reasoning", "function_call"),
    )
)


def _by_bytes(raw: msgspec.Raw | memoryview) -> int:
    return -(-len(raw) // BYTES_PER_TOKEN)


def _document(raw: msgspec.Raw) -> int:
    held: _Held = decode(raw, _Held)
    data = held.file_data if held.data == _NOTHING else held.data
    if data == _NOTHING:
        return REFERRED_PAGES * PAGE_TOKENS if held.type != "content" else _by_bytes(raw)
    encoded = _encoded(data)
    if bytes(encoded[:5]) != b"JVBER":  # how every PDF begins, in base64
        return _by_bytes(encoded)
    pages = _pages(encoded) or min(-(-len(encoded) * 3 // 4 // BYTES_PER_PAGE), MOST_PAGES)
    return pages * PAGE_TOKENS


def _sound(raw: msgspec.Raw) -> int:
    held: _Held = decode(raw, _Held)
    size = len(_encoded(held.data)) * 3 // 4
    return -(-size * SOUND_TOKENS // _SOUND_BYTES.get(held.format, _LEAST_SOUND_BYTES))


def _encoded(data: msgspec.Raw) -> memoryview:
    """The base64 in a JSON string, be it alone or in a data URL."""
    text = memoryview(data)[1:-1]
    head = bytes(text[:200])
    return text[head.index(b",") + 1 :] if head.startswith(b"data:") and b"," in head else text


def _pages(encoded: memoryview) -> int:
    """How many pages a PDF has; 0 where none can be found, as in an encrypted one."""
    found, room, window, rest = 0, _MOST_INFLATED, b"", b""
    for start in range(0, len(encoded), STEP):
        text = rest + bytes(encoded[start : start + STEP]).replace(b"\\", b"")  # JSON may escape slashes
        whole = len(text) // 4 * 4
        try:
            window += a2b_base64(text[:whole])
        except Base64Error:
            break
        rest = text[whole:]
        # What begins in the overlap is found the next time, with all that follows it.
        end = len(window) - _OVERLAP if start + STEP < len(encoded) else len(window)
        found += sum(each.start() < end for each in _PAGE.finditer(window))
        for packed in _PACKED.finditer(window):
            if packed.start() < end and room > 0:
                objects = _inflated(window[packed.end() : packed.end() + _OVERLAP], min(room, STEP))
                room -= max(len(objects), _OVERLAP // 16)  # looking for some takes its time too
                found += len(_PAGE.findall(objects))
        window = window[max(end, 0) :]
    return found


def _inflated(packed: bytes, most: int) -> bytes:
    try:
        return zlib.decompressobj().decompress(packed, most)
    except zlib.error:
        return b""

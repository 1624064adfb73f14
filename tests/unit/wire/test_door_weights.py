"""What a door does not read of a request is weighed before the call: documents, sound, and the unknown."""

import base64
import json
import zlib
from typing import Any

import pytest

from attune.models.request import IMAGE_TOKENS, LLMRequest
from attune.tokens import count_request
from attune.wire.chat_door import ChatDoor
from attune.wire.messages_door import MessagesDoor
from attune.wire.responses_door import ResponsesDoor
from attune.wire.weights import PAGE_TOKENS

PAGE = b"<< /Type /Page /Parent 2 0 R >>\n"


def pdf(pages: int, *, packed: bool = False, padding: int = 0) -> bytes:
    """The bytes of a PDF as far as its pages are concerned."""
    objects = b"<< /Type /Pages /Count 9 >>\n" + PAGE * pages
    if packed:
        content = zlib.compress(objects)
        objects = b"<< /Type /ObjStm /N 5 /First 9 >>\nstream\r\n%b\nendstream\n" % content
    return b"%%PDF-1.7\n%b\n%b" % (b"\n" * padding, objects)


def text_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def in_messages(*blocks: dict[str, Any]) -> LLMRequest:
    said = [{"role": "user", "content": [{"type": "text", "text": "four"}, *blocks]}]
    body = {"model": "m", "max_tokens": 9, "messages": said}
    return MessagesDoor().read(json.dumps(body).encode()).request


def in_chat(*parts: dict[str, Any]) -> LLMRequest:
    said = [{"role": "user", "content": [{"type": "text", "text": "four"}, *parts]}]
    return ChatDoor().read(json.dumps({"model": "m", "messages": said}).encode()).request


def in_responses(*items: dict[str, Any]) -> LLMRequest:
    said = [{"role": "user", "content": [{"type": "input_text", "text": "four"}]}, *items]
    return ResponsesDoor().read(json.dumps({"model": "m", "input": said}).encode()).request


def document(content: bytes) -> dict[str, Any]:
    source = {"type": "base64", "media_type": "application/pdf", "data": text_of(content)}
    return {"type": "document", "source": source}


def file(content: bytes) -> dict[str, Any]:
    url = f"data:application/pdf;base64,{text_of(content)}"
    return {"type": "file", "file": {"filename": "a.pdf", "file_data": url}}


def input_file(content: bytes) -> dict[str, Any]:
    url = f"data:application/pdf;base64,{text_of(content)}"
    return {"role": "user", "content": [{"type": "input_file", "filename": "a.pdf", "file_data": url}]}


def unread(request: LLMRequest) -> int:
    return request.estimated_input_tokens() - 1


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("padding", [0, 196_590, 700_000])  # the pages lie across a step, or behind some
def test_a_pdf_weighs_its_pages_in_every_protocol(*, packed: bool, padding: int) -> None:
    content = pdf(7, packed=packed, padding=padding)
    assert unread(in_messages(document(content))) == 7 * PAGE_TOKENS
    assert unread(in_chat(file(content))) == 7 * PAGE_TOKENS
    assert unread(in_responses(input_file(content))) == 7 * PAGE_TOKENS


def test_a_pdf_whose_pages_cannot_be_counted_weighs_by_its_bytes_up_to_a_hundred_pages() -> None:
    assert unread(in_chat(file(pdf(0, padding=5000)))) == 2 * PAGE_TOKENS
    assert unread(in_chat(file(pdf(0, padding=5_000_000)))) == 100 * PAGE_TOKENS
    broken = b"%PDF-1.7 /Type /ObjStm stream\n" + b"no deflate" * 100
    assert unread(in_chat(file(broken))) == PAGE_TOKENS


def test_a_body_with_escaped_slashes_has_the_same_pages() -> None:
    content = pdf(3) + b"\xff" * 3000  # whose base64 is slashes
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": [file(content)]}]})
    escaped = body.replace("/", "\\/").encode()
    assert ChatDoor().read(escaped).request.estimated_input_tokens() == 3 * PAGE_TOKENS


def test_base64_that_is_none_is_weighed_by_its_bytes() -> None:
    data = text_of(pdf(3))[:-1]  # the padding is cut
    source = {"type": "base64", "media_type": "application/pdf", "data": data + "="}
    assert unread(in_messages({"type": "document", "source": source})) >= PAGE_TOKENS


def test_packed_objects_are_inflated_only_so_far() -> None:
    bomb = zlib.compress(PAGE * 1_000_000, 9)[:60_000]
    content = b"%PDF-1.7\n" + (b"<< /Type /ObjStm >>\nstream\n" + bomb) * 200
    assert 0 < unread(in_chat(file(content))) < 600_000 * PAGE_TOKENS


@pytest.mark.parametrize(
    ("block", "tokens"),
    [
        ({"type": "document", "source": {"type": "url", "url": "https://a.example/b.pdf"}}, 10 * PAGE_TOKENS),
        ({"type": "document", "source": {"type": "file", "file_id": "f1"}}, 10 * PAGE_TOKENS),
        ({"type": "document", "source": {"type": "text", "data": "word" * 1000}}, 1000),
        ({"type": "image", "source": {"type": "file", "file_id": "f1"}}, IMAGE_TOKENS),
    ],
)
def test_other_documents_of_messages(block: dict[str, Any], tokens: int) -> None:
    assert unread(in_messages(block)) == tokens
    nested = {"type": "tool_result", "tool_use_id": "t", "content": [block]}
    assert unread(in_messages(nested)) == tokens


def test_what_is_read_is_not_weighed_twice() -> None:
    image = {"type": "image", "source": {"type": "url", "url": "https://a.example/b.png"}}
    thought = {"type": "thinking", "thinking": "long" * 1000, "signature": "s"}
    unknown = {"type": "something_new", "x": "y"}
    alone = unread(in_messages(unknown))
    assert 0 < alone < 20
    assert unread(in_messages(image, thought, unknown)) == alone + IMAGE_TOKENS + 1000


def test_sound_weighs_what_the_least_bytes_of_its_format_can_say() -> None:
    def sound(form: str) -> dict[str, Any]:
        return {"type": "input_audio", "input_audio": {"format": form, "data": text_of(bytes(480_000))}}

    assert unread(in_chat(sound("wav"))) == 960  # 30 s at 8 kHz
    assert unread(in_chat(sound("mp3"))) == 3840  # two minutes at 32 kbit/s


@pytest.mark.parametrize(
    ("item", "tokens"),
    [
        ({"type": "computer_call_output", "output": {"image_url": "data:," + "A" * 90_000}}, 1600),
        ({"type": "image_generation_call", "result": "A" * 90_000}, 1600),
        ({"type": "function_call_output", "output": [{"type": "input_file", "file_id": "f"}]}, 30_000),
        ({"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}, 1600),
        ({"type": "tomorrow", "text": "x" * 3970}, 1000),
    ],
)
def test_items_of_responses_that_are_not_read(item: dict[str, Any], tokens: int) -> None:
    assert abs(unread(in_responses(item)) - tokens) <= 1


@pytest.mark.parametrize("block", [{"type": "document", "source": 7}, {"type": "file", "file": [9]}])
def test_a_block_that_makes_no_sense_is_weighed_by_its_bytes(block: dict[str, Any]) -> None:
    assert 0 < unread(in_messages(block)) < 30


def test_blocks_in_blocks_without_end_are_weighed() -> None:
    block: dict[str, Any] = {"type": "something_new", "x": "y" * 400}
    for _ in range(20):
        block = {"type": "tool_result", "tool_use_id": "t", "content": [block]}
    assert 100 < unread(in_messages(block)) < 1000


def test_a_count_of_tokens_has_the_documents_in_it() -> None:
    assert count_request(in_messages(document(pdf(5))), "claude-opus-5-5") > 5 * PAGE_TOKENS

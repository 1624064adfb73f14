import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attune.errors import StreamBrokenError
from attune.wire.sse import SSEParser

STREAM = (
    ": connected\n\n"
    'event: message_start\ndata: {"text": "gr\u00fc\u00dfe \U0001f30d"}\n\n'
    "data: first\ndata: second\nid: 7\nretry: 10\n\n"
    "data:no space\r\n\r\n"
    "event: crlf\r\ndata: a\r\ndata: b\r\n\r\n"
    "data: cr\r\r"
    "data: [DONE]\n\n"
).encode()


def parse(chunks: list[bytes]) -> tuple[list[tuple[str, bytes]], bytes]:
    parser = SSEParser()
    events = [event for chunk in chunks for event in parser.feed(chunk)]
    raw = b"".join(event.raw for event in events) + parser.rest
    return [(e.event, e.data) for e in events if e.data], raw


def test_an_event_has_its_name_and_its_data_lines_joined() -> None:
    events, raw = parse([STREAM])
    assert events == [
        ("message_start", '{"text": "gr\u00fc\u00dfe \U0001f30d"}'.encode()),
        ("", b"first\nsecond"),
        ("", b"no space"),
        ("crlf", b"a\nb"),
        ("", b"cr"),
        ("", b"[DONE]"),
    ]
    assert raw == STREAM


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_the_events_and_the_bytes_are_the_same_at_any_chunk_boundaries(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    chunks = [STREAM[a:b] for a, b in itertools.pairwise(places)]
    assert parse(chunks) == parse([STREAM])


def test_the_events_are_the_same_byte_by_byte() -> None:
    assert parse([bytes([byte]) for byte in STREAM]) == parse([STREAM])


@given(st.lists(st.sampled_from([b"data: x", b"\n", b"\r", b"\r\n", b": c", b"event: e", b"\xff", b"\xf0"])))
def test_no_byte_is_lost_or_added_whatever_arrives(pieces: list[bytes]) -> None:
    assert parse(pieces)[1] == b"".join(pieces)


def test_a_comment_alone_is_an_event_without_data() -> None:
    (event,) = SSEParser().feed(b": ping\n\n")
    assert event == ("", b"", b": ping\n\n")


def test_a_byte_order_mark_does_not_hide_the_first_field() -> None:
    (event,) = SSEParser().feed(b"\xef\xbb\xbfdata: x\n\n")
    assert event.data == b"x"


def test_an_event_that_is_not_complete_is_kept_back() -> None:
    parser = SSEParser()
    assert list(parser.feed(b"data: [DONE]\n")) == []
    assert parser.rest == b"data: [DONE]\n"


@pytest.mark.parametrize("ending", [b"", b"\n\n"])
def test_an_event_above_the_limit_is_an_error_and_not_a_growing_buffer(ending: bytes) -> None:
    parser = SSEParser(max_event_bytes=100)
    with pytest.raises(StreamBrokenError, match="above 100 bytes"):
        list(parser.feed(b"data: " + b"x" * 100 + ending))


def test_the_events_before_one_that_is_too_large_are_still_given() -> None:
    events = SSEParser(max_event_bytes=100).feed(b"data: a\n\ndata: " + b"x" * 100)
    assert next(events).data == b"a"
    with pytest.raises(StreamBrokenError):
        next(events)

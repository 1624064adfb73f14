import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attune.errors import StreamBrokenError
from attune.models.executor import EventKind, StreamEvent
from attune.wire import chat, decoder, messages, responses
from attune.wire.decoder import MAX_BODY_BYTES, BodyDecoder, StreamDecoder
from attune.wire.errors import ErrorMapper
from support.upstream import Answer, chat_body, chat_stream, messages_stream
from support.upstream_responses import responses_stream

ERRORS = ErrorMapper("mine", "m")
ANSWER = Answer(text="gr\u00fc\u00dfe \U0001f30d", thinking="hmm", tool_calls=(("c1", "get", '{"a":1}'),))
STREAMS = {
    chat.ChatDecoder: b"".join(chat_stream(ANSWER)),
    responses.ResponsesDecoder: b"".join(responses_stream(ANSWER)),
    messages.MessagesDecoder: b"".join(messages_stream(ANSWER)),
}
each = pytest.mark.parametrize("decoder_class", STREAMS, ids=lambda cls: cls.__name__)


def run(reader: StreamDecoder, *chunks: bytes) -> list[StreamEvent]:
    return [event for chunk in chunks for event in reader.feed(chunk)] + list(reader.finish())


@each
def test_a_stream_cut_at_any_byte_never_has_a_terminal(decoder_class: type[StreamDecoder]) -> None:
    stream = STREAMS[decoder_class]
    for length in range(len(stream)):
        events = run(decoder_class(ERRORS), stream[:length])
        assert EventKind.TERMINAL not in {event.kind for event in events}, length
    assert run(decoder_class(ERRORS), stream)[-1].kind is EventKind.TERMINAL


@each
@settings(max_examples=60)
@given(cuts=st.lists(st.integers(0, 8000), max_size=10))
def test_the_events_are_the_same_at_any_chunk_boundaries(
    decoder_class: type[StreamDecoder], cuts: list[int]
) -> None:
    stream = STREAMS[decoder_class]
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[places[i] : places[i + 1]] for i in range(len(places) - 1)]
    assert run(decoder_class(ERRORS), *chunks) == run(decoder_class(ERRORS), stream)


def test_a_body_is_decoded_at_its_end() -> None:
    body = chat_body(ANSWER, "m")
    reader = BodyDecoder(chat.decode_body, ERRORS)
    assert list(reader.feed(body[:10])) == list(reader.feed(body[10:])) == []
    assert [event.kind for event in reader.finish()][-1] is EventKind.TERMINAL


def test_a_body_above_the_limit_is_refused_before_it_is_whole() -> None:
    reader = BodyDecoder(chat.decode_body, ERRORS)
    chunk = bytes(MAX_BODY_BYTES // 4)
    for _ in range(4):
        reader.feed(chunk)
    with pytest.raises(StreamBrokenError, match=f"mine/m: the answer is above {MAX_BODY_BYTES} bytes"):
        reader.feed(b"x")


@each
def test_a_stream_whose_content_does_not_end_is_refused(
    decoder_class: type[StreamDecoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "MAX_CONTENT_BYTES", 500)
    with pytest.raises(StreamBrokenError, match="mine/m: the content of the answer is above 500 bytes"):
        run(decoder_class(ERRORS), STREAMS[decoder_class])


def test_pings_are_no_content_however_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "MAX_CONTENT_BYTES", 500)
    events = run(chat.ChatDecoder(ERRORS), b": keep-alive\n\n" * 100)
    assert {event.kind for event in events} == {EventKind.PING}

"""Embeddings: what a door reads of a request, and what an answer amounts to."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attune.errors import InvalidRequestError, StreamBrokenError
from attune.models.executor import EventKind, Terminal
from attune.models.registry import ModelInfo, ModelTier
from attune.models.telemetry import TokenUsage
from attune.wire.carrying import carried, only_here, protocol_for
from attune.wire.embeddings import EmbeddingRequest, decode_body, embeddings_body
from attune.wire.embeddings_door import EmbeddingsDoor
from attune.wire.errors import ErrorMapper

DOOR = EmbeddingsDoor()
ERRORS = ErrorMapper("mine", "m")
MODEL = ModelInfo("m", "mine", ModelTier.CHEAP, 8192, 1, frozenset({"embeddings"}))
jsons = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def read(**fields: Any) -> EmbeddingRequest:
    request = DOOR.read(json.dumps({"model": "alias", "input": "x"} | fields).encode()).request
    assert isinstance(request, EmbeddingRequest)
    return request


@pytest.mark.parametrize(
    ("inputs", "tokens"),
    [
        ("x" * 398, 100),
        (["x" * 196, "x" * 196], 100),
        ([5], 1),
        ([5, 6, 7], 3),
        ([[5, 6], [7, 8, 9]], 5),
        ("", 1),
    ],
)
def test_the_size_is_bytes_by_four_of_texts_and_the_number_of_token_ids(inputs: Any, tokens: int) -> None:
    assert read(input=inputs).estimated_input_tokens() == tokens


def test_a_request_needs_the_one_ability_and_keeps_what_it_is_when_it_is_changed() -> None:
    request = read(input=[1, 2]).streaming()
    assert isinstance(request, EmbeddingRequest)
    assert (request.needs, request.estimated_input_tokens()) == (frozenset({"embeddings"}), 2)
    assert request.bound_to == ""


def test_no_other_protocol_can_say_it() -> None:
    request = read()
    assert request.source is not None
    assert only_here(request.source)
    assert carried(request.source, "embeddings").dropped == ()
    assert protocol_for(request, MODEL, ("responses", "chat", "embeddings")) == "embeddings"
    for other in ("chat", "responses", "messages"):
        with pytest.raises(InvalidRequestError, match="cannot be asked for embeddings"):
            carried(request.source, other)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=8), jsons, max_size=5), jsons)
def test_whatever_is_asked_only_the_model_is_changed(fields: dict[str, Any], inputs: Any) -> None:
    request = read(**(fields | {"model": "alias", "input": inputs}))
    sent = json.loads(embeddings_body(request, MODEL, errors=ERRORS))
    assert sent == {**fields, "model": "m", "input": inputs}
    assert request.estimated_input_tokens() >= 1


@given(st.binary(max_size=40) | jsons.map(lambda value: json.dumps(value).encode()))
def test_what_is_no_request_is_refused_in_one_line(body: bytes) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        DOOR.read(body)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 7, "total_tokens": 9}, 7),
        ({"total_tokens": 9}, 9),
        ({"prompt_tokens": 0, "total_tokens": 0}, None),
        ({"prompt_tokens": -1}, None),
        ({}, None),
        (None, None),
    ],
)
def test_an_answer_is_its_bytes_then_its_usage_then_its_end(usage: Any, tokens: int | None) -> None:
    body = json.dumps({"data": [{"embedding": "AAAA"}], "usage": usage, "error": None}, indent=2).encode()
    content, *between, end = decode_body(body, ERRORS)
    assert (content.kind, content.raw) == (EventKind.CONTENT, body)
    assert [each.parsed for each in between] == ([] if tokens is None else [TokenUsage(tokens)])
    assert (end.kind, end.parsed) == (EventKind.TERMINAL, Terminal("stop"))


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "not Embeddings JSON"),
        (b"[]", "not Embeddings JSON"),
        (b"{}", "no embeddings"),
        (b'{"data": []}', "no embeddings"),
        (b'{"data": {"embedding": []}}', "not Embeddings JSON"),
        (b'{"data": [1], "usage": {"prompt_tokens": "7"}}', "not Embeddings JSON"),
        (b'{"error": {"message": "too many at once", "code": 503}}', "too many at once"),
    ],
)
def test_what_is_no_answer_is_a_broken_one(body: bytes, what: str) -> None:
    with pytest.raises(StreamBrokenError, match=what):
        decode_body(body, ERRORS)

"""OpenAI's Embeddings: vectors of texts, asked for and answered in one body each.

No other protocol can say it, so nothing is translated: a request goes to its provider byte for byte but for
``model``, an answer comes back as it is. Both are read for their size alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from attune.models.executor import EventKind, StreamEvent, Terminal
from attune.models.registry import EMBEDDINGS
from attune.models.request import LLMRequest
from attune.models.telemetry import TokenUsage
from attune.wire.encoder import to_json
from attune.wire.errors import MALFORMED

if TYPE_CHECKING:
    from attune.models.registry import ModelInfo
    from attune.wire.errors import ErrorMapper

__all__ = ["PROTOCOL", "EmbeddingRequest", "decode_body", "embeddings_body"]

PROTOCOL = EMBEDDINGS
"""The protocol's name; a model that has the ability of that name is asked in it."""


@dataclass(frozen=True)
class EmbeddingRequest(LLMRequest):
    """Texts to make vectors of: all of it is in ``source``. ``input_tokens`` is their size, estimated."""

    input_tokens: int = 0

    @property
    def needs(self) -> frozenset[str]:
        """The one ability that makes embeddings."""
        return frozenset({EMBEDDINGS})

    def estimated_input_tokens(self) -> int:
        """The size of all inputs together, in tokens."""
        return self.input_tokens


def embeddings_body(request: LLMRequest, model: ModelInfo, *, errors: ErrorMapper) -> bytes:
    """The body of ``POST /embeddings`` for an ``EmbeddingRequest``: the client's own, with the model's id."""
    assert request.source is not None  # a door gives it
    return to_json({**request.source.fields, "model": model.id}, errors)


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    total_tokens: int | None = None


class _Answer(msgspec.Struct):
    data: list[msgspec.Raw] | None = None
    usage: _Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Answer).decode


def decode_body(body: bytes, errors: ErrorMapper) -> list[StreamEvent]:
    """The whole answer as content, then its usage if it tells one, and the end.

    Raises ``ProviderError`` for an error, and for an answer without vectors.
    """
    try:
        answer = _decode(body)
    except MALFORMED as error:
        raise errors.broken(f"the answer is not Embeddings JSON: {error}") from error
    if answer.error is not None:
        raise errors.from_event(body)
    if not answer.data:
        raise errors.broken("the answer has no embeddings")
    events = [StreamEvent(EventKind.CONTENT, body, None)]
    if (usage := _token_usage(answer.usage or _Usage())) is not None:
        events.append(StreamEvent(EventKind.USAGE, b"", usage))
    return [*events, StreamEvent(EventKind.TERMINAL, b"", Terminal("stop"))]


def _token_usage(usage: _Usage) -> TokenUsage | None:
    """What was billed. Some services say 0 where they do not count: that is no usage."""
    tokens = usage.prompt_tokens or usage.total_tokens or 0
    return TokenUsage(tokens) if tokens > 0 else None

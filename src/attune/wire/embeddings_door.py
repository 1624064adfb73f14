"""Embeddings as clients ask for them."""

from __future__ import annotations

import msgspec

from attune.models.request import BYTES_PER_TOKEN, Source
from attune.wire.chat_door import ChatDoor
from attune.wire.doors import Asked, checked_model, decoded
from attune.wire.embeddings import PROTOCOL, EmbeddingRequest

__all__ = ["EmbeddingsDoor"]


class _Request(msgspec.Struct):
    model: str
    input: msgspec.Raw


_decode = msgspec.json.Decoder(_Request).decode


class EmbeddingsDoor(ChatDoor):
    """``POST /embeddings``: what is asked is relayed whole, and so is the answer; the errors are Chat's."""

    protocol = PROTOCOL
    EXPECTED_OUTPUT = 0

    def _read(self, body: bytes) -> Asked:
        asked, fields = decoded(body, _decode)
        checked_model(asked.model)
        source = Source(PROTOCOL, fields, unread=(PROTOCOL,))
        size = _tokens(bytes(asked.input))
        return Asked(asked.model, EmbeddingRequest((), source=source, input_tokens=size))


def _tokens(given: bytes) -> int:
    """The size of inputs, given as JSON: bytes / 4 of texts, the number of token ids."""
    return -(-len(given) // BYTES_PER_TOKEN) if b'"' in given else given.count(b",") + 1

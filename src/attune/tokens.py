"""Counts of tokens before a call is made, or where a provider reports none.

The vocabularies come with the ``quicktok`` package; nothing is downloaded. A count is exact where
the vocabulary is the model's own: OpenAI's published ones, Llama 3, Qwen. For all others, Claude and
Gemini among them, it is that of ``o200k_base``, an estimate that can be a third off; OpenAI's newest
models are taken to use ``o200k_base`` too. What a provider reports always wins.

Counting is linear and releases the interpreter lock, at 10 MB/s in the worst case (one word
without an end) and above 100 MB/s for code: an event loop hands large texts to a thread. The first
count with a vocabulary loads it, which stops the whole process, threads too, for about half a
second: a server does that at start-up, by counting "".
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from attune.models.request import IMAGE_TOKENS, ImagePart, ToolCallPart

if TYPE_CHECKING:
    from collections.abc import Iterator

    from attune.models.request import LLMRequest, Part

__all__ = ["count_request", "count_tokens"]

MESSAGE_TOKENS = 4
"""Tokens that the frame of a message takes (role and delimiters), as OpenAI documents for its models."""

VOCABULARIES = {
    "cl100k_base": ("gpt-4-", "gpt-3.5"),
    "llama3": ("llama3", "llama-3", "meta-llama-3"),
    "qwen3": ("qwen2", "qwen3"),
}
"""The vocabularies of the models whose ids begin so; all others get ``o200k_base``."""


def count_tokens(text: str, model_id: str) -> int:
    """The tokens of ``text`` for a model. Special tokens in it count as the text they are."""
    import quicktok

    encoding = quicktok.get_encoding(_vocabulary(model_id))
    # A lone surrogate (out of a JSON escape) has no UTF-8 form; it travels as a replacement.
    return int(encoding.count(text if text.isascii() else text.encode("utf-8", "replace").decode()))


def count_request(request: LLMRequest, model_id: str) -> int:
    """The tokens of a whole prompt: its texts, tools and schema, a flat figure per image, and what is unread.

    An estimate for every model, since how a provider frames messages and tools is its own affair.
    """
    images = sum(isinstance(part, ImagePart) for part in _parts(request))
    texts = sum(count_tokens(text, model_id) for text in _texts(request))
    unread = 0 if request.source is None else request.source.unread_tokens
    return texts + images * IMAGE_TOKENS + len(request.messages) * MESSAGE_TOKENS + unread


def _vocabulary(model_id: str) -> str:
    name = model_id.lower().rpartition("/")[2]
    for vocabulary, prefixes in VOCABULARIES.items():
        if name.startswith(prefixes):
            return vocabulary
    return "o200k_base"


def _parts(request: LLMRequest) -> Iterator[Part]:
    for message in request.messages:
        yield from message.content


def _texts(request: LLMRequest) -> Iterator[str]:
    """Everything in the prompt that a model reads as text."""
    yield request.system
    for tool in request.tools:
        yield f"{tool.name} {tool.description} {json.dumps(tool.parameters, default=str)}"
    if request.output_format is not None and request.output_format.schema is not None:
        yield json.dumps(request.output_format.schema, default=str)
    for part in _parts(request):
        if isinstance(part, ToolCallPart):
            yield f"{part.name} {part.arguments}"
        elif not isinstance(part, ImagePart):
            yield part.text

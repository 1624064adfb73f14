"""Responses, Chat Completions and Embeddings at any base URL: OpenAI, Gemini's compatible one, Ollama ..."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from attune.providers._http import HTTPTransport, look_at, written
from attune.wire import chat, embeddings, pass_through, responses
from attune.wire.carrying import protocol_for
from attune.wire.decoder import BodyDecoder
from attune.wire.errors import ErrorMapper

if TYPE_CHECKING:
    from collections.abc import Callable

    from attune.models.executor import AttemptBudget, StreamEvent
    from attune.models.registry import ModelInfo
    from attune.models.request import LLMRequest
    from attune.providers._http import HTTPStream
    from attune.providers.catalogue import OpenAIProtocol
    from attune.providers.secret import Secret
    from attune.wire.decoder import Decoder

__all__ = ["OpenAIProvider"]


class _Spoken(NamedTuple):
    """A protocol: its path, and what reads its answers."""

    path: str
    of_stream: Callable[[ErrorMapper], Decoder]
    of_body: Callable[[ErrorMapper], Decoder]


def _whole(decode: Callable[[bytes, ErrorMapper], list[StreamEvent]]) -> Callable[[ErrorMapper], Decoder]:
    return partial(BodyDecoder, decode)


_SPOKEN = {
    "chat": _Spoken("/chat/completions", chat.ChatDecoder, _whole(chat.decode_body)),
    "responses": _Spoken("/responses", responses.ResponsesDecoder, _whole(responses.decode_body)),
    embeddings.PROTOCOL: _Spoken("/embeddings", *[_whole(embeddings.decode_body)] * 2),  # never streamed
}


class OpenAIProvider:
    """A service that speaks ``protocol``, with one key or none; for ``both`` see ``protocol_for``.

    Whatever it speaks, embeddings are asked for in their own protocol.
    """

    def __init__(
        self,
        name: str,
        *,
        base_url: str,
        key: Secret | None,
        credential: str = "api_key",
        protocol: OpenAIProtocol = "chat",
    ) -> None:
        self._name = name
        self._credential = credential
        spoken = ("responses", "chat") if protocol == "both" else (protocol,)
        self._protocols = (*spoken, embeddings.PROTOCOL)
        self._base_url = base_url.rstrip("/")
        self._key = key
        self._transport = HTTPTransport()
        host = urlsplit(base_url).hostname or ""
        own = host.endswith((".openai.com", ".openai.azure.com"))
        self._limit_field: chat.LimitField = "max_completion_tokens" if own else "max_tokens"

    @property
    def name(self) -> str:
        return self._name

    @property
    def credential(self) -> str:
        return self._credential

    async def open(self, request: LLMRequest, model: ModelInfo, budget: AttemptBudget) -> HTTPStream:
        """Send the request; return when the head of the answer has arrived. Raises ``ProviderError``."""
        key = self._key.reveal() if self._key else ""
        errors = ErrorMapper(self._name, model.id, key=key)
        protocol = protocol_for(request, model, self._protocols)
        spoken = _SPOKEN[protocol]
        return await self._transport.post(
            self._base_url + spoken.path,
            {
                **pass_through.own_headers(request, protocol),
                **({"authorization": f"Bearer {key}"} if key else {}),
            },
            await written(request, self._encoded, model, errors, protocol),
            connect_s=budget.connect_s,
            errors=errors,
            streams=request.stream,
            of_stream=spoken.of_stream(errors),
            of_body=spoken.of_body(errors),
        )

    def _encoded(self, request: LLMRequest, model: ModelInfo, errors: ErrorMapper, protocol: str) -> bytes:
        if protocol == embeddings.PROTOCOL:
            return embeddings.embeddings_body(request, model, errors=errors)
        if protocol == "responses":
            return pass_through.responses_body(request, model, errors=errors)
        return pass_through.chat_body(request, model, errors=errors, limit_field=self._limit_field)

    async def check(self, within_s: float) -> None:
        """Ask for the list of models, which costs nothing. Raises ``ProviderError``, for want of an answer
        within ``within_s`` seconds too.
        """
        key = self._key.reveal() if self._key else ""
        await look_at(
            self._base_url + "/models",
            {"authorization": f"Bearer {key}"} if key else {},
            within_s=within_s,
            errors=ErrorMapper(self._name, "models", key=key),
        )

    async def aclose(self) -> None:
        """Close the connections; idempotent."""
        await self._transport.aclose()

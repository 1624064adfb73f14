"""Responses or Chat Completions at any base URL: OpenAI, Gemini's compatible endpoint, Ollama and others."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from attune.providers._http import HTTPTransport
from attune.wire import chat, pass_through, responses
from attune.wire.carrying import protocol_for
from attune.wire.decoder import BodyDecoder
from attune.wire.errors import ErrorMapper

if TYPE_CHECKING:
    from attune.models.executor import AttemptBudget
    from attune.models.registry import ModelInfo
    from attune.models.request import LLMRequest
    from attune.providers._http import HTTPStream
    from attune.providers.catalogue import OpenAIProtocol
    from attune.providers.secret import Secret

__all__ = ["OpenAIProvider"]


class OpenAIProvider:
    """A service that speaks ``protocol``, with one key or none; for ``both`` see ``protocol_for``."""

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
        self._protocols = ("responses", "chat") if protocol == "both" else (protocol,)
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
        by_responses = protocol_for(request, model, self._protocols) == "responses"
        return await self._transport.post(
            self._base_url + ("/responses" if by_responses else "/chat/completions"),
            {
                **pass_through.own_headers(request, "responses" if by_responses else "chat"),
                **({"authorization": f"Bearer {key}"} if key else {}),
            },
            self._encoded(request, model, errors, by_responses=by_responses),
            connect_s=budget.connect_s,
            errors=errors,
            streams=request.stream,
            of_stream=(responses.ResponsesDecoder if by_responses else chat.ChatDecoder)(errors),
            of_body=BodyDecoder((responses if by_responses else chat).decode_body, errors),
        )

    def _encoded(
        self, request: LLMRequest, model: ModelInfo, errors: ErrorMapper, *, by_responses: bool
    ) -> bytes:
        if by_responses:
            return pass_through.responses_body(request, model, errors=errors)
        return pass_through.chat_body(request, model, errors=errors, limit_field=self._limit_field)

    async def aclose(self) -> None:
        """Close the connections; idempotent."""
        await self._transport.aclose()

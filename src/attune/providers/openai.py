"""Responses or Chat Completions at any base URL: OpenAI, Gemini's compatible endpoint, Ollama and others."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from attune.providers._http import HTTPTransport
from attune.wire import chat, pass_through, responses
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
    """A service that speaks ``protocol``, with one key or none."""

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
        self._speaks_responses = protocol == "responses"
        path = "/responses" if self._speaks_responses else "/chat/completions"
        self._url = base_url.rstrip("/") + path
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

    @property
    def protocol(self) -> OpenAIProtocol:
        """What it speaks: a client of the same protocol is answered with its own words."""
        return "responses" if self._speaks_responses else "chat"

    async def open(self, request: LLMRequest, model: ModelInfo, budget: AttemptBudget) -> HTTPStream:
        """Send the request; return when the head of the answer has arrived. Raises ``ProviderError``."""
        key = self._key.reveal() if self._key else ""
        errors = ErrorMapper(self._name, model.id, key=key)
        return await self._transport.post(
            self._url,
            {
                **pass_through.own_headers(request, self.protocol),
                **({"authorization": f"Bearer {key}"} if key else {}),
            },
            self._encoded(request, model, errors),
            connect_s=budget.connect_s,
            errors=errors,
            streams=request.stream,
            of_stream=(responses.ResponsesDecoder if self._speaks_responses else chat.ChatDecoder)(errors),
            of_body=BodyDecoder((responses if self._speaks_responses else chat).decode_body, errors),
        )

    def _encoded(self, request: LLMRequest, model: ModelInfo, errors: ErrorMapper) -> bytes:
        if self._speaks_responses:
            return pass_through.responses_body(request, model, errors=errors)
        return pass_through.chat_body(request, model, errors=errors, limit_field=self._limit_field)

    async def aclose(self) -> None:
        """Close the connections; idempotent."""
        await self._transport.aclose()

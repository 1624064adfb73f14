"""Messages, at Anthropic or at any compatible base URL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from attune.providers._http import HTTPTransport, look_at, written
from attune.wire import messages, pass_through
from attune.wire.decoder import BodyDecoder
from attune.wire.errors import ErrorMapper

if TYPE_CHECKING:
    from attune.models.executor import AttemptBudget
    from attune.models.registry import ModelInfo
    from attune.models.request import LLMRequest
    from attune.providers._http import HTTPStream
    from attune.providers.secret import Secret

__all__ = ["ANTHROPIC_VERSION", "AnthropicProvider"]

ANTHROPIC_VERSION = "2023-06-01"


class AnthropicProvider:
    """A service that speaks Messages, with one key or none. ``base_url`` may end in ``/v1`` or not."""

    def __init__(self, name: str, *, base_url: str, key: Secret | None, credential: str = "api_key") -> None:
        self._name = name
        self._credential = credential
        self._url = base_url.rstrip("/").removesuffix("/v1") + "/v1/messages"
        self._key = key
        self._transport = HTTPTransport()

    @property
    def name(self) -> str:
        return self._name

    @property
    def credential(self) -> str:
        return self._credential

    @property
    def protocol(self) -> Literal["messages"]:
        """What it speaks: a client of the same protocol is answered with its own words."""
        return "messages"

    async def open(self, request: LLMRequest, model: ModelInfo, budget: AttemptBudget) -> HTTPStream:
        """Send the request; return when the head of the answer has arrived. Raises ``ProviderError``."""
        key = self._key.reveal() if self._key else ""
        errors = ErrorMapper(self._name, model.id, key=key)
        return await self._transport.post(
            self._url,
            {
                "anthropic-version": ANTHROPIC_VERSION,
                **pass_through.own_headers(request, self.protocol),
                **({"x-api-key": key} if key else {}),
            },
            await written(request, pass_through.messages_body, model, provider=self._name, errors=errors),
            connect_s=budget.connect_s,
            errors=errors,
            streams=request.stream,
            of_stream=messages.MessagesDecoder(errors),
            of_body=BodyDecoder(messages.decode_body, errors),
        )

    async def check(self, within_s: float) -> None:
        """Ask for the list of models, which costs nothing. Raises ``ProviderError``, for want of an answer
        within ``within_s`` seconds too.
        """
        key = self._key.reveal() if self._key else ""
        await look_at(
            self._url.removesuffix("messages") + "models",
            {"anthropic-version": ANTHROPIC_VERSION, **({"x-api-key": key} if key else {})},
            within_s=within_s,
            errors=ErrorMapper(self._name, "models", key=key),
        )

    async def aclose(self) -> None:
        """Close the connections; idempotent."""
        await self._transport.aclose()

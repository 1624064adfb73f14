"""The providers attune knows by name, and how one is built from its settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, get_args
from urllib.parse import urlsplit

from attune.errors import ConfigError, UnknownNameError
from attune.models.candidate import SUBSCRIPTION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from attune.models.executor import Provider
    from attune.models.quota import QuotaWindow
    from attune.providers.secret import Secret

__all__ = [
    "KINDS",
    "KNOWN_PROVIDERS",
    "PROTOCOLS",
    "SUBSCRIPTION",
    "KnownProvider",
    "OpenAIProtocol",
    "build_provider",
    "usual_protocol",
]

KINDS = ("anthropic", "openai", "local", "claude_subscription")
"""What a provider speaks: Messages, one of OpenAI's protocols; the embedded model; the ``claude`` program."""

OpenAIProtocol: TypeAlias = Literal["chat", "responses", "both"]
PROTOCOLS: tuple[OpenAIProtocol, ...] = get_args(OpenAIProtocol)
"""The protocols of the kind ``openai``: Chat Completions, Responses, or whichever of them fits a request."""


class KnownProvider(NamedTuple):
    """A provider whose address and conventional key variables need not be configured."""

    name: str
    kind: str
    base_url: str = ""
    key_variables: tuple[str, ...] = ()


KNOWN_PROVIDERS: Mapping[str, KnownProvider] = {
    known.name: known
    for known in (
        KnownProvider("anthropic", "anthropic", "https://api.anthropic.com", ("ANTHROPIC_API_KEY",)),
        KnownProvider("openai", "openai", "https://api.openai.com/v1", ("OPENAI_API_KEY",)),
        KnownProvider(
            "gemini",
            "openai",
            "https://generativelanguage.googleapis.com/v1beta/openai",
            ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        ),
        KnownProvider("ollama", "openai", "http://127.0.0.1:11434/v1"),
        KnownProvider("local", "local"),
    )
}


def usual_protocol(base_url: str) -> OpenAIProtocol:
    """The protocol of the kind ``openai`` where none is configured.

    ``both`` at OpenAI's own address, where the newest models take tools only through Responses and a
    client of Chat Completions is answered in its own words; ``chat`` everywhere else, where often
    nothing else is spoken.
    """
    host = urlsplit(base_url).hostname or ""
    return "both" if host.endswith(".openai.com") else "chat"


def build_provider(
    name: str,
    kind: str | None = None,
    *,
    base_url: str | None = None,
    key: Secret | None = None,
    credential: str | None = None,
    protocol: str | None = None,
    on_windows: Callable[[Sequence[QuotaWindow]], None] | None = None,
) -> Provider:
    """The provider ``name`` with one credential; what is not given is that of the known provider.

    ``on_windows`` is called with the quota windows of a plan whenever it tells of any.
    ``credential`` defaults to ``api_key``, without a key to ``none``; ``protocol``, which only the kind
    ``openai`` has, to the usual one of the address. Raises ``UnknownNameError`` for a kind or protocol
    that does not exist and ``ConfigError`` for a base URL that is missing or no plain one.
    """
    known = KNOWN_PROVIDERS.get(name)
    kind = kind or (known.kind if known else "")
    if kind not in KINDS:
        raise UnknownNameError("provider kind", kind, KINDS, where=f"provider {name}")
    if protocol is not None and (kind != "openai" or protocol not in PROTOCOLS):
        known_ones = PROTOCOLS if kind == "openai" else ()
        raise UnknownNameError("protocol", protocol, known_ones, where=f"provider {name} of kind {kind}")
    if kind == "local":
        from attune.providers.local import LocalProvider

        return LocalProvider(name)
    if kind == "claude_subscription":
        from attune.providers.claude_subscription import ClaudeSubscriptionProvider

        return ClaudeSubscriptionProvider(name, on_windows=on_windows)
    if base_url is None and known is not None and known.kind == kind:
        base_url = known.base_url
    url = _checked(base_url, name)
    credential = credential or ("api_key" if key else "none")
    if kind == "anthropic":
        from attune.providers.anthropic import AnthropicProvider

        return AnthropicProvider(name, base_url=url, key=key, credential=credential)
    from attune.providers.openai import OpenAIProvider

    protocol = protocol or usual_protocol(url)
    return OpenAIProvider(name, base_url=url, key=key, credential=credential, protocol=protocol)


def _checked(base_url: str | None, name: str) -> str:
    """``base_url`` without a final slash, if it is a plain http or https address."""
    if not base_url:
        raise ConfigError(f"provider {name} needs a base_url")
    try:
        parts = urlsplit(base_url)
        plain = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        plain = False
    if not plain or "@" in parts.netloc or parts.query or parts.fragment:
        # The address is not repeated: what makes it wrong may be a password inside it.
        raise ConfigError(
            f"base_url of provider {name} must be http(s)://host[:port][/path], without user or query"
        )
    return base_url.rstrip("/")

"""Whether each enrolled credential is accepted: one request a credential, which costs nothing."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from attune.cli._check import Check, State
from attune.cli._exit import ExitCode, note
from attune.cli._payment import paying
from attune.errors import (
    ConfigError,
    ConnectionFailedError,
    CredentialError,
    MoneyGoneError,
    ProviderError,
    ThrottledError,
)
from attune.providers.anthropic import AnthropicProvider
from attune.providers.catalogue import KNOWN_PROVIDERS, SUBSCRIPTION, build_provider
from attune.providers.openai import OpenAIProvider
from attune.providers.secret import resolve_secret

if TYPE_CHECKING:
    from attune.config import Config
    from attune.config.settings import ProviderConfig

__all__ = ["online_checks"]

WITHIN_S = 5.0
"""How long an answer is waited for; all credentials are asked at the same time."""

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def online_checks(config: Config) -> list[Check]:
    """A check for each credential of a provider that is asked over HTTP; whom it asks is said as it goes. A
    plan has no question that costs nothing.
    """
    return [*asyncio.run(_ask_all(config)), *(_of_plan(each.name) for each in config.plans)]


def _of_plan(name: str) -> Check:
    tries = f"`attune run --model {name}/claude-haiku-5-5 hi`"
    detail = f"not asked, since each answer uses quota; to try it: {tries}"
    return Check(f"{name} {SUBSCRIPTION} online", State.NOTE, detail)


async def _ask_all(config: Config) -> list[Check]:
    asked = [
        _ask(provider, credential)
        for provider in config.providers
        if provider.kind in {"anthropic", "openai"}
        for credential in provider.credentials
    ]
    return [check for check in await asyncio.gather(*asked) if check is not None]


async def _ask(provider: ProviderConfig, credential: str) -> Check | None:
    """What came of asking; ``None`` where there is no key to ask with, which is a check of its own."""
    name, reference = f"{provider.name} {paying(credential)}", provider.keys.get(credential)
    try:
        key = None if reference is None else resolve_secret(reference, os.environ, where=name)
    except ConfigError:
        return None
    built = build_provider(
        provider.name, provider.kind, base_url=provider.base_url, key=key, credential=credential
    )
    assert isinstance(built, AnthropicProvider | OpenAIProvider)
    note(f"asking {name} ...")
    try:
        await built.check(WITHIN_S)
    except ProviderError as error:
        return Check(f"{name} online", *_failed(error, provider, reference))
    return Check(f"{name} online", State.OK, _accepted(provider, reference))


def _is_known(provider: ProviderConfig) -> bool:
    """Whether it is one of the known services, at its own address."""
    known = KNOWN_PROVIDERS.get(provider.name)
    return known is not None and known.base_url == provider.base_url


def _accepted(provider: ProviderConfig, reference: str | None) -> str:
    if reference is None:
        return "it answers"
    if _is_known(provider):
        return "its key is accepted"
    return "it answers, and gives its list of models with this key; some services give it with any"


def _failed(
    error: ProviderError, provider: ProviderConfig, reference: str | None
) -> tuple[State, str, ExitCode]:
    """How bad it is, and what to do."""
    said = str(error).removeprefix(f"{provider.name}/models").lstrip(": ")
    status = f"({error.status})" if error.code is None else f"({error.status} {error.code})"
    match error:
        case ConnectionFailedError():
            here = urlsplit(provider.base_url).hostname in _LOOPBACK
            do = "start it" if here else "check the network"
            mend = "" if _is_known(provider) else ", or mend its base_url"
            return State.FAIL, f"{said}; {do}{mend}", ExitCode.NO_ANSWER
        case MoneyGoneError():
            return State.FAIL, f"its account has no money left {status}; add some", ExitCode.CREDENTIALS
        case CredentialError() if reference is None:
            return State.FAIL, f"it wants a key {status}; give it an api_key", ExitCode.CREDENTIALS
        case CredentialError():
            return (
                State.FAIL,
                f"its key is refused {status}; put a valid one in {reference}",
                ExitCode.CREDENTIALS,
            )
        case ThrottledError():
            return State.NOTE, f"too many requests {status}: the key was not tried; ask later", ExitCode.OK
    if error.status in {404, 405}:
        doubt = f"it has no list of models {status}, so its key was not tried; or is its base_url wrong?"
        return State.NOTE, doubt, ExitCode.OK
    return State.NOTE, f"it {said}; its key was not tried, ask later", ExitCode.OK

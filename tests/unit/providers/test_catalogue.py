import subprocess
import sys

import pytest

from attune.errors import ConfigError, UnknownNameError
from attune.providers import KINDS, KNOWN_PROVIDERS, Secret, build_provider
from attune.providers.anthropic import AnthropicProvider
from attune.providers.catalogue import usual_protocol
from attune.providers.local import LocalProvider
from attune.providers.openai import OpenAIProvider

KEY = Secret("k" * 20, "env:MINE")


@pytest.mark.parametrize(
    ("name", "cls", "credential"),
    [
        ("anthropic", AnthropicProvider, "api_key"),
        ("openai", OpenAIProvider, "api_key"),
        ("gemini", OpenAIProvider, "api_key"),
        ("ollama", OpenAIProvider, "api_key"),
        ("local", LocalProvider, "none"),
    ],
)
def test_a_known_provider_needs_no_settings_but_its_key(name: str, cls: type, credential: str) -> None:
    provider = build_provider(name, key=KEY)
    assert type(provider) is cls
    assert (provider.name, provider.credential) == (name, credential)


def test_every_known_provider_has_a_kind_that_exists() -> None:
    assert {known.kind for known in KNOWN_PROVIDERS.values()} <= set(KINDS)


def test_without_a_key_the_credential_is_none_unless_it_is_named() -> None:
    assert build_provider("ollama").credential == "none"
    assert build_provider("openai", key=KEY, credential="credits").credential == "credits"


def test_the_name_is_free_when_kind_and_address_are_given() -> None:
    provider = build_provider("mine", "openai", base_url="http://127.0.0.1:9601/v1")
    assert provider.name == "mine"


def test_a_kind_that_does_not_exist_is_named_with_the_nearest() -> None:
    with pytest.raises(
        UnknownNameError, match="unknown provider kind 'open-ai' in provider mine; did you mean 'openai'"
    ):
        build_provider("mine", "open-ai")


def test_a_protocol_that_does_not_exist_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown protocol 'respones'.*did you mean 'responses'"):
        build_provider("openai", key=KEY, protocol="respones")


def test_a_kind_without_a_choice_of_protocol_takes_none() -> None:
    with pytest.raises(UnknownNameError, match="protocol 'chat' in provider anthropic of kind anthropic"):
        build_provider("anthropic", key=KEY, protocol="chat")


@pytest.mark.parametrize(
    ("base_url", "protocol"),
    [
        ("https://api.openai.com/v1", "both"),
        ("https://us.api.openai.com/v1", "both"),
        ("https://api.openai.com.example/v1", "chat"),
        ("https://notopenai.com/v1", "chat"),
        ("https://mine.openai.azure.com/openai/v1", "chat"),
        ("http://127.0.0.1:11434/v1", "chat"),
    ],
)
def test_responses_beside_chat_is_usual_at_openais_own_address_only(base_url: str, protocol: str) -> None:
    assert usual_protocol(base_url) == protocol


def test_a_provider_of_ones_own_needs_an_address() -> None:
    with pytest.raises(ConfigError, match="provider mine needs a base_url"):
        build_provider("mine", "openai", key=KEY)


def test_the_known_address_is_not_used_for_another_protocol() -> None:
    with pytest.raises(ConfigError, match="provider openai needs a base_url"):
        build_provider("openai", "anthropic", key=KEY)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/v1",
        "host/v1",
        "https://",
        "https://user:hunter2@host/v1",
        "https://host/v1?key=hunter2",
        "https://host/v1#x",
        "https://host:99999/v1",
        "https://host:port/v1",
        "https://[::1/v1",
    ],
)
def test_an_address_that_is_not_plain_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_provider("mine", "openai", base_url=url)
    assert str(caught.value).startswith("base_url of provider mine must be http(s)://")
    assert "hunter2" not in str(caught.value)


def test_listing_the_known_providers_does_not_load_the_http_client() -> None:
    program = (
        "import sys, attune.providers;"
        "assert attune.providers.KNOWN_PROVIDERS;"
        "print(sorted({'aiohttp', 'msgspec', 'asyncio', 'ssl'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"

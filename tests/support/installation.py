"""A user's installation over real sockets: config.toml, keys, ledger, and one upstream for each provider.

    async with installation(tmp_path, "chat", keys={"a": ("one", "two")}) as home:
        home["a"].default = Answer(status=503)
        async with home.runtime() as ai:
            await ai.run("hello")
        assert home.asked == ["a#one/m", "a#one/m", "b#key/m"]

Providers are ``a``, ``b`` ... in order of preference, as their models are; all speak one protocol.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from attune.config import load
from attune.runtime import Runtime, build
from attune.stores.sqlite import SqliteStore
from support.upstream import FakeUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
    from pathlib import Path

    from attune.clock import Clock
    from attune.models.state import Fact
    from attune.models.telemetry import LLMCallRecord
    from support.upstream import Protocol, Received

PROTOCOLS: tuple[Protocol, ...] = ("chat", "messages", "responses")

_PROVIDER = {
    "chat": 'kind = "openai"\nbase_url = "{0.chat_url}"',
    "messages": 'kind = "anthropic"\nbase_url = "{0.messages_url}"',
    "responses": 'kind = "openai"\nprotocol = "responses"\nbase_url = "{0.responses_url}"',
}
SHORT_PAUSE_S = 0.002


class Spec(NamedTuple):
    """A model, its window in tokens and its tier; a million tokens cost one dollar in and five out."""

    label: str
    window: int = 100_000
    tier: str = "capable"


class Installation:
    """The files and the upstreams; ``runtime`` opens them as a new process would."""

    def __init__(
        self,
        home: Path,
        protocol: Protocol,
        upstreams: Mapping[str, FakeUpstream],
        keys: Mapping[str, Sequence[str]],
        models: Sequence[Spec],
    ) -> None:
        self.home, self.protocol, self.upstreams = home, protocol, upstreams
        self._keys = {name: tuple(keys.get(name, ("key",))) for name in upstreams}
        self._models = models
        self.environ = {"ATTUNE_HOME": str(home)} | {
            f"KEY_{name}_{key}": self.secret(name, key) for name, each in self._keys.items() for key in each
        }

    def __getitem__(self, provider: str) -> FakeUpstream:
        return self.upstreams[provider]

    @staticmethod
    def secret(provider: str, key: str) -> str:
        """The value of a key."""
        return f"canary-of-{provider}-{key}-not-a-secret"

    def runtime(self, extra: str = "", *, clock: Clock | None = None) -> Runtime:
        """Open it, with ``extra`` at the end of its configuration and hardly any pause before a repeat."""
        (self.home / "config.toml").write_text(self._configuration() + extra)
        options = {} if clock is None else {"clock": clock}
        runtime = build(load(environ=self.environ), environ=self.environ, **options)
        runtime.executor.retry = replace(runtime.executor.retry, base_s=SHORT_PAUSE_S)
        return runtime

    def _configuration(self) -> str:
        parts = []
        for name, upstream in self.upstreams.items():
            keys = ", ".join(f'{key} = "env:KEY_{name}_{key}"' for key in self._keys[name])
            door = _PROVIDER[self.protocol].format(upstream)
            parts.append(f"[providers.{name}]\n{door}\napi_keys = {{ {keys} }}")
        for spec in self._models:
            provider, model_id = spec.label.split("/")
            parts.append(
                f'[[models]]\nid = "{model_id}"\nprovider = "{provider}"\ntier = "{spec.tier}"\n'
                f"context_window = {spec.window}\nmax_output_tokens = 4000\n"
                "input_price = 1.0\noutput_price = 5.0\ncache_read_price = 0.1\ncache_write_price = 1.25\n"
                'abilities = ["tools", "json_schema", "vision", "thinking"]'
            )
        tiers: dict[str, list[str]] = {}
        for spec in self._models:
            tiers.setdefault(spec.tier, []).append(f'"{spec.label}"')
        parts.append("[tiers]\n" + "\n".join(f"{tier} = [{', '.join(each)}]" for tier, each in tiers.items()))
        names = ", ".join(f'"{name}"' for name in self.upstreams)
        parts.append(f"[routing]\nallow_providers = [{names}]\n")
        return "\n\n".join(parts) + "\n"

    # -- what really happened --------------------------------------------------------------------

    def received(self) -> list[tuple[str, Received]]:
        """Every request with the provider that got it, in the order of arrival."""
        everything = [(name, seen) for name, each in self.upstreams.items() for seen in each.received]
        return sorted(everything, key=lambda each: each[1].at)

    @property
    def asked(self) -> list[str]:
        """ "provider#credential/model" of every request, in the order of arrival."""
        return [
            f"{name}#{self.credential(name, seen)}/{seen.body['model']}" for name, seen in self.received()
        ]

    def credential(self, name: str, seen: Received) -> str:
        """The name of the credential that a request to a provider came with."""
        return next(key for key in self._keys[name] if self.secret(name, key) == _secret(seen))

    def ledger(self) -> SqliteStore:
        """The ledger as another process reads it."""
        return SqliteStore.open_readonly(load(environ=self.environ).paths.ledger_file)

    def records(self) -> list[LLMCallRecord]:
        """Every attempt in the ledger, oldest first."""
        return sorted(self.ledger().recent_attempts(100_000), key=lambda each: each.attempt_id)

    def facts(self) -> Iterator[Fact]:
        """What other processes would learn."""
        return iter(self.ledger().facts())


def _secret(seen: Received) -> str:
    return seen.headers.get("x-api-key") or seen.headers["authorization"].removeprefix("Bearer ")


@asynccontextmanager
async def installation(
    home: Path,
    protocol: Protocol,
    *models: Spec | str,
    keys: Mapping[str, Sequence[str]] | None = None,
) -> AsyncIterator[Installation]:
    """An installation whose upstreams listen; without ``models`` it has "a/m" and "b/m"."""
    specs = [Spec(each) if isinstance(each, str) else each for each in models or ("a/m", "b/m")]
    names = dict.fromkeys(spec.label.partition("/")[0] for spec in specs)
    async with AsyncExitStack() as stack:
        upstreams = {name: await stack.enter_async_context(FakeUpstream()) for name in names}
        yield Installation(home, protocol, upstreams, keys or {}, specs)

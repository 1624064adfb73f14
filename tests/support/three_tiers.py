"""An upstream for each tier, and a configuration that knows them, with one real ledger."""

from __future__ import annotations

from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING

from attune.config import load
from attune.runtime import Runtime, build
from support.upstream import Answer, FakeUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from attune.config import Config

MODEL = """
[providers.{name}]
kind = "openai"
base_url = "{url}"
api_key = "env:KEY"

[[models]]
id = "{name}"
provider = "{name}"
tier = "{name}"
context_window = 100000
max_output_tokens = 4000
input_price = {price}
output_price = {price}
"""

PRICES = {"cheap": 1.0, "capable": 10.0, "premium": 100.0}
USAGE = {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}
NANOS = {"cheap": 20_000, "capable": 200_000, "premium": 2_000_000}
"""What an answer of each costs: 20 tokens at $1, $10 and $100 a million."""


class World:
    """Three upstreams, their configuration in a home folder, and runtimes of it."""

    def __init__(self, home: Path, upstreams: dict[str, FakeUpstream]) -> None:
        self.home = home
        self.upstreams = upstreams
        self.steps: list[str] = []
        self.environ = {"ATTUNE_HOME": str(home), "KEY": "k"}
        self._opened = 0
        self.says(cheap="no", capable="no", premium="no")

    def says(self, **texts: str) -> None:
        """Set what the upstreams answer."""
        for tier, text in texts.items():
            self.upstreams[tier].default = Answer(text=text, usage=USAGE)

    @property
    def asked(self) -> dict[str, int]:
        """How many requests each upstream got."""
        return {tier: len(upstream.received) for tier, upstream in self.upstreams.items()}

    def configure(self, extra: str = "") -> Config:
        """Write the configuration, with more lines of ``[routing]`` and tables after it, and read it."""
        parts = [
            MODEL.format(name=tier, url=self.upstreams[tier].chat_url, price=price)
            for tier, price in PRICES.items()
        ]
        routing = '\n[routing]\nallow_providers = ["cheap", "capable", "premium"]\n'
        (self.home / "config.toml").write_text("\n".join(parts) + routing + extra)
        return load(environ=self.environ)

    @asynccontextmanager
    async def runtime(self, extra: str = "") -> AsyncIterator[Runtime]:
        """A runtime of the configuration."""
        opened = build(
            self.configure(extra), environ=self.environ, on_step=self.steps.append, rng=Random(self._opened)
        )
        self._opened += 1
        async with opened:
            yield opened


@asynccontextmanager
async def three_upstreams(home: Path) -> AsyncIterator[World]:
    """A world with its upstreams listening."""
    async with FakeUpstream() as cheap, FakeUpstream() as capable, FakeUpstream() as premium:
        yield World(home, {"cheap": cheap, "capable": capable, "premium": premium})

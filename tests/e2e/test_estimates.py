"""What ``attune auth recommend`` says that work on a module costs, against what the ledger then records.

On modules of attune itself. The upstream counts with a vocabulary of its own, and its answers are of lengths
that the estimate knows nothing of.
"""

from __future__ import annotations

import functools
import json
import random
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import attune
from attune.cli._auth_recommend import recommend
from attune.cli._who_pays import WhoPays
from attune.config import load
from attune.models.answer_length import ENOUGH_ANSWERS
from attune.models.auth_strategy import MIN_OUTPUT_TOKENS
from attune.providers.local_server import missing_packages
from attune.runtime import build
from support.program import CANARY
from support.upstream import Answer, FakeUpstream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    from attune.cli._auth_recommend import Recommendation
    from attune.config import Config
    from attune.models.executor import LLMResponse
    from support.upstream import Received

    Count: TypeAlias = Callable[[str], int]
    Law: TypeAlias = Callable[[int, random.Random], float]

CONFIG = """\
[providers.anthropic]
base_url = "{}"
api_key = "env:MINE_KEY"
[routing]
allow_providers = ["anthropic"]
"""
TOLERANCE = 0.25
EVERY = 6


def sample() -> list[Path]:
    """Modules of all sizes, in an order that has nothing to do with their size."""
    files = sorted(Path(attune.__file__).parent.rglob("*.py"), key=lambda file: (file.stat().st_size, file))
    chosen = files[::EVERY]
    random.Random(1).shuffle(chosen)
    return chosen


@contextmanager
def qwen() -> Iterator[Count]:
    """The vocabulary of Qwen 3: another one than any of Anthropic's models is counted with."""
    import quicktok

    yield quicktok.get_encoding("qwen3").count


@contextmanager
def smollm() -> Iterator[Count]:
    """The embedded model's own tokenizer, in another program: llama.cpp with SmolLM2's vocabulary."""
    command = [sys.executable, "-m", "attune.providers.local_server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["port"]

        @functools.cache
        def count(text: str) -> int:
            body = json.dumps({"content": text}).encode()
            asked = urllib.request.Request(
                f"http://127.0.0.1:{port}/tokenize", body, {"content-type": "application/json"}
            )
            with urllib.request.urlopen(asked, timeout=60) as answer:
                return len(json.load(answer)["tokens"])

        try:
            yield count
        finally:
            assert process.stdin is not None
            process.stdin.close()


def text_of(received: Received) -> str:
    (message,) = received.body["messages"]
    content: Any = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


async def worked(
    home: Path, files: list[Path], count: Count, law: Law
) -> list[tuple[Recommendation, LLMResponse]]:
    """For each file what is recommended, and then the call."""
    rng, found = random.Random(2), []

    def answers(received: Received) -> Answer:
        prompt = count(text_of(received))
        return Answer(usage={"input_tokens": prompt, "output_tokens": max(1, round(law(prompt, rng)))})

    async with FakeUpstream(default=answers) as upstream:
        (home / "config.toml").write_text(CONFIG.format(upstream.messages_url))
        environ = {"ATTUNE_HOME": str(home), "MINE_KEY": CANARY}
        config: Config = load(environ=environ)
        async with build(config, environ=environ) as ai:
            for file in files:
                text = file.read_text()
                estimate = recommend(file, text, config, WhoPays(config))
                found.append((estimate, await ai.run(text, tier="capable")))
                await ai.store.flush()
    return found


def short_reviews(_: int, rng: random.Random) -> float:
    return 400 * rng.lognormvariate(0, 0.5)


def long_reviews(_: int, rng: random.Random) -> float:
    return 2500 * rng.lognormvariate(0, 0.5)


def changes(prompt: int, rng: random.Random) -> float:
    return (200 + 0.3 * prompt) * rng.lognormvariate(0, 0.4)


def rewrites(prompt: int, rng: random.Random) -> float:
    return prompt * rng.lognormvariate(0, 0.2)


@pytest.mark.parametrize("law", [short_reviews, long_reviews, changes, rewrites])
async def test_from_the_tenth_answer_on_the_estimates_come_to_what_is_paid_however_long_answers_are(
    tmp_path: Path, law: Law
) -> None:
    files = sample()
    assert len(files) >= 30
    with qwen() as count:
        found = await worked(tmp_path, files, count, law)
    assert found[0][0].api.output_tokens >= MIN_OUTPUT_TOKENS, "nothing is known yet"
    learned = found[ENOUGH_ANSWERS:]
    paid = sum(answer.cost_usd or 0.0 for _, answer in learned)
    estimated = sum(each.api.cost_usd or 0.0 for each, _ in learned)
    assert paid > 0
    assert estimated == pytest.approx(paid, rel=TOLERANCE)


@pytest.mark.parametrize(
    "counter",
    [
        qwen,
        pytest.param(
            smollm,
            marks=[
                pytest.mark.local_model,
                pytest.mark.skipif(bool(missing_packages()), reason="the embedded model is not installed"),
            ],
        ),
    ],
)
async def test_the_counted_prompt_of_each_module_is_what_another_vocabulary_counts(
    tmp_path: Path, counter: Any
) -> None:
    with counter() as count:
        found = await worked(tmp_path, sample(), count, rewrites)
    off = {
        each.file.name: each.tokens / answer.usage.input_tokens - 1
        for each, answer in found
        if answer.usage is not None
    }
    assert len(off) >= 30
    assert {name: part for name, part in off.items() if abs(part) > TOLERANCE} == {}

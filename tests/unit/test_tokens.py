import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attune.models.request import (
    ImagePart,
    LLMRequest,
    Message,
    OutputFormat,
    TextPart,
    ThinkingPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)
from attune.tokens import count_request, count_tokens

PARTS = "count the tokens of this sentence, please"


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 0), ("hello world", 2), ("antidisestablishmentarianism", 6), ("\n\n\n", 1)]
)
def test_known_texts_have_their_known_counts_in_o200k_base(text, tokens):
    assert count_tokens(text, "gpt-6.1-terra") == tokens


def test_models_without_a_published_tokenizer_have_the_count_of_o200k_base():
    assert count_tokens(PARTS, "claude-sonnet-5-5") == count_tokens(PARTS, "gpt-6.1-sol")
    assert count_tokens(PARTS, "gemini-4-argon") == count_tokens(PARTS, "something-new")


@pytest.mark.parametrize(
    ("model", "like"),
    [
        ("llama3.2:3b", "llama3"),
        ("meta-llama/Llama-3.1-8B", "llama3"),
        ("Qwen/Qwen3-8B", "qwen3"),
        ("gpt-4-turbo", "gpt-3.5-turbo"),
    ],
)
def test_models_with_a_vocabulary_of_their_own_are_counted_with_it(model, like):
    text = "Grüße 12345678901234567890 größenwahnsinnig 漢字"
    assert count_tokens(text, model) == count_tokens(text, like) != count_tokens(text, "gpt-6-luna")


@pytest.mark.parametrize("text", ["<|endoftext|>", "<|im_start|>", "<|endofprompt|>"])
@pytest.mark.parametrize("model", ["gpt-6-luna", "llama3.2:3b", "qwen3:8b", "gpt-4-turbo"])
def test_special_tokens_in_a_text_count_as_the_text_they_are(text, model):
    assert count_tokens(text, model) > 3


def test_a_lone_surrogate_counts_as_a_replacement_character():
    assert count_tokens("\ud800 lone \udfff", "gpt-6-luna") == count_tokens("? lone ?", "gpt-6-luna")


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(), max_size=200))
def test_any_text_has_a_count_between_nothing_and_its_bytes(text):
    tokens = count_tokens(text, "gpt-6-luna")
    assert (tokens == 0) == (text == "")
    assert tokens <= len(text.encode("utf-8", "replace"))


def test_the_worst_text_is_counted_in_linear_time():
    word = "abcdefghijbadcfehgji" * 100_000  # one word of 2 MB; 0.2 s if linear, hours if quadratic
    start = time.process_time()  # the machine may have other work
    assert count_tokens(word, "gpt-6-luna") > 500_000
    assert time.process_time() - start < 20


def test_everything_that_a_model_reads_is_counted():
    base = LLMRequest.from_prompt("hi")
    plain = count_request(base, "gpt-6-luna")
    assert plain == count_tokens("hi", "gpt-6-luna") + 4

    def grown(**fields) -> int:
        request = LLMRequest(**{"messages": base.messages, **fields})
        return count_request(request, "gpt-6-luna") - plain

    def with_part(part) -> int:
        return grown(messages=(Message("user", (TextPart("hi"), part)),))

    assert grown(system=PARTS) == count_tokens(PARTS, "gpt-6-luna")
    assert grown(messages=(*base.messages, Message.assistant(PARTS))) == 4 + count_tokens(PARTS, "gpt-6-luna")
    assert with_part(ThinkingPart(PARTS)) == count_tokens(PARTS, "gpt-6-luna")
    assert with_part(ToolResultPart("id", PARTS)) == count_tokens(PARTS, "gpt-6-luna")
    assert with_part(ToolCallPart("id", "find", '{"q": "x"}')) > 3
    assert with_part(ImagePart(url="https://example.org/a.png")) == 1600
    tool = Tool("find", "Finds things.", {"type": "object", "properties": {"q": {"type": "string"}}})
    assert grown(tools=(tool,)) > 10
    assert grown(output_format=OutputFormat({"type": "object", "title": "x"})) > 5
    assert grown(output_format=OutputFormat()) == 0


def test_importing_the_counter_loads_no_vocabulary():
    code = "import sys, attune.tokens; assert 'quicktok' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)

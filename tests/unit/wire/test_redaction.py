import pytest

from attune.wire.redaction import MAX_TEXT_CHARS, one_line, redact

KEYS = [
    "sk-ant-api03-abcdefgh_12345",  # not-a-secret
    "sk-proj-Ab12Cd34Ef56",
    "sk-abc***********xyz9",
    "AIzaSyD-abcdefghijklmnopqrstuv",
    "xai-1234567890abcdef",
    "gsk_1234567890abcdef",
    "eyJhbGciOi.eyJzdWIi.c2lnbmF0dXJl",
]


@pytest.mark.parametrize("key", KEYS)
def test_what_looks_like_a_key_is_not_repeated(key: str) -> None:
    assert redact(f"Incorrect API key provided: {key}, sorry") == (
        "Incorrect API key provided: [redacted], sorry"
    )


def test_what_follows_bearer_is_not_repeated() -> None:
    assert redact("got 'Authorization: Bearer abc.def'") == "got 'Authorization: Bearer [redacted]"


def test_the_key_in_use_is_not_repeated_whatever_it_looks_like() -> None:
    assert (
        redact("no access for correct-horse-battery", "correct-horse-battery") == "no access for [redacted]"
    )


def test_a_placeholder_key_does_not_blot_out_words() -> None:
    assert redact("ollama is down", "ollama") == "ollama is down"


@pytest.mark.parametrize("text", ["task-force-meeting", "a risk-based approach", "gpt-6-luna not found"])
def test_ordinary_words_are_left_alone(text: str) -> None:
    assert redact(text) == text


def test_a_message_is_one_line_without_control_characters() -> None:
    assert one_line("a\n\tb\x1b[31m c\x00\r\n") == "a b [31m c"


def test_a_long_message_is_cut_and_a_key_across_the_cut_is_still_hidden() -> None:
    text = "x" * (MAX_TEXT_CHARS - 20) + " sk-proj-" + "a" * 60
    line = one_line(text)
    assert len(line) <= MAX_TEXT_CHARS
    assert "sk-proj" not in line
    assert len(one_line("word " * 1000)) == MAX_TEXT_CHARS

"""What the events of an attempt amount to."""

from __future__ import annotations

from attune.models.executor import (
    EventKind,
    Meta,
    StreamEvent,
    Terminal,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
)
from attune.models.folding import Fold
from attune.models.request import TextPart, ThinkingPart, ToolCallPart
from attune.models.telemetry import TokenUsage


def folded(*payloads, kind=EventKind.CONTENT) -> Fold:
    fold = Fold("anthropic")
    for payload in payloads:
        fold.add(StreamEvent(kind, b"", payload))
    return fold


def test_nothing_is_nothing():
    fold = folded()
    assert (fold.content, fold.began, fold.usage, fold.terminal) == ((), False, None, None)
    assert fold.estimated_output_tokens() == 0


def test_pieces_of_text_are_one_part():
    fold = folded(TextDelta("hello "), TextDelta("world"))
    assert fold.content == (TextPart("hello world"),)
    assert fold.began


def test_reasoning_has_its_signature_and_its_provider():
    fold = folded(ThinkingDelta("I "), ThinkingDelta("think"), ThinkingDelta("", "sig"), TextDelta("so"))
    assert fold.content == (ThinkingPart("I think", "sig", "anthropic"), TextPart("so"))


def test_a_signature_ends_its_reasoning_and_the_next_one_has_its_own():
    fold = folded(
        ThinkingDelta("one"),
        ThinkingDelta("", "sig-1"),
        ThinkingDelta(""),
        ThinkingDelta("two"),
        ThinkingDelta("", "sig-2"),
        ThinkingDelta("", "redacted"),
    )
    assert fold.content == (
        ThinkingPart("one", "sig-1", "anthropic"),
        ThinkingPart("two", "sig-2", "anthropic"),
        ThinkingPart("", "redacted", "anthropic"),
    )


def test_parts_keep_the_order_in_which_they_came():
    fold = folded(
        ThinkingDelta("look"),
        ThinkingDelta("", "sig-1"),
        TextDelta("I shall "),
        TextDelta("look"),
        ToolCallDelta(0, "a", "get", "{}"),
        ThinkingDelta("again", "sig-2"),
        ToolCallDelta(1, "b", "get", "{"),
        ToolCallDelta(1, arguments="}"),
        TextDelta("done"),
    )
    assert fold.content == (
        ThinkingPart("look", "sig-1", "anthropic"),
        TextPart("I shall look"),
        ToolCallPart("a", "get", "{}"),
        ThinkingPart("again", "sig-2", "anthropic"),
        ToolCallPart("b", "get", "{}"),
        TextPart("done"),
    )


def test_empty_reasoning_is_none():
    assert not folded(ThinkingDelta("")).began


def test_pieces_of_tool_calls_side_by_side_are_put_together_by_their_position():
    fold = folded(
        ToolCallDelta(1, "b", "second"),
        ToolCallDelta(0, "a", "first", '{"x"'),
        ToolCallDelta(1, arguments="{}"),
        ToolCallDelta(0, "other", "name", ":1}"),
    )
    assert fold.content == (ToolCallPart("b", "second", "{}"), ToolCallPart("a", "first", '{"x":1}'))
    assert fold.began


def test_the_answers_size_is_a_quarter_of_its_characters_rounded_up():
    assert folded(TextDelta("12345")).estimated_output_tokens() == 2
    everything = folded(TextDelta("1234"), ThinkingDelta("1234"), ToolCallDelta(0, "id", "name", "args"))
    assert everything.estimated_output_tokens() == 4


def test_the_last_usage_counts_because_it_is_a_running_total():
    fold = folded(TokenUsage(10, 1), TokenUsage(10, 7), kind=EventKind.USAGE)
    assert fold.usage == TokenUsage(10, 7)
    assert not fold.began


def test_the_terminal_event_is_kept_and_what_is_no_content_begins_nothing():
    fold = Fold("p")
    fold.add(StreamEvent(EventKind.META, b"", Meta("id", "m")))
    fold.add(StreamEvent(EventKind.PING, b"", None))
    assert not fold.began
    fold.add(StreamEvent(EventKind.TERMINAL, b"", Terminal("length", "max_tokens")))
    assert fold.terminal == Terminal("length", "max_tokens")

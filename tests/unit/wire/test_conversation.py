"""What is bound to the provider that made it, in a conversation that goes to another one."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attune.models.request import (
    Message,
    Part,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
)
from attune.wire.conversation import portable


def fitted(*messages: Message) -> list[Message]:
    return list(portable(messages, provider="mine", call_ids=re.compile("[A-Za-z0-9_-]{1,40}")))


def ids(messages: list[Message], kind: type[Part]) -> list[str]:
    parts = [part for message in messages for part in message.content if isinstance(part, kind)]
    return [part.id if isinstance(part, ToolCallPart) else part.tool_call_id for part in parts]  # type: ignore[union-attr]


def called(*given: str) -> Message:
    return Message("assistant", tuple(ToolCallPart(each, "get", "{}") for each in given))


def sent(arguments: str) -> object:
    (message,) = fitted(Message("assistant", (ToolCallPart("c", "get", arguments),)))
    (part,) = message.content
    assert isinstance(part, ToolCallPart)
    return json.loads(part.arguments)


def answered(*given: str) -> Message:
    return Message("user", tuple(ToolResultPart(each, f"answer to {each}") for each in given))


class TestThinking:
    def test_it_stays_with_the_provider_that_signed_it_where_something_follows(self) -> None:
        message = Message("assistant", (ThinkingPart("hm", "sig", "mine"), TextPart("so")))
        assert fitted(message) == [message]

    @pytest.mark.parametrize(
        "thought",
        [ThinkingPart("hm", "sig", "other"), ThinkingPart("hm", "", "mine"), ThinkingPart("hm")],
        ids=["of another provider", "not signed", "of nobody"],
    )
    def test_it_is_left_out_elsewhere(self, thought: ThinkingPart) -> None:
        assert fitted(Message("assistant", (thought, TextPart("so")))) == [Message.assistant("so")]

    def test_it_is_left_out_where_nothing_came_of_it(self) -> None:
        thought = ThinkingPart("hm", "sig", "mine")
        assert fitted(Message("assistant", (thought, TextPart("so"), thought))) == [
            Message("assistant", (thought, TextPart("so")))
        ]
        assert fitted(Message.user("hi"), Message("assistant", (thought,))) == [Message.user("hi")]
        empty = Message("assistant", (thought, TextPart("")))  # which no protocol is sent
        assert fitted(empty) == [Message("assistant", (TextPart(""),))]


class TestArguments:
    @pytest.mark.parametrize("arguments", ["{}", '{"a": 1.50}', ' {"a":\n{"b": []}} '])
    def test_an_object_stays_byte_for_byte(self, arguments: str) -> None:
        message = Message("assistant", (ToolCallPart("c", "get", arguments),))
        assert fitted(message) == [message]

    @pytest.mark.parametrize("arguments", ["", " "])
    def test_none_are_an_empty_object(self, arguments: str) -> None:
        assert sent(arguments) == {}

    @pytest.mark.parametrize("arguments", ['{"city": "Rom', "[1]", '"x"', "7", "{}{}", '{"a":' * 50_000])
    def test_what_is_no_object_is_one_that_has_the_text(self, arguments: str) -> None:
        assert sent(arguments) == {"arguments": arguments}

    def test_text_that_utf8_cannot_say_is_still_an_object(self) -> None:
        assert sent('{"a": "\ud800"}') == {"arguments": '{"a": "?"}'}


class TestCallIds:
    def test_an_id_that_fits_stays_as_it_is(self) -> None:
        conversation = [called("call_a-1", "B"), answered("B", "call_a-1")]
        assert fitted(*conversation) == conversation

    @pytest.mark.parametrize("given", ["x" * 41, "a.b", "call:1", "", "gr\u00fcn", "\ud800"])
    def test_another_becomes_a_digest_of_itself_the_same_in_every_request(self, given: str) -> None:
        first, second = fitted(called(given), answered(given)), fitted(called(given), answered(given))
        assert first == second
        assert ids(first, ToolCallPart) == ids(first, ToolResultPart)
        assert re.fullmatch("call_[0-9a-f]{32}", ids(first, ToolCallPart)[0])

    def test_ids_that_are_used_again_are_told_apart(self) -> None:
        conversation = fitted(
            called("0", "0"), answered("0", "0"), called("0"), answered("0"), called("other", "0")
        )
        made = ids(conversation, ToolCallPart)
        assert made[0] == "0"
        assert len(set(made)) == len(made)
        assert ids(conversation, ToolResultPart) == made[:3]

    def test_a_call_that_was_never_answered_does_not_take_the_result_of_a_later_one(self) -> None:
        conversation = fitted(called("0"), Message.user("leave it"), called("0"), answered("0"))
        assert ids(conversation, ToolResultPart) == ids(conversation, ToolCallPart)[1:]

    def test_a_result_of_no_call_is_left_for_the_provider_to_refuse(self) -> None:
        assert fitted(answered("nobody")) == [answered("nobody")]

    @given(turns=st.lists(st.lists(st.text(max_size=80), min_size=1, max_size=4), max_size=6))
    def test_every_result_has_the_id_of_its_call_and_every_id_fits(self, turns: list[list[str]]) -> None:
        conversation = [message for each in turns for message in (called(*each), answered(*each))]
        made = fitted(*conversation)
        assert ids(made, ToolCallPart) == ids(made, ToolResultPart)
        assert len(set(ids(made, ToolCallPart))) == sum(map(len, turns))
        assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,40}", each) for each in ids(made, ToolCallPart))
        assert made[: len(conversation) - 2] == fitted(*conversation[:-2])

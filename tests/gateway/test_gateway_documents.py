"""A document counts before the call: for a key's dollars and rate, and for the model's window."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any

from support.gateway import gateway

if TYPE_CHECKING:
    from pathlib import Path

ASK = {"model": "alpha", "max_tokens": 5}


def pdf(pages: int) -> str:
    return b64encode(b"%PDF-1.7\n" + b"<< /Type /Page >>\n" * pages).decode()


def for_messages(pages: int) -> dict[str, Any]:
    source = {"type": "base64", "media_type": "application/pdf", "data": pdf(pages)}
    return {**ASK, "messages": [{"role": "user", "content": [{"type": "document", "source": source}]}]}


def for_chat(pages: int) -> dict[str, Any]:
    file = {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{pdf(pages)}"}
    content = [{"type": "file", "file": file}]
    return {**ASK, "model": "beta", "messages": [{"role": "user", "content": content}]}


DOORS = (("/v1/messages", for_messages), ("/v1/chat/completions", for_chat))


async def test_a_key_whose_dollars_do_not_pay_for_a_document_is_refused_at_both_doors(tmp_path: Path) -> None:
    keys = {"poor": {"limits": (None, None, 0.01)}}  # which pays for three pages
    async with gateway(tmp_path, keys=keys) as gate:
        headers = {"authorization": f"Bearer {gate.secrets['poor']}"}
        for path, body in DOORS:
            refused = await gate.post(path, body(10), headers)
            assert refused.status == 402
            assert "more than all of the budget of $0.01 a day" in refused.json["error"]["message"]
            assert gate.asked == []
        for path, body in DOORS:
            assert (await gate.post(path, body(3), headers)).status == 200


async def test_a_document_counts_for_the_rate_of_a_key_at_both_doors(tmp_path: Path) -> None:
    async with gateway(tmp_path, keys={"slow": {"limits": (None, 20_000)}}) as gate:
        headers = {"authorization": f"Bearer {gate.secrets['slow']}"}
        for path, body in DOORS:
            assert (await gate.post(path, body(10), headers)).status == 429
            assert (await gate.post(path, body(2), headers)).status == 200


async def test_a_document_that_no_window_has_room_for_is_refused_before_the_call(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        for path, body in DOORS:
            refused = await gate.post(path, body(60), {})
            assert refused.status == 400
            assert "do not fit its 100000" in refused.json["error"]["message"]
        assert gate.asked == []

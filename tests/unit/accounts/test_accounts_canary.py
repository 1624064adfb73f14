"""The text of a key is nowhere but where it was shown."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest

from attune.accounts import AccountError, Gatekeeper
from attune.stores.sqlite import SqliteStore
from attune.wire.redaction import redact
from support.program import Program
from unit.accounts.gateway_accounts import a_key


def test_a_key_is_in_no_file_log_text_or_error(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    program = Program(tmp_path)
    key = program("keys", "create", "ci", "--usd-per-day", "5", "--tiers", "cheap").out.strip()
    headers = [(b"authorization", f"Bearer {key}".encode()), (b"x-api-key", key.encode())]
    said = [repr(program(*arguments)) for arguments in (("keys", "list"), ("keys", "list", "--json"))]
    said += [program("keys", *arguments).err for arguments in (("revoke", key), ("create", key))]
    with contextlib.closing(SqliteStore.open(tmp_path / "attune" / "data" / "ledger.db")) as store:
        said += asyncio.run(use(store, headers))
        held = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert any(path.name == "ledger.db-wal" for path in held)
        assert [path for path in held if key.encode() in path.read_bytes()] == []
    said.append(program("keys", "revoke", "ci", "--yes").out)
    assert [
        path for path in tmp_path.rglob("*") if path.is_file() and key.encode() in path.read_bytes()
    ] == []
    assert len(said) > 8
    assert key not in "\n".join(said) + caplog.text


async def use(store, headers):
    """Everything a caller can be told, with every text of what was involved."""
    gatekeeper = Gatekeeper(store)
    said = []
    async with gatekeeper:
        account = gatekeeper.authenticate(headers)
        admission = await gatekeeper.admit(account, 10)
        held = await gatekeeper.budget(account).reserve(10, ttl_s=60)
        said += map(repr, (account, admission, held, gatekeeper, store.all_keys()))
        with pytest.raises(AccountError) as caught:
            account.check(tier=headers[1][1].decode())
        said.append(f"{caught.value!r} {caught.value}")
        store.revoke_key(account.id, 1.0)
        await gatekeeper.refresh()
        for sent in (headers, [(name, value + b"x") for name, value in headers]):
            with pytest.raises(AccountError) as caught:
                gatekeeper.authenticate(sent)
            said.append(f"{caught.value!r} {caught.value} {vars(caught.value)}")
    return said


def test_a_key_of_the_gateway_is_taken_out_of_every_message():
    key = a_key().reveal()
    assert redact(f"upstream says: {key} is wrong") == "upstream says: [redacted] is wrong"
    assert redact("attune-models 0.1.0") == "attune-models 0.1.0"

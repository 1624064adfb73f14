"""Every test of the gateway bears witness: what it answers is in its OpenAPI document."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from attune.gateway import counting
from attune.gateway.operations import Operations
from support.openapi import documented

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def no_machine_is_too_slow_to_count_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "LONGEST_SECONDS", 300.0)


@pytest.fixture(autouse=True)
def every_status_is_documented(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    count, seen = Operations.count, set()

    def counted(self: Operations, path: str, status: int, outcome: str, seconds: float) -> None:
        seen.add((path, status))
        count(self, path, status, outcome, seconds)

    monkeypatch.setattr(Operations, "count", counted)
    yield
    unknown = {(path, status) for path, status in seen if status != 499 and path != "other"}
    assert not {each for each in unknown if each not in documented()}, "in no operation of openapi.json"

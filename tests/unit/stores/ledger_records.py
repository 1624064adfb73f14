"""Records to put into a store."""

from __future__ import annotations

from typing import Any

from attune.errors import ErrorClass
from attune.models.telemetry import CostStatus, LLMCallRecord, TokenUsage

NOW = 1_800_000_000.0


def attempt(call_id: str = "c1", **changed: Any) -> LLMCallRecord:
    record = LLMCallRecord(
        call_id=call_id,
        attempt_id=f"{call_id}.a",
        decision_id=f"{call_id}.d",
        at=NOW,
        workflow="review",
        stage="security",
        task_type="review_security",
        provider="anthropic",
        model_id="claude-sonnet-5-5",
        tier="capable",
        credential="default",
        success=True,
        latency_ms=1200.5,
        ttft_ms=300.25,
        usage=TokenUsage(1000, 200, 600, 100, 50),
        cost_nanos=4_000_001,
        cost_status=CostStatus.EXACT,
        price_version="2026-11-22",
        stop_reason="stop",
        session_id="s1",
    )
    return record._replace(**changed)


FAILED = {
    "success": False,
    "error_class": ErrorClass.TRANSIENT,
    "error_code": "overloaded_error",
    "ttft_ms": None,
    "usage": None,
    "cost_nanos": None,
    "cost_status": CostStatus.UNKNOWN,
    "stop_reason": "",
}

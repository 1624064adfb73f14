"""What the gateway tells of itself: health, metrics, models, tokens, decisions and outcomes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from attune.errors import InvalidRequestError, StoreError, UnknownNameError
from attune.gateway.counting import TokenCounter
from attune.gateway.http import HTTPError, send_answer
from attune.models.explanation import flips
from attune.models.tasks import REALTIME_REQUIRED_TASKS
from attune.models.telemetry import as_object
from attune.wire.doors import sentence
from attune.wire.errors import MALFORMED
from attune.wire.redaction import one_line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from attune.accounts import Account, Gatekeeper
    from attune.gateway.http import Request
    from attune.gateway.naming import Names
    from attune.models.registry import ModelInfo
    from attune.models.telemetry import LLMCallRecord
    from attune.runtime import Runtime

__all__ = ["Operations"]

MAX_SMALL_BODY = 1024 * 1024
MAX_COUNTED_BODY = 32 * 1024 * 1024
_DOCUMENT = Path(__file__).with_name("openapi.json").read_bytes()
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Outcome(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /v1/attune/outcomes``."""

    call_id: str
    success: bool
    score: float | None = None


class Operations:
    """The paths beside the doors. ``providers`` may be used.

    Labels of metrics are of the catalog and of paths, never a client's.
    """

    def __init__(
        self, runtime: Runtime, names: Names, gatekeeper: Gatekeeper, *, providers: frozenset[str]
    ) -> None:
        self._runtime = runtime
        self._names = names
        self._gatekeeper = gatekeeper
        self._providers = providers
        self.counter = TokenCounter()
        self._metrics = CollectorRegistry()
        self._children: dict[tuple[Any, tuple[str, ...]], Any] = {}
        self._requests = Counter(
            "attune_requests",
            "Requests by path, status and what became of the answer",
            ("path", "status", "outcome"),
            registry=self._metrics,
        )
        self._seconds = Histogram(
            "attune_request_seconds",
            "Seconds a request took",
            ("path",),
            buckets=_SECONDS,
            registry=self._metrics,
        )
        names_of = ("provider", "model")
        self._attempts = Counter(
            "attune_attempts",
            "Attempts by candidate and outcome",
            (*names_of, "outcome"),
            registry=self._metrics,
        )
        self._tokens = Counter(
            "attune_tokens", "Tokens by candidate and kind", (*names_of, "kind"), registry=self._metrics
        )
        self._dollars = Counter(
            "attune_cost_usd", "Known cost in USD by candidate", names_of, registry=self._metrics
        )

    def count(self, path: str, status: int, outcome: str, seconds: float) -> None:
        """Count a request. ``outcome`` is ``complete``, ``broken`` for an answer that ended in an error after
        its head, or ``left`` where the client went away.
        """
        self._labelled(self._requests, path, str(status), outcome).inc()
        self._labelled(self._seconds, path).observe(seconds)

    def attempted(self, record: LLMCallRecord) -> None:
        """Count an attempt."""
        candidate = record.provider, record.model_id
        self._labelled(self._attempts, *candidate, record.error_class or "success").inc()
        if record.usage is not None:
            self._labelled(self._tokens, *candidate, "input").inc(record.usage.input_tokens)
            self._labelled(self._tokens, *candidate, "output").inc(record.usage.output_tokens)
        if record.cost_nanos:
            self._labelled(self._dollars, *candidate).inc(record.cost_nanos / 1e9)

    def _labelled(self, metric: Any, *values: str) -> Any:
        """The child of a metric: ``labels`` takes a lock and makes texts of all values, at every call."""
        child = self._children.get((metric, values))
        if child is None:
            child = self._children[metric, values] = metric.labels(*values)
        return child

    async def open(self, path: str, send: Callable[[Any], Awaitable[None]]) -> int:
        """``/health``, ``/ready`` and ``/openapi.json``, which need no key and tell no secret."""
        if path == "/openapi.json":
            await send_answer(send, 200, _DOCUMENT)
            return 200
        why = self._unready() if path == "/ready" else []
        status = 503 if why else 200
        await send_answer(send, status, {"status": "ok"} if not why else {"status": "not ready", "why": why})
        return status

    def _unready(self) -> list[str]:
        why = []
        if not self._providers:
            why.append("no provider is enrolled; set a key such as ANTHROPIC_API_KEY, or add a provider")
        if self._gatekeeper.last_error is not None:
            why.append("the keys cannot be read")
        if self._runtime.store.last_error is not None:
            why.append("the ledger cannot be written")
        return why

    async def respond(
        self, request: Request, account: Account | None, send: Callable[[Any], Awaitable[None]]
    ) -> int:
        """Every path that is neither a door nor open."""
        path = request.path
        if path == "/metrics":
            content = generate_latest(self._metrics)
            await send_answer(send, 200, content, content_type=CONTENT_TYPE_LATEST)
            return 200
        if path.startswith("/v1/models"):
            answer = self._models(request, account)
        elif path == "/v1/messages/count_tokens":
            answer = await self._count_tokens(request, account)
        elif path == "/v1/attune/outcomes":
            answer = await self._outcome(request, account)
        else:
            answer = await self._decision(path.rpartition("/")[2], account)
        await send_answer(send, 200, answer)
        return 200

    def _models(self, request: Request, account: Account | None) -> object:
        models = [
            model
            for model in self._names.registry.models
            if model.provider in self._providers and (account is None or account.allows_model(model))
        ]
        names = [each for each in self._names.listed() if self._may_ask(each, account, models)]
        ids = [*names, *(model.label for model in models)]
        wanted = request.path.removeprefix("/v1/models").strip("/")
        anthropic = bool(request.header("anthropic-version"))
        entries = [_anthropic_model(each) if anthropic else _openai_model(each) for each in ids]
        if wanted:
            if wanted not in ids:
                raise HTTPError(404, str(UnknownNameError("model", one_line(wanted), ids)))
            return entries[ids.index(wanted)]
        if anthropic:
            return {"data": entries, "has_more": False, "first_id": ids[0], "last_id": ids[-1]}
        return {"object": "list", "data": entries}

    def _may_ask(self, name: str, account: Account | None, models: Sequence[ModelInfo]) -> bool:
        """Whether a name that is no model's stands for something that a key may have, of ``models``."""
        meant = self._names.meaning(name)
        if (model := meant.get("model")) is not None:
            return any(model in {each.id, each.label} for each in models)
        if account is None:
            return True
        if (tier := meant.get("tier")) is not None:
            return any(each.tier == tier and not each.embeds for each in models)
        return account.allows_realtime or meant.get("task_type") not in REALTIME_REQUIRED_TASKS

    async def _count_tokens(self, request: Request, account: Account | None) -> object:
        body = await request.body(MAX_COUNTED_BODY)
        if account is not None:
            await self._gatekeeper.admit(account, 0)
        return {"input_tokens": await self.counter.count(body)}

    async def _outcome(self, request: Request, account: Account | None) -> object:
        body = await request.body(MAX_SMALL_BODY)
        try:
            outcome = msgspec.json.decode(body, type=Outcome)
        except MALFORMED as error:
            raise InvalidRequestError(sentence(error)) from None
        await self._own(outcome.call_id, account)
        await asyncio.to_thread(
            self._runtime.record_outcome, outcome.call_id, success=outcome.success, score=outcome.score
        )
        return {"recorded": outcome.call_id}

    async def _decision(self, call_id: str, account: Account | None) -> object:
        await self._own(call_id, account)
        store = self._runtime.store
        decision = await asyncio.to_thread(store.decision, call_id)
        attempts = await asyncio.to_thread(store.attempts, call_id)
        outcomes = await asyncio.to_thread(store.outcomes, call_id)
        if decision is None:
            raise HTTPError(404, f"no decision of the call {one_line(call_id)[:60]!r} is known")
        return {
            "decision": as_object(decision),
            "flips": as_object(await asyncio.to_thread(flips, decision)),
            "attempts": [as_object(attempt) for attempt in attempts],
            "outcomes": [as_object(outcome) for outcome in outcomes],
            "labelled_share": self._runtime.router.labelled_share(*decision[3:6]),
        }

    async def _own(self, call_id: str, account: Account | None) -> None:
        """Refuse a call that another key made, as if it were not there."""
        try:
            await self._runtime.store.flush()
            decision = await asyncio.to_thread(self._runtime.store.decision, call_id)
        except StoreError as error:
            raise HTTPError(503, str(error)) from None
        whose = dict(decision.features).get("account", "") if decision is not None else None
        if whose is None or (account is not None and whose != account.id):
            raise HTTPError(404, f"the call {one_line(call_id)[:60]!r} is not known to this key")


def _openai_model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": name.partition("/")[0]}


def _anthropic_model(name: str) -> dict[str, object]:
    return {"id": name, "type": "model", "display_name": name, "created_at": "1970-01-01T00:00:00Z"}

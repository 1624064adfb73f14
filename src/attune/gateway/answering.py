"""One request at a door: who asks, what for, who answers, and what it is told."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

from attune.accounts import AccountError
from attune.aside import aside
from attune.errors import AttuneError, InvalidRequestError, ModelUnavailableError, StreamBrokenError
from attune.gateway.http import LARGE_BODY, ClientGoneError, HTTPError, head, send_answer, send_body
from attune.models.executor import EventKind
from attune.models.interruption import Interruptible
from attune.models.registry import EMBEDDINGS
from attune.models.request import ExecutionContext
from attune.models.tasks import REALTIME_REQUIRED_TASKS, normalize_task
from attune.wire.carrying import carried, only_here, protocol_for
from attune.wire.doors import AnswerHead
from attune.wire.whole_body import WholeBody

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from attune.accounts import Account, Admission, Gatekeeper, KeyBudget
    from attune.calls_under_way import TrackedStream
    from attune.clock import Clock
    from attune.gateway.http import Request
    from attune.gateway.naming import Names
    from attune.models.executor import LLMResponse, StreamEvent
    from attune.models.request import LLMRequest, Source
    from attune.runtime import Runtime
    from attune.wire.door_errors import ErrorAnswer
    from attune.wire.doors import Door

__all__ = ["Answering"]

PING_SECONDS = 10.0
"""After so long without content a streaming client is told that all is well, and again each time."""


class Prepared(NamedTuple):
    """A request that was let in. What it was counted with for its key's rate stays counted, unless it is
    known what was used.
    """

    request: LLMRequest
    context: ExecutionContext
    admission: Admission | None
    budget: KeyBudget | None

    def used(self, response: LLMResponse) -> None:
        """Count the tokens of the answer."""
        if self.admission is not None and response.usage is not None:
            self.admission.settle(response.usage.input_tokens + response.usage.output_tokens)

    def unused(self) -> None:
        """Count no tokens: nothing was answered."""
        if self.admission is not None:
            self.admission.settle(0)


class Answering:
    """Answers what comes to a door. ``speaks`` maps each provider to the protocols that it speaks."""

    def __init__(
        self,
        runtime: Runtime,
        names: Names,
        gatekeeper: Gatekeeper,
        *,
        clock: Clock,
        max_body_bytes: int,
        speaks: Mapping[str, tuple[str, ...]],
    ) -> None:
        self._runtime = runtime
        self._names = names
        self._gatekeeper = gatekeeper
        self._clock = clock
        self._max_body_bytes = max_body_bytes
        self._speaks = speaks

    async def answer(
        self, door: Door, request: Request, account: Account | None, send: Callable[[Any], Awaitable[None]]
    ) -> int:
        """Answer one request; returns the status. Raises ``ClientGoneError`` when nobody listens any more."""
        try:
            prepared = await self._prepare(door, request, account)
        except AttuneError as error:
            return await self._refuse(door, error, send)
        answering = Interruptible()
        try:
            with answering:
                request.departure.tell(lambda: answering.interrupt(ClientGoneError("the client went away")))
                if prepared.request.stream:
                    return await self._stream(door, prepared, send)
                return await self._whole(door, prepared, send)
        finally:
            request.departure.tell(None)

    # -- before the call -------------------------------------------------------------------------

    async def _prepare(self, door: Door, request: Request, account: Account | None) -> Prepared:
        body = await request.body(self._max_body_bytes)
        if len(body) > LARGE_BODY:
            model, asked = await aside(door.read, body, request.headers)
        else:
            model, asked = door.read(body, request.headers)
        fields = {**self._names.purpose(request, model), **self._names.meaning(model)}
        self._names.check_kind(model, fields.get("model"), self._speaks, embeddings=EMBEDDINGS in asked.needs)
        allowed = self._carriers(asked, fields.get("model"))
        asked = _at_most(asked, self._names.most_output(fields, allowed))
        if account is not None:
            fields |= self._scope(account, fields) | {"account": account.id}
            allowed = allowed if account.allowed_providers is None else allowed & account.allowed_providers
        context = ExecutionContext.of({**fields, "allow_providers": allowed})
        admission = budget = None
        if account is not None:
            output = (asked.max_output_tokens or door.EXPECTED_OUTPUT) * asked.answers
            tokens = asked.estimated_input_tokens() + output
            admission = await self._gatekeeper.admit(account, tokens)
            budget = self._gatekeeper.budget(account)
        return Prepared(asked, context, admission, budget)

    def _carriers(self, asked: LLMRequest, model: str | None) -> frozenset[str]:
        """The providers that can be asked the whole of it.

        Raises ``InvalidRequestError`` that names what no enrolled provider of ``model`` can be asked, and
        ``ModelUnavailableError`` where none has it: what says "later" some clients ask 30 times.
        """
        source = _source(asked)
        able: set[str] = set()
        refusal: InvalidRequestError | None = None
        serving = self._speaks.keys() if model is None else self._names.providers_of(model)
        if model is not None and serving.isdisjoint(self._speaks):
            raise ModelUnavailableError(
                f"no enrolled provider has the model {model!r}; set the key of one that has, or say in "
                "[gateway.aliases] what stands for it",
                code="model_not_found",
            )
        for provider, protocols in self._speaks.items():
            if provider not in serving:
                continue
            try:
                carried(source, source.protocol if source.protocol in protocols else protocols[0])
            except InvalidRequestError as error:
                refusal = error
            else:
                able.add(provider)
        if refusal is not None and not able:
            raise refusal
        return frozenset(able)

    def _scope(self, account: Account, fields: Mapping[str, Any]) -> dict[str, Any]:
        """What the key narrows the call to. Raises ``ScopeError`` for what it does not allow."""
        task = normalize_task(fields.get("task_type") or "")
        account.check(tier=fields.get("tier"), realtime=task in REALTIME_REQUIRED_TASKS)
        if account.allows_every_model:
            return {}
        models = self._names.registry.models
        if named := fields.get("model"):
            found = self._names.registry.find(named)
            if not any(account.allows_model(model) for model in found):
                account.check(model=found[0])
        if all(account.allows_model(model) for model in models):
            return {}
        return {"allow_models": frozenset(model.label for model in models if account.allows_model(model))}

    # -- the call --------------------------------------------------------------------------------

    async def _whole(self, door: Door, prepared: Prepared, send: Callable[[Any], Awaitable[None]]) -> int:
        """One body: the provider's own where it speaks the door's protocol, a translation of it elsewhere."""
        came: list[StreamEvent] = []
        try:
            response = await self._runtime.run(
                prepared.request, prepared.context, cap=prepared.budget, events=came
            )
        except AttuneError as error:
            prepared.unused()
            return await self._refuse(door, error, send, call_id=error.call_id)
        prepared.used(response)
        write = partial(self._body, door, prepared.request, response, came)
        try:
            body = await aside(write) if _is_large(response) else write()
        except StreamBrokenError as error:
            return await self._refuse(door, error, send, call_id=response.call_id)
        await send_answer(send, 200, body, headers=self._told(prepared, response))
        return 200

    def _body(
        self, door: Door, request: LLMRequest, response: LLMResponse, came: Sequence[StreamEvent]
    ) -> bytes:
        relays = self._protocol(request, f"{response.provider}/{response.model_id}") == door.protocol
        if relays:
            whole = WholeBody(door.protocol)
            try:
                for event in came:
                    whole.feed(event)
                return whole.finish()
            except StreamBrokenError:
                if only_here(_source(request)):  # what is asked is in no ``LLMResponse``
                    raise
        told = AnswerHead(response.call_id, response.model_id, response.provider, int(self._clock.time()))
        return door.body(response, request, told, relays=relays)

    def _told(self, prepared: Prepared, response: LLMResponse) -> dict[str, str]:
        """What the headers of a whole answer say of it."""
        headers = {
            "x-attune-call-id": response.call_id,
            "x-attune-model": f"{response.provider}/{response.model_id}",
            **self._left_out(prepared.request, f"{response.provider}/{response.model_id}"),
        }
        if response.decision is not None:
            failed = len(response.attempts) - 1
            after = (
                f"; {response.provider}/{response.model_id} answered after {failed} failed" if failed else ""
            )
            headers["x-attune-decision"] = _line(response.decision.reason + after)
        if response.cost_usd is not None:
            headers["x-attune-cost-usd"] = f"{response.cost_usd:.9f}"
        return headers

    async def _stream(self, door: Door, prepared: Prepared, send: Callable[[Any], Awaitable[None]]) -> int:
        runtime = self._runtime
        events = runtime.stream(prepared.request, prepared.context, ping_s=PING_SECONDS, cap=prepared.budget)
        answer = _StreamedAnswer(self, door, prepared, events, send)
        try:
            async with events:
                async for event in events:
                    if event.kind is EventKind.PING and events.candidate is None:
                        await answer.ping()
                    else:
                        await answer.write(event)
        except AttuneError as error:
            if events.candidate is None:
                prepared.unused()
            if not answer.begun:
                return await self._refuse(door, error, send, call_id=events.call_id)
            await answer.end(door.error_event(error, now=self._clock.time(), call_id=events.call_id))
            return 200
        if events.response is not None:
            prepared.used(events.response)
        await answer.end(b"")
        return 200

    def _protocol(self, request: LLMRequest, label: str) -> str:
        """The protocol that a request went by to the model ``label``."""
        (model,) = self._names.registry.find(label)
        return protocol_for(request, model, self._speaks[model.provider])

    def _left_out(self, request: LLMRequest, label: str) -> dict[str, str]:
        dropped = carried(_source(request), self._protocol(request, label)).dropped
        return {"x-attune-dropped": _line(", ".join(dropped))} if dropped else {}

    async def _refuse(
        self,
        door: Door,
        error: AttuneError,
        send: Callable[[Any], Awaitable[None]],
        *,
        call_id: str = "",
    ) -> int:
        if isinstance(error, ClientGoneError):
            raise error
        answer = refusal(door, error, now=self._clock.time(), call_id=call_id, speaks=self._speaks)
        ids = {"x-attune-call-id": call_id} if call_id else {}
        await send_answer(send, answer.status, answer.body, headers={**answer.headers, **ids})
        return answer.status


class _StreamedAnswer:
    """A stream on its way to the client: the head once, then what the writer makes of the events."""

    def __init__(
        self,
        answering: Answering,
        door: Door,
        prepared: Prepared,
        events: TrackedStream,
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        self._answering = answering
        self._door = door
        self._prepared = prepared
        self._events = events
        self._send = send
        self._writer: Any = None
        self._unsent: list[bytes] = []
        self.begun = False

    async def ping(self) -> None:
        """Tell the client that its answer is still being made."""
        await self._begin()
        await send_body(self._send, self._door.PING, more=True)

    async def write(self, event: Any) -> None:
        """Pass one event on, together with those that have come already, and the last one with the end."""
        if self._writer is None:
            self._writer = self._make_writer()
        if content := self._writer.feed(event):
            self._unsent.append(content)
        if self._unsent and not self._events.has_more and event.kind is not EventKind.TERMINAL:
            await self._begin()
            content, self._unsent = b"".join(self._unsent), []
            await send_body(self._send, content, more=True)

    async def end(self, last: bytes) -> None:
        """The last bytes of the answer."""
        await self._begin()
        await send_body(self._send, b"".join((*self._unsent, last)))

    def _make_writer(self) -> Any:
        answering, candidate = self._answering, self._events.candidate
        assert candidate is not None  # an event that is no ping comes after the commit
        told = AnswerHead(
            self._events.call_id, candidate.model_id, candidate.provider, int(answering._clock.time())
        )
        protocol = answering._protocol(self._prepared.request, candidate.label)
        return self._door.stream(self._prepared.request, told, relays=protocol == self._door.protocol)

    async def _begin(self) -> None:
        if self.begun:
            return
        self.begun = True
        headers = {"x-attune-call-id": self._events.call_id, "cache-control": "no-store"}
        decision, candidate = self._events.decision, self._events.candidate
        if decision is not None:
            other = candidate is not None and candidate != decision.candidate
            after = f"; {candidate} answers, others failed" if other else ""
            headers["x-attune-decision"] = _line(decision.reason + after)
        if candidate is not None:
            headers["x-attune-model"] = candidate.label
            headers |= self._answering._left_out(self._prepared.request, candidate.label)
        await self._send(head(200, "text/event-stream", headers))


def refusal(
    door: Door,
    error: AttuneError,
    *,
    now: float,
    call_id: str = "",
    speaks: Mapping[str, tuple[str, ...]] | None = None,
) -> ErrorAnswer:
    """The answer that refuses a request, in the shape of the door's protocol."""
    status = error.status if isinstance(error, AccountError | HTTPError) else None
    answer = door.error(error, now=now, status=status, call_id=call_id, speaks=speaks or {})
    if isinstance(error, HTTPError):
        headers = {**answer.headers, **error.headers}
        if error.status == 408 or "retry-after" in error.headers:
            headers.pop("x-should-retry", None)
        return answer._replace(headers=headers)
    if isinstance(error, AccountError) and error.retry_after is not None:
        return answer._replace(headers={"retry-after": str(max(1, ceil(error.retry_after)))})
    return answer


def _is_large(response: LLMResponse) -> bool:
    texts = (getattr(part, "text", "") or getattr(part, "arguments", "") for part in response.content)
    return sum(map(len, texts)) > LARGE_BODY


def _at_most(request: LLMRequest, tokens: int | None) -> LLMRequest:
    """The request with a limit that can be kept: clients ask for more than a model can give, and mean all."""
    if tokens is None or (request.max_output_tokens or 0) <= tokens:
        return request
    return replace(request, max_output_tokens=tokens)


def _source(request: LLMRequest) -> Source:
    assert request.source is not None  # a door gives it
    return request.source


def _line(text: str) -> str:
    """A header's value: one line of ASCII, at most 500 characters."""
    return " ".join(text.encode("ascii", "replace").decode().split())[:500]

"""One request at a door: who asks, what for, who answers, and what it is told."""

from __future__ import annotations

from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from attune.errors import (
    AttuneError,
    ErrorClass,
    InvalidRequestError,
    ModelUnavailableError,
    StreamBrokenError,
)
from attune.gateway.http import LARGE_BODY, BrokenAnswerError, ClientGoneError, send_answer
from attune.gateway.refusing import in_one_time, refusal
from attune.gateway.streamed_answer import StreamedAnswer, noted, one_header_line
from attune.models.registry import EMBEDDINGS
from attune.models.request import ExecutionContext
from attune.models.tasks import REALTIME_REQUIRED_TASKS, normalize_task
from attune.wire.carrying import carried, left_out, only_here, protocol_for
from attune.wire.doors import AnswerHead
from attune.wire.turns import in_turns
from attune.wire.whole_body import WholeBody

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from attune.accounts import Account, Admission, Gatekeeper, KeyBudget
    from attune.clock import Clock
    from attune.gateway.http import Departure, Request
    from attune.gateway.naming import Names
    from attune.models.executor import LLMResponse, StreamEvent
    from attune.models.request import LLMRequest, Source
    from attune.models.telemetry import LLMCallRecord
    from attune.runtime import Runtime
    from attune.wire.doors import Asked, Door

__all__ = ["Answering"]

PING_SECONDS = 10.0
"""After so long without content a streaming client is told that all is well, and again each time."""

_made: ContextVar[list[LLMCallRecord]] = ContextVar("_made")
"""The records of the attempts that were made for the request which is answered in this context."""


class Prepared(NamedTuple):
    """A request that was let in. What it was counted with for its key's rate stays counted, unless it is
    known what was used.
    """

    request: LLMRequest
    context: ExecutionContext
    admission: Admission | None
    budget: KeyBudget | None

    def settle(self, made: Sequence[LLMCallRecord]) -> None:
        """Count the tokens that the ledger has of the attempts. A call that was left before anything was
        known of its tokens may have taken all that it was counted with.
        """
        if self.admission is None:
            return
        known = [each.usage for each in made if each.usage is not None]
        if known or not any(each.error_class == ErrorClass.CANCELLED for each in made):
            self.admission.settle(sum(usage.input_tokens + usage.output_tokens for usage in known))


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
        """Answer one request; returns the status. Raises ``ClientGoneError`` when nobody listens any more,
        and ``BrokenAnswerError`` for an answer that ended in an error, after its head.
        """
        _made.set([])
        try:
            with request.departure:
                prepared = await self._prepare(door, request, account)
        except AttuneError as error:
            return await self._refuse(door, error, send)
        answer = self._stream if prepared.request.stream else self._whole
        return await answer(door, prepared, request.departure, send)

    def attempted(self, record: LLMCallRecord) -> None:
        """Remember an attempt that was made for a request."""
        if (made := _made.get(None)) is not None:
            made.append(record)

    # -- before the call -------------------------------------------------------------------------

    async def _prepare(self, door: Door, request: Request, account: Account | None) -> Prepared:
        body = await request.body(self._max_body_bytes)
        if len(body) > LARGE_BODY:
            model, asked = await in_turns(_read_through, door, body, request.headers)
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

    async def _whole(
        self,
        door: Door,
        prepared: Prepared,
        departure: Departure,
        send: Callable[[Any], Awaitable[None]],
    ) -> int:
        """One body: the provider's own where it speaks the door's protocol, a translation of it elsewhere."""
        came: list[StreamEvent] = []
        call_id = ""
        try:
            with departure:
                try:
                    response = await self._runtime.run(
                        prepared.request, prepared.context, cap=prepared.budget, events=came
                    )
                finally:
                    prepared.settle(_made.get())
                call_id = response.call_id
                write = partial(self._body, door, prepared.request, response, came)
                body = await in_turns(write) if _is_large(response) else write()
        except AttuneError as error:
            return await self._refuse(door, error, send, call_id=call_id or error.call_id)
        with departure:
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
            headers["x-attune-decision"] = one_header_line(response.decision.reason + after)
            headers |= noted(response.decision)
        if response.cost_usd is not None:
            headers["x-attune-cost-usd"] = f"{response.cost_usd:.9f}"
        return headers

    async def _stream(
        self,
        door: Door,
        prepared: Prepared,
        departure: Departure,
        send: Callable[[Any], Awaitable[None]],
    ) -> int:
        runtime = self._runtime
        events = runtime.stream(prepared.request, prepared.context, ping_s=PING_SECONDS, cap=prepared.budget)
        answer = StreamedAnswer(
            door,
            prepared.request,
            events,
            send,
            protocol=self._protocol,
            left_out=self._left_out,
            clock=self._clock,
        )
        try:
            with departure:
                try:
                    await answer.write_all()
                finally:
                    prepared.settle(_made.get())
                await answer.end(b"")
        except ClientGoneError:
            raise
        except AttuneError as error:
            if not answer.begun:
                return await self._refuse(door, error, send, call_id=events.call_id)
            told = in_one_time(error, self._clock.time())
            await answer.end(door.error_event(told, now=self._clock.time(), call_id=events.call_id))
            raise BrokenAnswerError(str(error)) from None
        return 200

    def _protocol(self, request: LLMRequest, label: str) -> str:
        """The protocol that a request went by to the model ``label``."""
        (model,) = self._names.registry.find(label)
        return protocol_for(request, model, self._speaks[model.provider])

    def _left_out(self, request: LLMRequest, label: str) -> dict[str, str]:
        (model,) = self._names.registry.find(label)
        dropped = left_out(request, model, self._protocol(request, label))
        return {"x-attune-dropped": one_header_line(", ".join(dropped))} if dropped else {}

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


def _is_large(response: LLMResponse) -> bool:
    texts = (getattr(part, "text", "") or getattr(part, "arguments", "") for part in response.content)
    return sum(map(len, texts)) > LARGE_BODY


def _read_through(door: Door, body: bytes, headers: Mapping[str, str]) -> Asked:
    """What ``door.read`` gives, with all known of it that takes a look at every message."""
    read = door.read(body, headers)
    _ = read.request.needs, read.request.bound_to, read.request.estimated_input_tokens()
    return read


def _at_most(request: LLMRequest, tokens: int | None) -> LLMRequest:
    """The request with a limit that can be kept: clients ask for more than a model can give, and mean all."""
    if tokens is None or (request.max_output_tokens or 0) <= tokens:
        return request
    return request.at_most(tokens)


def _source(request: LLMRequest) -> Source:
    assert request.source is not None  # a door gives it
    return request.source

"""The gateway as an ASGI application: who may come in, which door a path is, and what is told of it."""

from __future__ import annotations

import logging
import re
from time import monotonic
from typing import TYPE_CHECKING, Any

from attune.errors import AttuneError, UnknownNameError
from attune.gateway.answering import Answering
from attune.gateway.bodies import Bodies
from attune.gateway.http import (
    LARGE_BODY,
    BrokenAnswerError,
    ClientGoneError,
    HTTPError,
    Request,
    is_loopback,
    send_answer,
)
from attune.gateway.naming import Names
from attune.gateway.operations import Operations
from attune.gateway.refusing import refusal
from attune.wire.chat_door import ChatDoor
from attune.wire.embeddings_door import EmbeddingsDoor
from attune.wire.messages_door import MessagesDoor
from attune.wire.redaction import one_line
from attune.wire.responses_door import ResponsesDoor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container, Mapping

    from attune.accounts import Account, Gatekeeper
    from attune.clock import Clock
    from attune.config.settings import GatewayConfig
    from attune.models.telemetry import LLMCallRecord
    from attune.runtime import Runtime
    from attune.wire.doors import Door

__all__ = ["Gateway", "shape_of"]

_log = logging.getLogger("attune.gateway")

DOORS: Mapping[str, Door] = {
    "/v1/chat/completions": ChatDoor(),
    "/v1/responses": ResponsesDoor(),
    "/v1/embeddings": EmbeddingsDoor(),
    "/v1/messages": MessagesDoor(),
}
_READS = ("/v1/models", "/v1/attune/decisions", "/metrics")
_READ_PATH = re.compile(r"/v1/models(/.*)?|/v1/attune/decisions/[^/]+|/metrics", re.DOTALL)
_WRITES = ("/v1/messages/count_tokens", "/v1/attune/outcomes")
_OPEN = ("/health", "/ready", "/openapi.json")
_GONE = 499
"""What the log says of a request whose client went away."""


class Gateway:
    """Answers HTTP requests with a runtime. ``loopback`` says that only this machine can reach it."""

    def __init__(
        self,
        runtime: Runtime,
        gatekeeper: Gatekeeper,
        config: GatewayConfig,
        *,
        clock: Clock,
        loopback: bool = True,
    ) -> None:
        self._gatekeeper = gatekeeper
        self._config = config
        self._clock = clock
        self._loopback = loopback
        self._bodies = Bodies(max(config.max_bodies_mib, config.max_body_mib) * 1024 * 1024)
        allowed = runtime.config.routing.allow_providers
        speaks = {
            each.name: each.speaks
            for each in runtime.config.providers
            if allowed is None or each.name in allowed
        }
        names = Names(runtime.config.registry, config.aliases, config.rules, speaks.keys())
        self._answering = Answering(
            runtime,
            names,
            gatekeeper,
            clock=clock,
            max_body_bytes=config.max_body_mib * 1024 * 1024,
            speaks=speaks,
        )
        self.operations = Operations(runtime, names, gatekeeper, providers=frozenset(speaks))

    async def __call__(
        self,
        scope: Mapping[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        """See ASGI; anything but HTTP is refused."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive, self._bodies, timeout_s=self._config.client_timeout_seconds)
        began = monotonic()
        sent = _Sent(send)
        outcome = "complete"
        try:
            status = await self._respond(request, sent)
        except ClientGoneError:
            status, outcome = _GONE, "left"
        except BrokenAnswerError:
            status, outcome = 200, "broken"
        except Exception:  # noqa: BLE001  (the last resort: it is logged, and the client is told)
            _log.exception("a defect of the gateway, at %s %s", request.method, _known(request.path))
            status, outcome = 500, "broken" if sent.begun else "complete"
            if not sent.begun:
                await send_answer(sent, 500, {"error": {"message": "a defect of the gateway; see its log"}})
        finally:
            request.release()
            if sent.bytes > LARGE_BODY:
                self._bodies.return_memory_soon()
        seconds = monotonic() - began
        self.operations.count(_known(request.path), status, outcome, seconds)
        _log.info(
            {
                "method": request.method,
                "path": _known(request.path),
                "status": status,
                "outcome": outcome,
                "ms": round(seconds * 1000, 1),
                "call": sent.headers.get("x-attune-call-id", ""),
                "model": sent.headers.get("x-attune-model", ""),
                "key": sent.key,
            }
        )

    def attempted(self, record: LLMCallRecord) -> None:
        """Count an attempt: to be called with the record of every one."""
        self.operations.attempted(record)
        self._answering.attempted(record)

    async def _respond(self, request: Request, send: _Sent) -> int:
        try:
            if request.path in _OPEN:
                _check_method(request, "GET")
                return await self.operations.open(request.path, send)
            account = self._account(request)
            send.key = "" if account is None else account.name
            self._check_route(request, account)
            if request.path in DOORS:
                return await self._answering.answer(DOORS[request.path], request, account, send)
            with request.departure:
                return await self.operations.respond(request, account, send)
        except (ClientGoneError, BrokenAnswerError):
            raise
        except AttuneError as error:
            answer = refusal(shape_of(request.path, request.headers), error, now=self._clock.time())
            await send_answer(send, answer.status, answer.body, headers=answer.headers)
            return answer.status

    def _account(self, request: Request) -> Account | None:
        """Whose key it is; ``None`` where no key is needed. Raises ``AccountError`` or ``HTTPError``."""
        open_here = self._loopback and request.path == "/metrics"
        if self._gatekeeper.requires_keys and not open_here:
            return self._gatekeeper.authenticate(request.raw_headers)
        self._check_origin(request)
        return None

    def _check_origin(self, request: Request) -> None:
        """Without a key, only programs of this machine may ask: no web page, and under no other name that
        was made to lead here (DNS rebinding).
        """
        for host in map(_host, request.every("host") or [""]):
            if not is_loopback(host):
                raise HTTPError(
                    403, f"without keys only this machine is answered, not as {one_line(host)[:60]!r}"
                )
        for origin in filter(None, request.every("origin")):
            raise HTTPError(
                403, f"without keys web pages are not answered ({one_line(origin)[:60]!r}); make a key"
            )

    def _check_route(self, request: Request, account: Account | None) -> None:
        path, posts = request.path, request.path in DOORS or request.path in _WRITES
        if not posts and not _READ_PATH.fullmatch(path):
            known = [*DOORS, *_READS, *_WRITES, *_OPEN]
            raise HTTPError(404, str(UnknownNameError("path", one_line(path), known)))
        if account is not None:
            account.check(route=path)
        _check_method(request, "POST" if posts else "GET")


class _Sent:
    """What has been sent of an answer, for the log."""

    def __init__(self, send: Callable[[Any], Awaitable[None]]) -> None:
        self._send = send
        self.begun = False
        self.bytes = 0
        self.headers: dict[str, str] = {}
        self.key = ""

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            self.headers = {name.decode(): value.decode("latin-1") for name, value in message["headers"]}
        else:
            self.bytes += len(message["body"])
        await self._send(message)


def _check_method(request: Request, method: str) -> None:
    if request.method != method and (method, request.method) != ("GET", "HEAD"):
        raise HTTPError(
            405, f"{_known(request.path)} takes {method}, not {request.method}", headers={"allow": method}
        )


def _host(header: str) -> str:
    """The host without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower()


def shape_of(path: str, headers: Container[str]) -> Door:
    """Whose errors the client understands that asks for ``path``, with headers of these names."""
    anthropic = path.startswith("/v1/messages") or "anthropic-version" in headers
    return DOORS.get(path, DOORS["/v1/messages" if anthropic else "/v1/chat/completions"])


def _known(path: str) -> str:
    """A path for logs and metrics: no text that a client chose."""
    known = (*DOORS, *_WRITES, *_OPEN)
    if path in known:
        return path
    return next((each for each in _READS if path.startswith(each) and _READ_PATH.fullmatch(path)), "other")

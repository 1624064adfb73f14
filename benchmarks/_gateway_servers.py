"""The gateways that ``gateway.py`` measures: how each is started on a port, and how each is asked.

All stand before the same upstream. A model is named after the path of the upstream that answers for it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import _gateway_bodies
import _peers
from _gateway_load import Asked
from _gateway_process import ServerProcess, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PROVIDER_KEY = "canary-not-a-secret"
LITELLM_KEY = "sk-not-a-secret-of-the-benchmark"
PORTKEY = "@portkey-ai/gateway"
PORTKEY_VERSION = "1.15.2"
PORTKEY_HTTP = {"@hono/node-server": "1.13.8"}
"""What it serves with. It takes any 1.x, and with 1.19 answers every stream with 500."""

_JSON = {"content-type": "application/json"}
_ENDS = "[DONE]"


class Gateway(NamedTuple):
    """A gateway that can be started, and started again, in its ``home``.

    ``argv`` is its command for a port, ``asked`` what is asked of it at an address: a case's name and the
    request.
    """

    of: str
    home: Path
    env: Mapping[str, str]
    ready_path: str
    argv: Callable[[int], Sequence[str]]
    asked: Callable[[str], dict[str, Asked]]
    is_peer: bool = False

    def start(self) -> ServerProcess:
        """Start it, and return when it is ready. Raises ``RuntimeError`` if it does not get there."""
        port = free_port()
        return ServerProcess(
            self.of, self.argv(port), port=port, ready_path=self.ready_path, env=self.env, home=self.home
        )


def chats(of_model: Callable[[str], tuple[str, Mapping[str, str]]]) -> dict[str, Asked]:
    """The cases that everyone has. ``of_model`` gives the address before ``/v1`` and the headers."""
    cases = {}
    for case, model in (("chat", "whole"), ("chat, streamed", "streamed"), ("chat, paced", "paced")):
        url, headers = of_model(model)
        stream = model != "whole"
        body = _gateway_bodies.chat_request(model, stream=stream)
        answer = _ENDS if stream else _gateway_bodies.ANSWER
        told = {**_JSON, **headers}
        cases[case] = Asked(f"{url}/v1/chat/completions", body, told, answer, model == "paced")
    return cases


def direct(upstream: str) -> dict[str, Asked]:
    """The upstream itself."""
    return chats(lambda model: (f"{upstream}/{model}", {}))


def floor(upstream: str, home: Path) -> Gateway:
    """uvicorn and aiohttp with nothing between them."""
    script = str(Path(__file__).with_name("_gateway_floor.py"))
    return Gateway(
        "uvicorn + aiohttp",
        home,
        _peers.environment(home),
        "/ready",
        lambda port: [sys.executable, script, str(port), upstream],
        lambda address: chats(lambda model: (f"{address}/{model}", {})),
    )


def attune(upstream: str, home: Path) -> Gateway:
    """attune with everything on: keys, routing, ledger, metrics, its log."""
    env = {**_peers.environment(home), "PROVIDER_KEY": PROVIDER_KEY}
    folder = Path(env["ATTUNE_HOME"])
    folder.mkdir()
    (folder / "config.toml").write_text(_configuration(upstream))
    program = str(Path(sys.executable).with_name("attune"))
    plain = _new_key(program, env, "plain")
    limits = ["--usd-per-day", "1000000", "--requests-per-minute", "1000000000"]
    limited = _new_key(program, env, "limited", *limits)

    def asked(address: str) -> dict[str, Asked]:
        bearer = {"authorization": f"Bearer {plain}"}
        cases = chats(lambda _: (address, bearer))
        chat = cases["chat"]
        messages = f"{address}/v1/messages"
        told = {**_JSON, "x-api-key": plain, "anthropic-version": "2023-06-01"}
        request = _gateway_bodies.messages_request("messages")
        folded = chat._replace(body=_gateway_bodies.chat_request("streamed"))
        return {
            **cases,
            "chat, key with a budget": chat._replace(headers={**_JSON, "authorization": f"Bearer {limited}"}),
            "chat, folded from a stream": folded,
            "messages": Asked(messages, request, told, _gateway_bodies.ANSWER),
            "chat to messages": chat._replace(body=_gateway_bodies.chat_request("messages")),
        }

    return Gateway(
        "attune",
        home,
        env,
        "/ready",
        lambda port: [program, "up", "--port", str(port)],
        asked,
    )


def _configuration(upstream: str) -> str:
    """A provider and a model of the same name for each path of the upstream."""
    lines = []
    for name in ("whole", "streamed", "paced", "messages"):
        kind, path = ("anthropic", "") if name == "messages" else ("openai", "/v1")
        lines += [f"[providers.{name}]", f'kind = "{kind}"', f'base_url = "{upstream}/{name}{path}"']
        lines += ['api_key = "env:PROVIDER_KEY"', "[[models]]", f'id = "{name}"', f'provider = "{name}"']
        lines += ['tier = "capable"', "context_window = 128000", "max_output_tokens = 8192"]
        lines += ["input_price = 1.0", "output_price = 5.0"]
    return "\n".join(lines) + "\n"


def _new_key(program: str, env: Mapping[str, str], *words: str) -> str:
    argv = [program, "keys", "create", *words, "--json"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise RuntimeError(f"no key could be made: {(done.stderr.strip() or 'no output').splitlines()[-1]}")
    return str(json.loads(done.stdout)["key"])


def litellm(upstream: str, home: Path) -> Gateway | None:
    """LiteLLM's proxy without a database, with the one key that it insists on."""
    python = _litellm_python()
    if python is None:
        return None
    models = [
        {
            "model_name": name,
            "litellm_params": {
                "model": f"openai/{name}",
                "api_base": f"{upstream}/{name}/v1",
                "api_key": "os.environ/PROVIDER_KEY",
            },
        }
        for name in ("whole", "streamed", "paced")
    ]
    file = home / "config.yaml"
    file.write_text(json.dumps({"model_list": models}))  # JSON is YAML
    program = str(python.with_name("litellm"))
    return Gateway(
        f"{_peers.label('litellm')} proxy",
        home,
        _peers.environment(home)
        | {"PROVIDER_KEY": PROVIDER_KEY, "LITELLM_MASTER_KEY": LITELLM_KEY}
        | {"LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR"},
        "/health/liveliness",
        lambda port: [program, "--config", str(file), "--host", "127.0.0.1", "--port", str(port)],
        lambda address: chats(lambda _: (address, {"authorization": f"Bearer {LITELLM_KEY}"})),
        is_peer=True,
    )


def portkey(upstream: str, home: Path) -> Gateway | None:
    """Portkey's gateway, which a header of each request tells where to go."""
    script = _portkey_script()
    if script is None:
        return None
    loopback = home / "loopback.cjs"
    loopback.write_text(_ON_LOOPBACK)

    def told(model: str) -> Mapping[str, str]:
        where = {"provider": "openai", "api_key": PROVIDER_KEY, "custom_host": f"{upstream}/{model}/v1"}
        return {"x-portkey-config": json.dumps(where)}

    return Gateway(
        f"Portkey {PORTKEY_VERSION}",
        home,
        {**_peers.environment(home), "NODE_ENV": "production"},
        "/",
        lambda port: ["node", "--require", str(loopback), str(script), f"--port={port}", "--headless"],
        lambda address: chats(lambda model: (address, told(model))),
        is_peer=True,
    )


_ON_LOOPBACK = """
// It would listen on every interface, and has no option for that.
const { Server } = require("node:net");
const listen = Server.prototype.listen;
Server.prototype.listen = function (port, ...rest) {
  return listen.call(this, { port, host: "127.0.0.1" }, ...rest.filter((each) => typeof each === "function"));
};
"""


def _litellm_python() -> Path | None:
    """The interpreter of an environment with LiteLLM's proxy, made if needed."""
    version = _peers.VERSIONS["litellm"]
    folder = _peers.HOME / "litellm-proxy"
    requirement = f"litellm[proxy]=={version}"
    installed = _installed(requirement, folder, version, lambda: _peers._install(folder, requirement))
    return folder / "bin" / "python" if installed else None


def _portkey_script() -> Path | None:
    """Portkey's program, installed by npm if needed."""
    folder = _peers.HOME / "portkey"

    def install() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        wanted = {"dependencies": {PORTKEY: PORTKEY_VERSION}, "overrides": PORTKEY_HTTP, "private": True}
        (folder / "package.json").write_text(json.dumps(wanted))
        quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        _peers._run("npm", "install", *quiet, "--prefix", str(folder))

    if not _installed(f"{PORTKEY} {PORTKEY_VERSION}", folder, PORTKEY_VERSION, install):
        return None
    return folder / "node_modules" / PORTKEY / "build" / "start-server.js"


def _installed(what: str, folder: Path, version: str, install: Callable[[], None]) -> bool:
    """Whether it is there, or could be installed; ``False`` with a line on stderr."""
    ready = folder / f"ready-{version}"
    if ready.exists():
        return True
    print(f"installing {what} into {folder.relative_to(_peers.ROOT)} ...", file=sys.stderr)
    try:
        install()
    except (OSError, subprocess.SubprocessError) as error:
        print(f"{what} could not be installed, so it is left out: {error}", file=sys.stderr)
        return False
    ready.touch()
    return True

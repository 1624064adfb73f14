"""The upstream of ``gateway.py``: nginx on loopback, which answers every path with its own bytes.

Under ``/whole/`` and ``/messages/`` one JSON body, under ``/streamed/`` a stream in one piece. ``/paced/`` is
a stream that comes piece by piece from a process behind it.
"""

from __future__ import annotations

import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import _gateway_bodies
import _peers
from _gateway_process import ServerProcess, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONFIG = """
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 300s;
    tcp_nodelay on;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    upstream paced {{ server 127.0.0.1:{paced}; keepalive 64; }}
    server {{
        listen 127.0.0.1:{port};
        location /whole/ {{ default_type application/json; {whole} }}
        location /messages/ {{ default_type application/json; {messages} }}
        location /streamed/ {{ default_type text/event-stream; {streamed} }}
        location /paced/ {{
            proxy_pass http://paced;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""

_MOST = 2000
"""Characters of a text in nginx's configuration, whose parser takes 4,096 bytes; escapes count too."""


@contextmanager
def upstream(folder: Path) -> Iterator[str]:
    """The address of a running nginx. Raises ``RuntimeError`` where there is none."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        raise RuntimeError("nginx is not on the PATH; on Debian: apt-get install nginx-light")
    home = folder / "upstream"
    home.mkdir()
    port, paced = free_port(), free_port()
    answers = {
        "whole": _returned(_gateway_bodies.chat()),
        "messages": _returned(_gateway_bodies.messages()),
        "streamed": _returned(_gateway_bodies.streamed()),
    }
    file = home / "nginx.conf"
    file.write_text(_CONFIG.format(port=port, paced=paced, **answers))
    script = str(Path(__file__).with_name("_gateway_paced.py"))
    env = _peers.environment(home)
    with (
        ServerProcess(
            "the paced upstream",
            [sys.executable, script, str(paced)],
            port=paced,
            ready_path="/",
            env=env,
            home=home,
        ),
        ServerProcess(
            "nginx",
            [nginx, "-p", str(home), "-e", "stderr", "-c", str(file)],
            port=port,
            ready_path="/whole/",
            env=env,
            home=home,
        ),
    ):
        yield f"http://127.0.0.1:{port}"


def _returned(text: str) -> str:
    """Statements of nginx that answer with a text of any length."""
    pieces = [text[place : place + _MOST] for place in range(0, len(text), _MOST)]
    sets = [f"set $piece{number} {_quoted(piece)};" for number, piece in enumerate(pieces)]
    whole = "".join(f"${{piece{number}}}" for number in range(len(pieces)))
    return f'{" ".join(sets)} return 200 "{whole}";'


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'

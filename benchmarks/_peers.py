"""Peers to measure beside attune, each installed in an environment of its own.

An environment is made when it is first asked for, under ``.make/peers/NAME`` of the checkout, and kept.
The versions are pinned: a figure beside a peer names the peer's version.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOME = ROOT / ".make" / "peers"

VERSIONS = {"attune-ai": "16.4.0", "litellm": "1.106.2", "tensorzero": "2026.6.0"}
"""attune-ai is the package whose ``attune.models`` has the same names; litellm the most used router;
tensorzero a gateway in Rust that can also be embedded.
"""

INSTALL_SECONDS = 600


def label(name: str) -> str:
    """The peer's name and version, as shown in tables."""
    return f"{name} {VERSIONS[name]}"


def environment(home: Path) -> dict[str, str]:
    """Variables for a measured process: its own home, bytecode caches as users have them, no network.

    LiteLLM would fetch its price map at import otherwise, which is not what is measured.
    """
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "SSL_CERT_FILE") if name in os.environ}
    return {
        **kept,
        "HOME": str(home),
        "ATTUNE_HOME": str(home / "attune"),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }


def python_of(name: str) -> Path | None:
    """The interpreter of a peer's environment, made if needed.

    ``None``, with a line on stderr, if it cannot be installed.
    """
    folder = HOME / name
    ready = folder / f"ready-{VERSIONS[name]}"
    python = folder / "bin" / "python"
    if ready.exists():
        return python
    print(f"installing {label(name)} into {folder.relative_to(ROOT)} ...", file=sys.stderr)
    try:
        _install(folder, f"{name}=={VERSIONS[name]}")
    except (OSError, subprocess.SubprocessError) as error:
        print(f"{label(name)} could not be installed, so it is left out: {error}", file=sys.stderr)
        return None
    ready.touch()
    return python


def _install(folder: Path, requirement: str) -> None:
    """A new environment with one package, by uv, or by pip where uv cannot reach the packages."""
    shutil.rmtree(folder, ignore_errors=True)
    python = str(folder / "bin" / "python")
    _run(sys.executable, "-m", "venv", str(folder))
    try:
        uv = str(Path(sys.executable).with_name("uv"))
        _run(uv, "pip", "install", "--quiet", "--python", python, requirement)
    except (OSError, subprocess.CalledProcessError):
        _run(python, "-m", "pip", "install", "--quiet", requirement)


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, timeout=INSTALL_SECONDS)

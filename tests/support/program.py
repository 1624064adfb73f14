"""The real ``attune`` program in a process of its own, with a home and an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ATTUNE = str(Path(sys.executable).with_name("attune"))
LIMIT_SECONDS = 180

CANARY = "canary-value-of-a-key-not-a-secret"

MINE = """\
[providers.mine]
kind = "openai"
base_url = "{url}"
api_key = "env:MINE_KEY"

[[models]]
id = "m"
provider = "mine"
tier = "capable"
context_window = 100000
input_price = 1.0
output_price = 5.0

[routing]
allow_providers = ["mine"]
"""
"""A configuration with one provider, at ``url``; the embedded model is not used, installed or not."""


class Ended(NamedTuple):
    """How a run of the program ended."""

    code: int
    out: str
    err: str


class Program:
    """Runs ``attune`` as a user would; ``environ`` is all that it sees, with ``MINE_KEY`` set."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.bin = home / "bin"
        self.bin.mkdir()
        kept = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE")}
        self.environ = {
            **kept,
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HOME": str(home),
            "ATTUNE_HOME": str(home / "attune"),
            "MINE_KEY": CANARY,
        }

    @property
    def config_file(self) -> Path:
        return self.home / "attune" / "config.toml"

    def configure(self, text: str) -> None:
        """Write the configuration."""
        self.config_file.parent.mkdir(exist_ok=True)
        self.config_file.write_text(text)

    def install(self, name: str, script: str) -> None:
        """Put a shell script on the program's PATH."""
        (self.bin / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / name).chmod(0o755)

    def __call__(self, *args: str, stdin: bytes = b"", **environ: str) -> Ended:
        """Run it to its end. No output may ever hold a key, and only a bug ends in a traceback."""
        done = subprocess.run(
            [ATTUNE, *args],
            input=stdin,
            env={**self.environ, **environ},
            cwd=self.home,
            capture_output=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
        ended = Ended(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert CANARY not in ended.out + ended.err
        assert "Traceback" not in ended.err, ended.err
        return ended

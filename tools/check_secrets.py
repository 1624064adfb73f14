"""Fail if the tree holds what must not be in it: a secret, a path of this machine, a registry's address.

Looks at every file that git tracks or would track. A line that contains ``not-a-secret`` is let
through by the secret patterns: an obvious fake in a test carries that marker, inside its value
(``sk-ant-not-a-secret-...``) or in a comment on its line.

Usage: ``python tools/check_secrets.py [ROOT]``. Prints ``file:line: what`` for each finding, never the
value that was found. Exit code 1 if there is any, 2 if ROOT is no git checkout.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MARKER = "not-a-secret"

SECRETS = {
    "an Anthropic key": re.compile(r"\bsk-ant-[\w-]{16,}"),
    "an OpenAI key": re.compile(r"\bsk-(?:(?:proj|svcacct|admin)-[\w-]{16,}|[A-Za-z0-9]{32,})"),
    "a Google key": re.compile(r"\bAIza[\w-]{35}"),
    "an AWS key id": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a GitHub token": re.compile(r"\bgh[pousr]_[A-Za-z0-9]{36}"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a bearer token": re.compile(r"\b[Bb]earer\s+[\w.~+/-]{20,}"),
}

# In a lock file a place to fetch from is always a trace of one machine: pip and uv know theirs.
ADDRESS = re.compile(r"://|^\s*(?:-i|-f|--(?:extra-)?index-url|--find-links|--trusted-host)\b")


def tracked_files(root: Path) -> list[str]:
    """Every file under ``root`` that is tracked, or untracked and not ignored."""
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted(name for name in set(listed.stdout.split("\0")) if name and (root / name).is_file())


def findings_in(name: str, text: str, machine: tuple[str, ...]) -> Iterator[str]:
    """What is wrong with one file, as ``file:line: what``."""
    for number, line in enumerate(text.splitlines(), 1):
        if MARKER not in line:
            for what, pattern in SECRETS.items():
                if pattern.search(line):
                    yield f"{name}:{number}: looks like {what}; mark an obvious fake with {MARKER}"
        if any(path in line for path in machine):
            yield f"{name}:{number}: an absolute path of this machine; make it relative"
        if name.startswith("requirements/") and ADDRESS.search(line):
            yield f"{name}:{number}: an address in a requirements file; take it out (see `make lock`)"


def findings(root: Path) -> list[str]:
    """What is wrong with the tree under ``root``. Binary files are not looked at."""
    machine = (f"{root}/", f"{Path.home()}/")
    found: list[str] = []
    for name in tracked_files(root):
        content = (root / name).read_bytes()
        if b"\0" not in content[:8192]:
            found += findings_in(name, content.decode("utf-8", "replace"), machine)
    return found


def main(arguments: list[str]) -> int:
    """Check the tree named by ``arguments`` (default: the checkout of this file)."""
    root = Path(arguments[0] if arguments else Path(__file__).parents[1]).resolve()
    try:
        found = findings(root)
    except subprocess.CalledProcessError:
        print(f"{root} is no git checkout; run this in a clone of the project", file=sys.stderr)
        return 2
    print("\n".join(found) or "no secrets, machine paths or registry addresses")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What a bare import loads: start-up is a feature, and a list of modules does not depend on the machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = {
    "aiohttp",
    "asyncio",
    "ddsketch",
    "genai_prices",
    "msgspec",
    "numpy",
    "pydantic",
    "questionary",
    "quicktok",
    "rich",
    "socket",
    "sqlite3",
    "ssl",
    "typer",
    "xllamacpp",
}

FIRST_LOOK = "import attune.models as m; m.get_model('anthropic', 'cheap')"


def loaded_by(code: str) -> set[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    shown = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    return set(shown.stdout.split())


@pytest.mark.parametrize("code", ["import attune.errors", "import attune.models", FIRST_LOOK])
def test_the_import_loads_no_heavy_library(code):
    assert loaded_by(code) & HEAVY == set()

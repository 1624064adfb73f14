"""``tools/check_secrets.py`` finds what must not be in the tree, in real checkouts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "check_secrets.py"

# Put together at run time, so that this file itself holds nothing that looks like a secret.
FAKES = {
    "an Anthropic key": "sk-ant-" + "api03-" + "x" * 24,
    "an OpenAI key": "sk-proj-" + "x" * 24,
    "a Google key": "AIza" + "x" * 35,
    "an AWS key id": "AKIA" + "X" * 16,
    "a GitHub token": "ghp_" + "x" * 36,
    "a private key": "-----BEGIN " + "OPENSSH PRIVATE KEY-----",
    "a bearer token": "Authorization: Bearer " + "x" * 24,
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    return tmp_path


def run_tool(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(TOOL), str(root)], capture_output=True, text=True, check=False)


def test_a_clean_tree_passes(checkout):
    (checkout / "a.py").write_text("key = 'env:ANTHROPIC_API_KEY'\n")
    result = run_tool(checkout)
    assert result.returncode == 0
    assert result.stdout == "no secrets, machine paths or registry addresses\n"


@pytest.mark.parametrize(("what", "secret"), FAKES.items(), ids=FAKES)
def test_a_secret_is_named_by_place_and_kind_and_never_repeated(checkout, what, secret):
    (checkout / "a.py").write_text(f"ok = 1\nkey = '{secret}'\n")
    result = run_tool(checkout)
    assert result.returncode == 1
    assert result.stdout.startswith(f"a.py:2: looks like {what}")
    assert secret not in result.stdout + result.stderr


def test_a_marked_fake_is_let_through_but_not_the_line_after_it(checkout):
    secret = FAKES["an OpenAI key"]
    (checkout / "a.py").write_text(f"fake = '{secret}'  # not-a-secret\nreal = '{secret}'\n")
    assert run_tool(checkout).stdout.splitlines() == [
        "a.py:2: looks like an OpenAI key; mark an obvious fake with not-a-secret"
    ]


def test_words_that_only_begin_like_a_key_are_no_secrets(checkout):
    (checkout / "a.md").write_text("task-antenna-description-of-everything sk-ant-short Bearer token\n")
    assert run_tool(checkout).returncode == 0


def test_files_that_git_ignores_and_binary_files_are_not_looked_at(checkout):
    secret = FAKES["an Anthropic key"]
    (checkout / ".gitignore").write_text("ignored/\n")
    (checkout / "ignored").mkdir()
    (checkout / "ignored" / "a.py").write_text(secret)
    (checkout / "a.bin").write_bytes(b"\0" + secret.encode())
    assert run_tool(checkout).returncode == 0


def test_a_tracked_file_that_was_deleted_is_passed_over(checkout):
    (checkout / "a.py").write_text("ok = 1\n")
    subprocess.run(["git", "-C", str(checkout), "add", "a.py"], check=True)
    (checkout / "a.py").unlink()
    assert run_tool(checkout).returncode == 0


def test_paths_of_this_machine_are_found(checkout):
    (checkout / "a.md").write_text(f"see {checkout.resolve()}/src and {Path.home()}/x\n")
    assert "a.md:1: an absolute path of this machine" in run_tool(checkout).stdout


@pytest.mark.parametrize(
    "line", ["--index-url foo", "  -f wheels", "x @ file" + "://y", "a==1  # from http" + "://z"]
)
def test_an_address_in_a_requirements_file_is_found(checkout, line):
    (checkout / "requirements").mkdir()
    (checkout / "requirements" / "dev.txt").write_text(f"a==1\n{line}\n")
    assert "requirements/dev.txt:2: an address" in run_tool(checkout).stdout


def test_a_folder_outside_of_git_is_one_clear_line(tmp_path):
    result = run_tool(tmp_path)
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        f"{tmp_path.resolve()} is no git checkout; run this in a clone of the project"
    ]


def test_this_project_is_clean():
    result = run_tool(TOOL.parents[1])
    assert result.stdout == "no secrets, machine paths or registry addresses\n"

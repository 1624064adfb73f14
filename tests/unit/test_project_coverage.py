"""``tools/check_coverage.py`` holds each part of the code to its floor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "check_coverage.py"


def summary(statements: int, covered: int, branches: int, covered_branches: int) -> dict[str, object]:
    return {
        "summary": {
            "num_statements": statements,
            "covered_lines": covered,
            "num_branches": branches,
            "covered_branches": covered_branches,
        }
    }


def run_tool(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(TOOL), str(path)], capture_output=True, text=True, check=False)


@pytest.fixture
def judge(tmp_path: Path):
    def run(files: dict[str, object], *, branch: bool = True) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "coverage.json"
        path.write_text(json.dumps({"meta": {"branch_coverage": branch}, "files": files}))
        return run_tool(path)

    return run


def test_parts_at_their_floors_pass(judge):
    result = judge(
        {
            "src/attune/models/a.py": summary(100, 95, 100, 95),
            "src/attune/config.py": summary(100, 85, 100, 85),
        }
    )
    assert result.returncode == 0
    models, rest = result.stdout.splitlines()
    assert models == (
        "coverage of src/attune/models: 95.0 % of statements, 95.0 % of branches (at least 95 % of each)"
    )
    assert rest.startswith("coverage of the rest of src/attune: 85.0 % of statements, 85.0 % of branches")


def test_unreached_branches_fail_although_every_statement_ran(judge):
    assert judge({"src/attune/models/a.py": summary(100, 100, 100, 94)}).returncode == 1


def test_unreached_statements_fail_although_every_branch_was_taken(judge):
    assert judge({"src/attune/config.py": summary(100, 84, 100, 100)}).returncode == 1


def test_a_part_is_judged_as_a_whole_and_its_worst_file_comes_first(judge):
    result = judge(
        {
            "src/attune/models/good.py": summary(100, 100, 10, 10),
            "src/attune/models/bad.py": summary(100, 50, 10, 10),
            "src/attune/cli/other.py": summary(10, 10, 0, 0),
        }
    )
    assert result.returncode == 1
    assert result.stdout.splitlines()[1] == "  src/attune/models/bad.py: 50.0 %, 100.0 %"
    assert "src/attune/cli" not in result.stdout


def test_a_report_without_branch_measurement_is_refused(judge):
    assert "no branch measurement" in judge({"a": summary(1, 1, 0, 0)}, branch=False).stderr


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_what_is_no_report_is_one_clear_line(tmp_path, content):
    path = tmp_path / "coverage.json"
    if content is not None:
        path.write_text(content)
    result = run_tool(path)
    assert result.returncode == 2
    assert result.stderr.startswith(f"{path} is no JSON report of coverage")
    assert len(result.stderr.splitlines()) == 1


def test_without_an_argument_the_usage_is_shown():
    result = subprocess.run([sys.executable, str(TOOL)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (2, "usage: check_coverage.py COVERAGE.json\n")

"""``attune auth recommend`` for a folder: what should pay for work on each of its modules."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attune.cli._auth_recommend import Situation, as_json, read_text, recommend
from attune.cli._exit import ExitCode
from attune.cli._payment import strategy_flags
from attune.cli._terminal import counted, dollars, folded, load_config, print_json, print_table
from attune.errors import InvalidRequestError
from attune.models.auth_strategy import AuthMode

if TYPE_CHECKING:
    from attune.cli._auth_recommend import Recommendation
    from attune.config import Config

__all__ = ["show_folder"]

MAX_FILES = 5000
_NO_MODULES = ("node_modules", "__pycache__", "venv")
"""Folders whose files nobody works on; nor on those that are hidden."""


def show_folder(args: Any) -> int:
    """Recommend for each text file below the folder of ``args``; returns the exit code."""
    folder = Path(args.file)
    files = _files(folder)
    config = load_config(args, strategy_flags(args))
    found = _recommendations(files, config)
    if not found:
        raise InvalidRequestError(f"{folder} has no text files; name a folder with some")
    total = _total(found, left_out=len(files) - len(found))
    if getattr(args, "json", False):
        print_json({"folder": str(folder), "files": [as_json(each) for each in found], "total": total})
    else:
        _show(folder, found, total)
    return ExitCode.OK


def _files(folder: Path) -> list[Path]:
    """The files below a folder, in the order of their names, without what links lead to.

    Raises ``InvalidRequestError`` for more than ``MAX_FILES``.
    """
    files: list[Path] = []
    for within, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _NO_MODULES]
        paths = (Path(within, name) for name in names if not name.startswith("."))
        files += [path for path in paths if not path.is_symlink()]
        if len(files) > MAX_FILES:
            raise InvalidRequestError(f"{folder} has more than {MAX_FILES} files; name a folder within it")
    return sorted(files)


def _recommendations(files: list[Path], config: Config) -> list[Recommendation]:
    situation, found = Situation.of(config), []
    for file in files:
        try:
            text = read_text(str(file))
        except InvalidRequestError:  # no text, or nothing in it: it is counted as left out
            continue
        found.append(recommend(file, text, config.auth, config, situation))
    return found


def _total(found: list[Recommendation], *, left_out: int) -> dict[str, Any]:
    """Sums; ``recommended_usd`` is what is added to the bill if each file goes where it should."""
    api, paid = _sum_usd(found), _sum_usd([each for each in found if each.mode is AuthMode.API])
    return {
        "files": len(found),
        "lines": sum(each.lines for each in found),
        "tokens": sum(each.tokens for each in found),
        "by_subscription": sum(each.mode is AuthMode.SUBSCRIPTION for each in found),
        "api_usd": api,
        "recommended_usd": paid,
        "left_out": left_out,
    }


def _sum_usd(found: list[Recommendation]) -> float | None:
    """What the files cost with a key; ``None`` if the price is not known."""
    costs = [each.api.cost_usd for each in found]
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None


def _show(folder: Path, found: list[Recommendation], total: dict[str, Any]) -> None:
    rows = [
        (
            str(each.file.relative_to(folder)),
            f"{each.lines:,}",
            each.size,
            f"{each.tokens:,}",
            each.mode.value,
            dollars(each.api.cost_usd),
        )
        for each in found
    ]
    print_table(("module", ">lines", "size", ">tokens", "recommended", ">with a key"), rows)
    left_out = f"; {total['left_out']} left out: no text" if total["left_out"] else ""
    print()
    print(
        folded(
            f"{counted(total['files'], 'file')}, {counted(total['lines'], 'line')}, "
            f"{counted(total['tokens'], 'token')}: {dollars(total['api_usd'])} with a key, "
            f"{dollars(total['recommended_usd'])} as recommended, with {total['by_subscription']:,} by the "
            f"subscription{left_out}"
        )
    )
    for obstacle in dict.fromkeys(each.obstacle for each in found if each.obstacle):
        print(folded(f"{obstacle}; {found[0].payer or 'nothing'} would pay"))

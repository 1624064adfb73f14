"""``attune auth recommend`` for a folder: what should pay for work on each of its modules."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attune.cli._auth_recommend import as_json, ended, read_text, recommend
from attune.cli._payment import paying, strategy_flags
from attune.cli._terminal import counted, dollars, folded, load_config, print_json, print_table
from attune.cli._who_pays import WhoPays, work_sizes
from attune.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from attune.cli._auth_recommend import Recommendation
    from attune.config import Config
    from attune.models.auth_strategy import AuthStrategy

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
        _show(folder, found, total, config.auth)
    return ended(found, config)


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
    who, found = WhoPays(config), []
    for file in files:
        try:
            text = read_text(str(file))
        except InvalidRequestError:  # no text, or nothing in it: it is counted as left out
            continue
        found.append(recommend(file, text, config, who))
    return found


def _total(found: list[Recommendation], *, left_out: int) -> dict[str, Any]:
    """Sums; ``recommended_usd`` is what is added to the bill if each file goes where it can now. ``unpaid``
    files nothing can pay for.
    """
    return {
        "files": len(found),
        "lines": sum(each.lines for each in found),
        "tokens": sum(each.tokens for each in found),
        "by_subscription": sum(each.pays.by_plan for each in found),
        "unpaid": sum(each.pays.payer is None for each in found),
        "api_usd": _sum_usd(each.api.cost_usd for each in found),
        "recommended_usd": _sum_usd(each.billed_usd for each in found),
        "left_out": left_out,
    }


def _sum_usd(costs: Iterable[float | None]) -> float | None:
    """``None`` if one is not known."""
    known = [*costs]
    return None if None in known else sum(cost or 0.0 for cost in known)


def _show(folder: Path, found: list[Recommendation], total: dict[str, Any], strategy: AuthStrategy) -> None:
    rows = [
        (
            str(each.file.relative_to(folder)),
            f"{each.lines:,}",
            each.size.name,
            f"{each.tokens:,}",
            paying(each.pays.payer.credential) if each.pays.payer else "nothing",
            dollars(each.api.cost_usd),
        )
        for each in found
    ]
    print_table(("module", ">lines", "size", ">tokens", "would pay", ">with a key"), rows)
    left_out = f"; {total['left_out']} left out: no text" if total["left_out"] else ""
    unpaid = f"; nothing can pay for {counted(total['unpaid'], 'file')}" if total["unpaid"] else ""
    print()
    print(
        folded(
            f"{counted(total['files'], 'file')}, {counted(total['lines'], 'line')}, "
            f"{counted(total['tokens'], 'token')}: {dollars(total['api_usd'])} with a key, "
            f"{dollars(total['recommended_usd'])} as it would be paid now, with {total['by_subscription']:,} "
            f"by the subscription{unpaid}{left_out}"
        )
    )
    sizes = "; ".join(f"{size.name}: {size.span}" for size in work_sizes(strategy))
    print(folded(f"{sizes}; lines by the strategy's {strategy.loc_to_tokens_multiplier:g} tokens a line"))
    obstacles = [each.pays.summary for each in found if each.pays.obstacle]
    for summary in dict.fromkeys(obstacles):
        print(folded(f"{counted(obstacles.count(summary), 'file')}: {summary}"))

"""The instants of a split, and the errors of a split that leaves nothing to train on or to test."""

from datetime import UTC, datetime, timedelta
from typing import Any

from seerec.config import DataSettings
from seerec.errors import SeerecError

Bounds = dict[str, int | None]
"""``val_start`` and ``test_start`` in ms UTC; None where the split has no such instant."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def split_instants(settings: DataSettings) -> Bounds:
    """The instants that ``settings`` name.

    Raises
    ------
    SeerecError
        A text is no date, or dates are given for a split that has none.
    """
    instants = {name: _instant(name, getattr(settings, name)) for name in ("val_start", "test_start")}
    if settings.split != "chronological" and any(given is not None for given in instants.values()):
        raise SeerecError(
            "val_start and test_start belong to a chronological split.", "Add `--split chronological` or drop them."
        )
    return instants


def _instant(name: str, text: str | None) -> int | None:
    """Ms UTC of an ISO date or date-time."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise SeerecError(
            f"{name} is {text!r}, which is no date.", "Write it as 2023-05-22 or 2023-05-22T18:30:00 (UTC)."
        ) from error
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // timedelta(milliseconds=1)


def check_bounds(found: list[dict[str, Any]]) -> Bounds:
    """The two instants in force, from the rows of the plan's table ``bounds`` (none: leave-one-out).

    Raises
    ------
    SeerecError
        Validation would not begin before test.
    """
    if not found:
        return {"val_start": None, "test_start": None}
    val_start, test_start = found[0]["val_start"], found[0]["test_start"]
    if val_start is None or val_start >= test_start:
        val = "none" if val_start is None else _iso(val_start)
        raise SeerecError(
            f"Validation must begin before test: val_start is {val}, test_start {_iso(test_start)}.",
            "Choose an earlier `--val-start` or a later `--test-start`, within the times of the log.",
        )
    return {"val_start": val_start, "test_start": test_start}


def _iso(instant: int) -> str:
    return (_EPOCH + timedelta(milliseconds=instant)).isoformat()


def no_clicks(settings: DataSettings) -> SeerecError:
    """The error of a log without a user that stays."""
    least = settings.min_user_clicks
    if least == 1:
        return SeerecError("No user has a clicked recommendation.", "Give a log with clicked recommendations.")
    return SeerecError(
        f"No user has at least {least} clicked recommendations.",
        "Give a log with clicked recommendations, or lower the setting `min_user_clicks`.",
    )


def no_targets(
    split: str, clicks: int, found: dict[str, int], settings: DataSettings, bounds: dict[str, int | None]
) -> SeerecError:
    """The error of a split without targets, from its ``clicks`` and what became of them."""
    if clicks:
        reasons = ", ".join(
            f"{number} {name.replace('_', ' ').replace('min item clicks', f'min_item_clicks = {settings.min_item_clicks}')}"
            for name, number in found.items()
            if number
        )
        ways = ["lower the setting `min_item_clicks`"] if settings.min_item_clicks > 1 else []
        if found.get("repeated") and settings.repeats == "drop":
            ways.append("try `--repeats keep`")
        if found.get("outside_pool") and settings.split == "leave-one-out":
            ways.append("try `--split chronological`")
        own_times = " whose events have times of their own (one instant is no history of itself)"
        ways.append("give a longer log" + (own_times if found.get("without_history") else ""))
        fix = ", or ".join(ways)
        cause = f"The {split} split has no targets: of its {clicks} clicks none is left ({reasons})."
        return SeerecError(cause, f"{fix[0].upper()}{fix[1:]}.")
    if settings.split == "leave-one-out":
        return SeerecError(
            f"The {split} split has no targets: every user has fewer than 3 clicked recommendations.",
            "Give longer histories, or use `--split chronological`.",
        )
    start, end = (_iso(instant) if instant is not None else "?" for instant in bounds.values())
    return SeerecError(
        f"The {split} split has no targets: validation begins at {start}, test at {end}, and no click falls there.",
        "Choose `--val-start` and `--test-start` within the times of the log.",
    )

"""Why an item: where latent reasoning looked, and what each event of the history did to the score.

Two views. *Attention*: at each reasoning step, the weights (mean over heads and crossing layers) that the recommendation side
gave to the searches and the search side to the clicks; what is missing to 1 went to the reasoning's own inputs. Reasoning never
sees the item, so this is one picture per user. *Leave-one-out*: the item's score without one click or search, minus its score;
it works for every model, and a negative number means that the event spoke for the item.
"""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from seerec import artifact
from seerec.config import BatchSettings
from seerec.data.corpus import UNKNOWN
from seerec.data.histories import Ints, expand
from seerec.errors import SeerecError
from seerec.incoming import Log, People, log_of, parse, rows_of
from seerec.models.contexts import SIDES
from seerec.models.lcr_ser import LCRState
from seerec.recommendations import Ranker, check_k, corpus_for
from seerec.terminal import printable

_BAR = 8  # characters of the longest bar
_EIGHTHS = " ▏▎▍▌▋▊▉"
_WIDTH = 130  # characters of the rendered text


def explain(
    path: str | Path,
    *,
    user: str | int | None = None,
    history: dict[str, Any] | None = None,
    item: str | int | None = None,
    k: int = 1,
    corpus: str | Path | None = None,
    stage: int | None = None,
    exclude_seen: bool = True,
    device: str | None = None,
) -> dict[str, Any]:
    """Explain an item, or the k best items, for a user of the corpus or for a history from outside.

    Returns
    -------
        ``model``, ``user_id``, ``known``, ``ignored``; the events the model saw, oldest first: ``searches`` (``query``,
        ``clicked``, ``timestamp``) and ``clicks`` (``item_id``, ``title``, ``timestamp``), with ``timestamp`` in ms or None where
        none was given; ``steps``, empty for models without cross reasoning, each with ``step`` and, for ``recommendation_side``
        and ``search_side``, the weights ``on_searches`` or ``on_clicks`` (aligned with the events) and ``own_steps``; ``items``,
        each with ``rank`` (None for an item asked for), ``item_id``, ``title``, ``score``, and the changes of the score
        ``without_search`` and ``without_click`` (aligned with the events).

    Raises
    ------
    SeerecError
        No such model, corpus, user or item, a malformed history, scores that are not finite.
    """
    check_k(k)
    if (user is None) == (history is None):
        raise SeerecError("Exactly one of user and history is needed.", "Give a user of the corpus, or a history.")
    loaded = artifact.load(artifact.locate(path, stage))
    ranker = Ranker(loaded, device)
    if user is not None:
        data = corpus_for(loaded, path, corpus)
        log = log_of(data, int(rows_of(data, [user])[0]))
    else:
        log = parse([history], loaded)
    if item is None:
        best = ranker.best(People(log, loaded.batch), np.zeros(1, np.int64), k, exclude_seen)
        chosen = best.item[0][np.isfinite(best.score[0])]
    else:
        chosen = _item(loaded.items, item)
    clicks, searches = _window(log, loaded.batch)
    state, scores = _score(ranker, _without_each(log, clicks, searches), chosen)
    change = scores[1:] - scores[0]
    named = ranker.named(np.asarray(log.rec_item)[clicks].astype(np.int64))
    times = [_given(log.rec_time[place], log.rec_timed[0]) for place in clicks]
    return {
        "model": ranker.model.key,
        "user_id": log.user_id[0],
        "known": bool(log.row_user[0] != UNKNOWN),
        "ignored": log.ignored[0],
        "searches": [_search(ranker, log, place) for place in searches.tolist()],
        "clicks": [{**name, "timestamp": time} for name, time in zip(named, times, strict=True)],
        "steps": _steps(ranker, state, len(clicks), len(searches)),
        "items": [
            {
                "rank": rank if item is None else None,
                **name,
                "score": float(scores[0, rank - 1]),
                "without_search": change[len(clicks) :, rank - 1].tolist(),
                "without_click": change[: len(clicks), rank - 1].tolist(),
            }
            for rank, name in enumerate(ranker.named(chosen), 1)
        ],
    }


def _item(items: pa.Table, item: str | int) -> Ints:
    """The number of a raw item id, as an array of one."""
    found = pc.index(items["item_id"], str(item)).as_py()
    if found < 0:
        raise SeerecError(f"The model does not know the item {str(item)!r}.", "Ask for an item that was clicked in training.")
    return items["item"].to_numpy()[found : found + 1].astype(np.int64)


def _window(log: Log, settings: BatchSettings) -> tuple[Ints, Ints]:
    """The positions of the clicks and searches that the model sees."""
    recs, searches = len(log.rec_item), len(log.search_time)
    return np.arange(max(0, recs - settings.rec_length), recs), np.arange(max(0, searches - settings.search_length), searches)


def _without_each(log: Log, clicks: Ints, searches: Ints) -> Log:
    """V = 1 + clicks + searches copies of a single history: the whole one, then each without one of these events."""
    v = 1 + len(clicks) + len(searches)
    keep_rec, keep_search = np.ones((v, len(log.rec_item)), bool), np.ones((v, len(log.search_time)), bool)
    keep_rec[:, : max(0, len(log.rec_item) - len(clicks) - 1)] = False  # what no copy can see
    keep_search[:, : max(0, len(log.search_time) - len(searches) - 1)] = False
    keep_rec[1 + np.arange(len(clicks)), clicks] = False
    keep_search[1 + len(clicks) + np.arange(len(searches)), searches] = False
    rec, search = np.nonzero(keep_rec)[1], np.nonzero(keep_search)[1]
    lo, hi = np.asarray(log.click_offset)[search], np.asarray(log.click_offset)[search + 1]
    arrays = log.arrays | {
        "row_user": np.repeat(log.row_user, v),
        "rec_offset": np.concatenate([[0], keep_rec.sum(1).cumsum()]),
        "search_offset": np.concatenate([[0], keep_search.sum(1).cumsum()]),
        "rec_item": log.rec_item[rec],
        "rec_time": log.rec_time[rec],
        "search_time": log.search_time[search],
        "search_query": log.search_query[search],
        "click_offset": np.concatenate([[0], (hi - lo).cumsum()]),
        "click_item": log.click_item[expand(lo, hi)[1]],
    }
    return replace(log, arrays=arrays)


@torch.no_grad()
def _score(ranker: Ranker, log: Log, items: Ints) -> tuple[Any, NDArray[np.float64]]:
    """The state of all rows of a log, and the scores of these items, V x items."""
    rows = np.arange(len(log.row_user))
    state = ranker.model.encode(People(log, ranker.loaded.batch).batch(rows).to(ranker.device))
    vectors = ranker.model.items(torch.from_numpy(items).to(ranker.device))
    scores = ranker.model.score(state, vectors[None, None]).squeeze(1)
    if not bool(scores.isfinite().all()):
        raise SeerecError("The model's scores are not finite, so nothing can be explained.", "Train again.")
    return state, scores.double().cpu().numpy()


def _steps(ranker: Ranker, state: Any, clicks: int, searches: int) -> list[dict[str, Any]]:
    """Per reasoning step of row 0, what either side gave to the other's events."""
    if not isinstance(state, LCRState) or state.cross is None or not ranker.model.config.steps:
        return []
    steps, length = ranker.model.config.steps, {"s": clicks, "r": searches}
    weights = {side: state.cross[side][0, 0, 0].unflatten(0, (steps, -1)).mean(1)[:, : length[side]].tolist() for side in SIDES}
    # With the switches that keep a side's own inputs out of its context, nothing at all may have been attended to.
    config = ranker.model.config
    own = {"s": config.cross_steps, "r": config.cross_steps or config.update == "search_first"}
    return [
        {
            "step": step + 1,
            "recommendation_side": {"on_searches": weights["r"][step], "own_steps": _rest(weights["r"][step], own["r"])},
            "search_side": {"on_clicks": weights["s"][step], "own_steps": _rest(weights["s"][step], own["s"])},
        }
        for step in range(steps)
    ]


def _rest(weights: list[float], own: bool) -> float:
    """What is missing to 1, where there is something else to attend to."""
    return max(0.0, 1.0 - sum(weights)) if own else 0.0


def _search(ranker: Ranker, log: Log, place: int) -> dict[str, Any]:
    lo, hi = log.click_offset[place : place + 2]
    clicked = ranker.named(np.asarray(log.click_item)[lo:hi].astype(np.int64))
    return {"query": log.query[place], "clicked": clicked, "timestamp": _given(log.search_time[place], log.search_timed[0])}


def _given(time: np.int64, timed: np.bool_) -> int | None:
    return int(time) if timed else None


# -- for the terminal -----------------------------------------------------------------------------------------------------


def text(explanation: dict[str, Any]) -> str:
    """An explanation as plain text: the items, then one table of searches and one of clicks."""
    items, steps = explanation["items"], explanation["steps"]
    known = "" if explanation["known"] else " (not seen in training)"
    who = "a history" if explanation["user_id"] is None else f"user {explanation['user_id']}"
    head = _table(["", f"{explanation['model']} for {printable(who)}{known}", "item", "score"])
    for item in items:
        head.add_row(str(item["rank"] or ""), printable(item["title"] or ""), printable(item["item_id"]), f"{item['score']:.4f}")
    searches = [[_when(s["timestamp"]), _quoted(s["query"]), _names(s["clicked"])] for s in explanation["searches"]]
    on_searches = [(step["recommendation_side"]["on_searches"], step["recommendation_side"]["own_steps"]) for step in steps]
    clicks = [[_when(c["timestamp"]), _names([c])] for c in explanation["clicks"]]
    on_clicks = [(step["search_side"]["on_clicks"], step["search_side"]["own_steps"]) for step in steps]
    parts: list[RenderableType] = [
        head,
        Text(),
        _events(["time", "search", "clicked in it"], searches, on_searches, items, "without_search"),
        Text(),
        _events(["time", "recommended item clicked"], clicks, on_clicks, items, "without_click"),
    ]
    parts.append(Text())
    if steps:
        parts.append(Text("step: share of attention at that reasoning step, of the recommendation side or of the search side"))
    parts.append(Text("change: the score without this event minus the score; negative means that the event spoke for the item"))
    if explanation["ignored"]:
        parts.append(Text(f"ignored, since training never saw them: {printable(', '.join(explanation['ignored']))}"))
    out = io.StringIO()
    # Without markup and emoji: a query such as "[red]" is shown as it was typed.
    Console(file=out, width=_WIDTH, color_system=None, markup=False, emoji=False, legacy_windows=False).print(Group(*parts))
    return out.getvalue()


def _events(
    columns: list[str],
    rows: list[list[str]],
    steps: list[tuple[list[float], float]],
    items: Sequence[dict[str, Any]],
    change: str,
) -> Table:
    """One row per event: what it is, its weight at each step, and the change of each item's score without it."""
    changes = [f"change {item['rank'] or ''}".strip() for item in items]
    largest = max((weight for weights, _ in steps for weight in weights), default=0.0)
    table = _table([*columns, *(f"step {number}" for number in range(1, len(steps) + 1)), *changes])
    for place, row in enumerate(rows):
        table.add_row(
            *row,
            *(_bar(weights[place], largest) for weights, _ in steps),
            *(f"{item[change][place]:+.4f}" for item in items),
        )
    if not rows:
        table.add_row("", "(none)")
    if steps:
        table.add_row("", "own reasoning steps", *[""] * (len(columns) - 2), *(f"{own:.2f}" for _, own in steps))
    return table


def _table(columns: list[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(Text(name), justify="right" if name.startswith(("change", "score")) else "left", overflow="fold")
    return table


def _bar(weight: float, largest: float) -> str:
    """The weight, and a bar whose length is its share of the largest."""
    eighths = round(8 * _BAR * weight / largest) if largest else 0
    return f"{weight:.2f} {'█' * (eighths // 8)}{_EIGHTHS[eighths % 8]}".rstrip()


def _when(timestamp: int | None) -> str:
    return "" if timestamp is None else str(np.datetime_as_string(np.datetime64(timestamp, "ms"), unit="m")).replace("T", " ")


def _quoted(query: str) -> str:
    return printable(f"“{query}”" if query else "(no query)")


def _names(items: list[dict[str, Any]]) -> str:
    return printable(", ".join(item["title"] or item["item_id"] for item in items))

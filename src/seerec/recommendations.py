"""The one way from histories to recommended items: the command line, Python and anything that serves come through here.

Histories are rows of a corpus or JSON (``incoming.py``). A row is encoded once; the pool is scored in chunks against a running
best, so memory is rows x chunk. Higher scores come first, equal scores in the order of the item numbers.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from seerec import artifact
from seerec.artifact import Artifact
from seerec.atomic import atomic_file, remove_partials, write_json
from seerec.data.corpus import FIRST_ID, UNKNOWN, Corpus
from seerec.data.histories import Arrays, Ints
from seerec.device import place_of
from seerec.errors import SeerecError
from seerec.incoming import People, parse, rows_of
from seerec.models.base import Recommender
from seerec.progress import SILENT, Progress

_ROWS = 128  # users scored together
_CHUNK = 2048  # items scored together

_COLUMNS = pa.schema(
    [("user_id", pa.string()), ("rank", pa.int32()), ("item_id", pa.string()), ("title", pa.string()), ("score", pa.float64())]
)


def recommend(
    path: str | Path,
    *,
    users: Sequence[str | int] | None = None,
    histories: Sequence[dict[str, Any]] | None = None,
    k: int = 10,
    corpus: str | Path | None = None,
    stage: int | None = None,
    exclude_seen: bool = True,
    device: str | None = None,
) -> list[dict[str, Any]]:
    """The k best items for users of the corpus, for histories never seen in training, or for both (in this order).

    Parameters
    ----------
    path
        A run or an artifact. Histories need nothing else, users also the corpus.
    users
        Raw user ids; the history is everything the corpus holds of the user.
    histories
        Dictionaries as described in ``incoming.py``; with a known ``user_id`` the user's own row is used.
    corpus
        Where the corpus is, if not where the run says.
    stage
        1 or 2; None: the last there is.
    exclude_seen
        Leave out what the history holds already, in either log.

    Returns
    -------
        Per user ``user_id``, ``known`` (seen in training), ``ignored`` (item ids that training never saw) and ``items``:
        ``rank``, ``item_id``, ``title``, ``score``. Fewer than k items only where the pool has no more.

    Raises
    ------
    SeerecError
        No such model, corpus or user, a malformed history, scores that are not finite.
    """
    check_k(k)
    if users is None and histories is None:
        raise SeerecError("Nobody to recommend to was named.", "Give users or histories.")
    if isinstance(users, str):
        raise SeerecError("users must be a list of user ids, not one text.", f"Write users=[{users!r}].")
    loaded = artifact.load(artifact.locate(path, stage))
    ranker = Ranker(loaded, device)
    results: list[dict[str, Any]] = []
    if users is not None:
        data = corpus_for(loaded, path, corpus)
        row = rows_of(data, users)
        results += ranker.describe(data, row, list(map(str, users)), [[] for _ in users], k, exclude_seen)
    if histories is not None:
        log = parse(histories, loaded)
        results += ranker.describe(log, np.arange(len(log.user_id)), log.user_id, log.ignored, k, exclude_seen)
    return results


def check_k(k: int) -> None:
    """Raises SeerecError where k is no count of items."""
    if k < 1:
        raise SeerecError(f"k is {k}.", "Ask for at least one item.")


def corpus_for(loaded: Artifact, path: str | Path, corpus: str | Path | None) -> Corpus:
    """The corpus of a model. Raises SeerecError where it is gone or another one, whose ids would mean other things."""
    data = artifact.corpus_of(path, corpus)
    if data.content_hash != loaded.manifest["corpus_hash"]:
        raise SeerecError(
            f"{path} was trained on another corpus than {data.path}.",
            "Name the corpus it was trained on, pass histories, or go on training with `seerec train --from`.",
        )
    return data


@dataclass(frozen=True)
class Best:
    """The best items of B rows, best first; k columns, or fewer where the pool is smaller."""

    item: Ints  # B k    item numbers; meaningless where the score is -inf
    score: np.ndarray[Any, np.dtype[np.float64]]  # B k    -inf: there are no more items


class Ranker:
    """A model with the vectors of all it may recommend, made once."""

    def __init__(self, loaded: Artifact, device: str | None = None) -> None:
        self.loaded = loaded
        self.device = place_of(device)
        self.model: Recommender[Any] = loaded.model.to(self.device)
        with torch.no_grad():
            pool = torch.from_numpy(np.flatnonzero(loaded.pool)).to(self.device)
            self._parts = [(ids, self.model.items(ids)) for ids in pool.split(_CHUNK)]

    @torch.no_grad()
    def best(self, people: People, row: Ints, k: int, exclude_seen: bool = True) -> Best:
        """The k best items of the pool for these rows.

        Raises
        ------
        SeerecError
            A score is not finite.
        """
        state = self.model.encode(people.batch(row).to(self.device))
        seen = self._keys(*people.seen(row)) if exclude_seen else None
        scores, items = None, None
        for ids, vectors in self._parts:
            fresh = self.model.score(state, vectors[None, None]).squeeze(1)  # B c
            if not bool(fresh.isfinite().all()):
                raise SeerecError("The model's scores are not finite, so nothing can be ranked.", "Train again.")
            if seen is not None:
                fresh = fresh.masked_fill(self._among(seen, ids, len(row)), float("-inf"))
            candidates = ids.expand(len(row), -1)
            if scores is not None and items is not None:
                fresh, candidates = torch.cat([scores, fresh], 1), torch.cat([items, candidates], 1)
            scores, items = _top(fresh, candidates, k)
        if scores is None or items is None:
            return Best(np.zeros((len(row), 0), np.int64), np.zeros((len(row), 0)))
        order = scores.argsort(stable=True, dim=1, descending=True)
        return Best(items.gather(1, order).cpu().numpy(), scores.gather(1, order).double().cpu().numpy())

    def describe(
        self, log: Arrays, row: Ints, user_id: Sequence[str | None], ignored: Sequence[list[str]], k: int, exclude_seen: bool
    ) -> list[dict[str, Any]]:
        """The results of ``recommend`` for these rows."""
        people, results = People(log, self.loaded.batch), []
        known = np.asarray(log.row_user)[row] != UNKNOWN
        for start in range(0, len(row), _ROWS):
            best = self.best(people, row[start : start + _ROWS], k, exclude_seen)
            for place, (items, scores) in enumerate(zip(best.item, best.score, strict=True), start):
                there = np.isfinite(scores)
                found = [
                    {"rank": rank, **named, "score": float(score)}
                    for rank, (named, score) in enumerate(zip(self.named(items[there]), scores[there], strict=True), 1)
                ]
                results.append(
                    {"user_id": user_id[place], "known": bool(known[place]), "ignored": ignored[place], "items": found}
                )
        return results

    def named(self, item: Ints) -> list[dict[str, Any]]:
        """``item_id`` and ``title`` (None where there is none) of item numbers."""
        named: list[dict[str, Any]] = self.loaded.items.select(["item_id", "title"]).take(pa.array(item - FIRST_ID)).to_pylist()
        return named

    def _keys(self, place: Ints, item: Ints) -> Tensor:
        """Sorted keys of (place, item) pairs."""
        keys = np.unique(place * len(self.loaded.pool) + item)
        return torch.from_numpy(keys).to(self.device)

    def _among(self, keys: Tensor, ids: Tensor, rows: int) -> Tensor:
        """B c bool: which of these pool items the rows have already had."""
        place, item = keys // len(self.loaded.pool), keys % len(self.loaded.pool)
        column = torch.searchsorted(ids, item).clamp(max=len(ids) - 1)
        here = ids[column] == item
        mask = torch.zeros(rows, len(ids), dtype=torch.bool, device=ids.device)
        mask[place[here], column[here]] = True
        return mask


def _top(scores: Tensor, items: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of each row (B c), columns in their old order; of equal scores the leftmost, which ``topk`` leaves open."""
    if scores.shape[1] <= k:
        return scores, items
    last = scores.topk(k, 1).values[:, -1:]
    above, equal = scores > last, scores == last
    chosen = above | (equal & (equal.cumsum(1) <= k - above.sum(1, keepdim=True)))
    return scores[chosen].view(-1, k), items[chosen].view(-1, k)


def recommend_all(
    path: str | Path,
    out: str | Path,
    *,
    k: int = 10,
    corpus: str | Path | None = None,
    stage: int | None = None,
    exclude_seen: bool = True,
    rows: int = 4096,
    device: str | None = None,
    progress: Progress = SILENT,
    resume: bool = False,
) -> int:
    """The k best items of every user of the corpus, as a Parquet file; returns the number of users.

    The columns are user_id, rank, item_id, title and score, one row per item, in the order of the corpus. Parts of ``rows`` users
    are written to the folder ``out``.parts and joined at the end, so memory does not grow with the users and a kill loses at most
    one part. ``resume`` goes on with that folder; the file gets the same bytes as without the interruption.

    Raises
    ------
    SeerecError
        No such model or corpus, scores that are not finite, a full disk, parts that were asked something else.
    """
    check_k(k)
    folder, out = artifact.locate(path, stage), Path(out)
    loaded = artifact.load(folder)
    data = corpus_for(loaded, path, corpus)
    ranker = Ranker(loaded, device)
    with (folder / "weights.safetensors").open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    facts = {
        "model": loaded.manifest["model"], "weights": weights, "corpus": data.content_hash, "k": k,
        "exclude_seen": exclude_seen, "rows": rows, "device": ranker.device.type,
    }  # fmt: skip
    users = len(data.row_user)
    if _begin(out, facts, resume):
        return users
    parts = [_parts(out) / f"{start:012d}.parquet" for start in range(0, users, rows)]
    done = sum(part.is_file() for part in parts)
    people, names = People(data, loaded.batch), data.table("rows")["user_id"]
    with progress.task("recommend", total=users, unit="users", done=min(done * rows, users)) as bar:
        for part in parts:
            if part.is_file():
                continue
            start = int(part.stem)
            tables = []
            for first in range(start, min(start + rows, users), _ROWS):
                row = np.arange(first, min(first + _ROWS, start + rows, users))
                tables.append(_table(ranker, ranker.best(people, row, k, exclude_seen), names.slice(first, len(row))))
                bar.advance(len(row))
            with atomic_file(part) as work:
                pq.write_table(pa.concat_tables(tables).combine_chunks(), work)
    with atomic_file(out) as work, pq.ParquetWriter(work, _schema(facts)) as writer:
        for part in parts:
            writer.write_table(pq.read_table(part))
    shutil.rmtree(_parts(out))
    return users


def _parts(out: Path) -> Path:
    return out.with_name(out.name + ".parts")


def _schema(facts: dict[str, Any]) -> pa.Schema:
    """The columns, and what was asked, so that a finished file can be told from one that was asked something else."""
    return _COLUMNS.with_metadata({"seerec": json.dumps(facts, sort_keys=True)})


def _begin(out: Path, facts: dict[str, Any], resume: bool) -> bool:
    """Make or check the folder of parts; true where ``out`` is already finished and was asked the same."""
    folder = _parts(out)
    if out.is_dir():
        raise SeerecError(f"{out} is a folder.", "Give the name of the Parquet file to write.")
    if (folder / "facts.json").is_file():
        if not resume:
            raise SeerecError(f"{folder} holds an unfinished run.", "Go on with --resume, or remove the folder.")
        begun = json.loads((folder / "facts.json").read_text())
        changed = [name for name in facts if begun.get(name) != facts[name]]
        if changed:
            raise SeerecError(
                f"The unfinished run in {folder} was asked with another {changed[0]}.",
                "Ask the same, or remove the folder and start anew.",
            )
        remove_partials(folder)
        return False
    if folder.exists() and (folder.is_file() or any(folder.iterdir())):
        raise SeerecError(f"{folder} is in the way: it is no folder of parts.", "Choose another --out.")
    if out.is_file():
        asked = _asked(out)
        if asked is None:
            raise SeerecError(f"{out} exists and is no file of recommendations.", "Remove it, or choose another --out.")
        if resume and asked == facts:
            return True
    write_json(folder / "facts.json", facts)
    return False


def _asked(out: Path) -> Any:
    """What a finished file was asked, None where it does not say."""
    try:
        metadata = pq.read_schema(out).metadata or {}
        return json.loads(metadata.get(b"seerec", b"null"))
    except (OSError, ValueError, pa.ArrowException):
        return None


def _table(ranker: Ranker, best: Best, names: pa.ChunkedArray) -> pa.Table:
    """The rows of these users, k or fewer each."""
    place, column = np.nonzero(np.isfinite(best.score))
    items = ranker.loaded.items.select(["item_id", "title"]).take(pa.array(best.item[place, column] - FIRST_ID))
    columns = [
        names.take(pa.array(place)), pa.array(column + 1, pa.int32()), items["item_id"], items["title"],
        pa.array(best.score[place, column]),
    ]  # fmt: skip
    return pa.table(columns, schema=_COLUMNS)

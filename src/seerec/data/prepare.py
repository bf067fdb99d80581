"""Event tables to a corpus: the numbered SQL files of ``plan/`` in order, then flat arrays.

Total order of events: user id text, time in ms, then ``line``. Equal tables with equal lines give the same corpus, in
whatever order their rows arrive. Users, items, words and categories are fitted on the training split.
"""

import json
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seerec.atomic import atomic_folder, write_json
from seerec.config import DataSettings
from seerec.data import candidates
from seerec.data.corpus import FIRST_ID, FORMAT, Corpus
from seerec.data.engines import Engine, Tables, in_duckdb
from seerec.data.event_arrays import count_rows, save_arrays, write_events
from seerec.data.events import Events
from seerec.data.features import write_features
from seerec.data.hashes import checksums, hash_content
from seerec.data.splits import Bounds, check_bounds, no_clicks, split_instants
from seerec.data.targets import TASKS, Task
from seerec.data.text import Encoded, Lexicon, Tokeniser, encode
from seerec.errors import SeerecError
from seerec.progress import SILENT, Progress


def write_corpus(
    events: Events, out: Path, settings: DataSettings, engine: Engine = in_duckdb, progress: Progress = SILENT
) -> Corpus:
    """Prepare checked events as a corpus folder, which appears whole or not at all.

    With ``searches = shuffled`` everything (splits, vocabulary, repeats, candidates) follows as if the log had been so.
    The corpus is the same on every engine.

    Raises
    ------
    SeerecError
        No clicks or no targets are left, the split's instants make no sense, the pool is too small, ``out`` is a
        folder of something else, or memory or disk space ran out.
    """
    _refuse_foreign(out)
    instants = split_instants(settings)
    with atomic_folder(out) as folder:
        parameters = {"settings": settings.model_dump(mode="json"), "format": FORMAT}
        with engine(events.connection, folder) as tables:
            plan = _run_plan(tables, folder, settings, instants, progress)
        counts, sets = _finish(events.connection, folder, plan, settings, progress)
        with progress.task("hashing", 2, "passes") as bar:
            content_hash = hash_content(folder, parameters)
            bar.advance(1)
            sums = checksums(folder, parameters | {"content_hash": content_hash})
            bar.advance(1)
        write_json(
            folder / "manifest.json",
            {
                "kind": "seerec-corpus",
                "content_hash": content_hash,
                "checksums": sums,
                "counts": events.counts | plan.counts | counts,
                "quarantined": _quarantined(events.connection),
                "bounds": plan.bounds,
                "candidates": sets,
                "tokeniser": _tokeniser(settings).model_dump(),
                "source": events.source,
            }
            | parameters,
        )
    return Corpus(out, json.loads((out / "manifest.json").read_text()))  # `open` would hash again what was hashed here


def _refuse_foreign(out: Path) -> None:
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / "manifest.json").is_file()):
        raise SeerecError(
            f"{out} exists and is not a corpus, so it is not replaced.",
            "Give a new folder, or the one of an old corpus.",
        )


def _tokeniser(settings: DataSettings) -> Tokeniser:
    return Tokeniser(min_word_count=settings.min_word_count, max_words=settings.max_words)


@dataclass(frozen=True)
class _Plan:
    """What the SQL files found, beside the arrays of the events."""

    counts: dict[str, int]
    bounds: Bounds
    items: pa.Table
    """Known items (``item``, ``item_id``) in the order of their numbers."""
    users: pa.Table
    """Known users (``user``, ``user_id``), likewise."""
    queries: Encoded
    uses: NDArray[np.int64]
    """Training searches of each query."""
    lexicon: Lexicon
    """Words of the queries by their codes; texts of items add theirs."""


def _run_plan(tables: Tables, folder: Path, settings: DataSettings, instants: Bounds, progress: Progress) -> _Plan:
    """Run the SQL files, and write the arrays of the events and the texts of the queries into ``folder``."""
    names = ("split", "repeats", "zero_click", "min_user_clicks", "min_item_clicks", "val_fraction", "test_fraction")
    values = {name: [getattr(settings, name)] for name in names} | {
        name: pa.array([instant], pa.int64()) for name, instant in instants.items()
    }
    tables.create("settings", pa.table(values))
    steps = sorted((resources.files("seerec.data") / "plan").iterdir(), key=lambda step: step.name)
    lexicon = Lexicon()
    with progress.task("users, clicks and searches", len(steps) + 1, "steps") as bar:
        for step in steps:
            tables.run(step.read_text())
            if step.name == "01_users.sql":
                tables.create("search_owner", _search_owners(tables, settings))
            elif step.name == "03_bounds.sql":
                if not count_rows(tables, "FROM kept_user")[0]:
                    raise no_clicks(settings)
                bounds = check_bounds(tables.read("SELECT val_start, test_start FROM bounds").to_pylist())
            elif step.name == "07_queries.sql":
                texts = tables.read("SELECT query AS text, uses FROM query_text ORDER BY query")
                queries = encode(texts["text"].chunks, lexicon)
                numbers = pa.array(np.arange(len(texts), dtype=np.int32))
                words = pa.array(np.diff(queries.offset))
                tables.create("query_word_count", pa.table({"text": texts["text"], "query": numbers, "words": words}))
                pq.write_table(pa.table({"query": numbers, "text": texts["text"]}), folder / "queries.parquet")
            bar.advance(1)
        counts, users = write_events(tables, folder, settings, bounds)
        bar.advance(1)
    items = tables.read("SELECT item, item_id, clicks, pool FROM item ORDER BY item")
    head = np.zeros(FIRST_ID, np.int64)
    save_arrays(folder, {
        "item_count": np.concatenate([head, items["clicks"].to_numpy()]),
        "item_pool": np.concatenate([head, items["pool"].to_numpy()]).astype(bool),
    })  # fmt: skip
    return _Plan(
        counts | {"queries": len(texts)},
        bounds,
        items.select(["item", "item_id"]),
        users,
        queries,
        texts["uses"].to_numpy(),
        lexicon,
    )


def _finish(
    checked: duckdb.DuckDBPyConnection, folder: Path, plan: _Plan, settings: DataSettings, progress: Progress
) -> tuple[dict[str, int], dict[str, Any]]:
    """Write features and candidates, two at a time; returns counts, and what the manifest says of the candidate sets."""
    arrays, sets = Corpus(folder, {}), [(split, task) for task in TASKS for split in ("val", "test")]
    with ThreadPoolExecutor(2) as threads:  # NumPy and Arrow work on without the interpreter's lock
        try:
            with progress.task("items, words and candidates", 1 + len(sets), "files") as bar:
                features = threads.submit(_write_features, checked, folder, plan, settings)
                histories = candidates.histories_of(arrays, settings)
                drawn = {
                    candidates.name_of(split, task): threads.submit(_candidates, arrays, split, settings, task, histories)
                    for split, task in sets
                }
                for finished in as_completed([features, *drawn.values()]):
                    finished.result()
                    bar.advance(1)
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    return features.result(), {name: facts.result() for name, facts in drawn.items()}


def _write_features(checked: duckdb.DuckDBPyConnection, folder: Path, plan: _Plan, settings: DataSettings) -> dict[str, int]:
    """Write items, users, words and the quarantine; returns the counts."""
    words = plan.queries, plan.uses, plan.lexicon, _tokeniser(settings)
    counts = write_features(folder, checked, plan.items, plan.users, *words)
    quarantine = 'SELECT table_name AS "table", line, reason, content FROM quarantine ORDER BY ALL'
    pq.write_table(checked.sql(quarantine).to_arrow_table(), folder / "quarantine.parquet")
    return counts


def _candidates(
    arrays: Corpus, split: str, settings: DataSettings, task: Task, histories: candidates.Histories | None
) -> dict[str, Any]:
    """Draw one candidate set; what the manifest says of it."""
    drawn = candidates.draw(arrays, split, settings, task, histories=histories)
    return {"hash": drawn.hash, "targets": len(drawn.target), "negatives": settings.negatives}


def _search_owners(tables: Tables, settings: DataSettings) -> pa.Table:
    """Whose searches (``user_id``) belong to which row (``row_id``)."""
    searchers = """SELECT user_id, row_id FROM kept_user
                   WHERE user_id IN (SELECT user_id FROM searches) ORDER BY row_id"""
    table = tables.read(searchers)
    if settings.searches == "none":
        return table.slice(0, 0)
    if settings.searches == "own" or not len(table):
        return table
    if len(table) == 1:
        raise SeerecError("Only one user has searches, so they cannot be shuffled.", "Use `--searches own` or `none`.")
    order = np.random.Generator(np.random.Philox(np.random.SeedSequence([settings.seed]))).permutation(len(table))
    owner = np.empty(len(table), np.int32)
    owner[order] = table["row_id"].to_numpy()[np.roll(order, 1)]  # one cycle through all: nobody keeps their own
    return table.set_column(1, "row_id", pa.array(owner))


def _quarantined(connection: duckdb.DuckDBPyConnection) -> dict[str, dict[str, int]]:
    """Quarantined rows by table and reason."""
    counted: dict[str, dict[str, int]] = {}
    query = "SELECT table_name, reason, count(*) FROM quarantine GROUP BY ALL ORDER BY ALL"
    for table, reason, number in connection.execute(query).fetchall():
        counted.setdefault(table, {})[reason] = number
    return counted

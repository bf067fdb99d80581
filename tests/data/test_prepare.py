"""Preparation against a plain-Python reading of the protocol, on small logs full of ties and requests."""

import errno
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seerec.config import DataSettings
from seerec.data import features, prepare
from seerec.data.corpus import ARRAYS, Corpus
from seerec.data.events import Events
from seerec.data.prepare import write_corpus
from seerec.data.text import tokenise
from seerec.errors import SeerecError

Rows = list[dict[str, Any]]
RECOMMENDATIONS = {
    "line": pa.int64(), "user_id": pa.string(), "item_id": pa.string(), "timestamp": pa.int64(), "clicked": pa.bool_(),
    "request_id": pa.string(), "announced": pa.int8(),
}  # fmt: skip
SEARCHES = {
    "line": pa.int64(), "user_id": pa.string(), "search_id": pa.string(), "timestamp": pa.int64(), "query": pa.string(),
    "item_id": pa.string(), "clicked": pa.bool_(), "relevant": pa.int8(),
}  # fmt: skip
ITEMS = {"item_id": pa.string(), "title": pa.string(), "text": pa.string(), "category_kind": pa.string()}
USERS = {"user_id": pa.string(), "category_city": pa.string()}
QUARANTINE = {"table_name": pa.string(), "line": pa.int64(), "reason": pa.string(), "content": pa.string()}


def events(
    recommendations: Rows,
    searches: Rows | None = None,
    items: Rows | None = None,
    users: Rows | None = None,
    quarantine: Rows | None = None,
    threads: int = 1,
) -> Events:
    """Checked tables, built by hand; a missing ``clicked`` means true."""
    connection = duckdb.connect(config={"threads": threads})
    given = {
        "recommendations": (RECOMMENDATIONS, [{"clicked": True} | row for row in recommendations]),
        "searches": (SEARCHES, [{"clicked": True} | row for row in searches or []]),
        "items": (ITEMS, items or []),
        "users": (USERS, users or []),
        "quarantine": (QUARANTINE, quarantine or []),
    }
    for name, (types, rows) in given.items():
        numbered = [{"line": i} | row for i, row in enumerate(rows)] if "line" in types else rows
        table = pa.Table.from_pylist(numbered, schema=pa.schema(types))
        connection.register("table_given", table)
        connection.execute(f"CREATE TABLE {name} AS SELECT * FROM table_given")
        connection.unregister("table_given")
    return Events(connection, {"name": "by hand"}, {"recommendations_read": len(recommendations)})


@pytest.fixture(autouse=True)
def _no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing to the disk is what these tests would mostly wait for."""
    monkeypatch.setattr("seerec.atomic.os.fsync", lambda _: None)


def rec(user: str, item: str, time: int, **more: Any) -> dict[str, Any]:
    return {"user_id": user, "item_id": item, "timestamp": time} | more


def search(user: str, number: str, time: int, query: str | None, item: str | None = None, **more: Any) -> dict[str, Any]:
    return {"user_id": user, "search_id": number, "timestamp": time, "query": query, "item_id": item} | more


def random_log(seed: int, users: int = 10, items: int = 25) -> tuple[Rows, Rows]:
    """Many equal times, requests of several rows, rows that were not clicked, users without a search."""
    draw = random.Random(seed)
    recommendations, searches = [], []
    for u in range(users):
        for _ in range(draw.choice([1, 2, 4, 8, 14, 20])):
            request = draw.choice([None, None, "r1", "r2", "r3"])
            item = f"i{int(items * draw.random() ** 2)}"
            clicked = draw.random() < 0.8
            recommendations.append(rec(f"u{u}", item, draw.randrange(20), request_id=request, clicked=clicked))
        for s in range(draw.choice([0, 2, 9])):
            time, query = draw.randrange(20), draw.choice(["red shoe", "hat", "...", None, "Hat 3"])
            clicks = draw.choice([[], [0], [1, 2]])
            for click in clicks or [None]:
                item = None if click is None else f"i{draw.randrange(items)}"
                later = draw.choice([0, 0, 3])
                searches.append(search(f"u{u}", f"s{s}", time + later, query, item, clicked=draw.random() < 0.6))
    draw.shuffle(recommendations)
    return recommendations, [row | {"line": i} for i, row in enumerate(searches)]


def expected(recommendations: Rows, searches: Rows, settings: DataSettings) -> dict[str, Any]:
    """What the protocol says, row by row."""
    recommendations = [{"line": i, "clicked": True, "request_id": None} | row for i, row in enumerate(recommendations)]
    users = sorted({r["user_id"] for r in recommendations})
    clicks = {
        u: sorted((r["timestamp"], r["line"], r) for r in recommendations if r["user_id"] == u and r["clicked"]) for u in users
    }
    clicks = {u: [r for _, _, r in rows] for u, rows in clicks.items() if len(rows) >= settings.min_user_clicks}
    val_start, test_start = prepare.split_instants(settings).values()

    def cut(r: dict[str, Any]) -> int:
        same = [
            q["timestamp"]
            for q in recommendations
            if r["request_id"] is not None and (q["user_id"], q["request_id"]) == (r["user_id"], r["request_id"])
        ]
        return min([r["timestamp"], *same])

    def part(u: str, place: int) -> int:
        if settings.split == "chronological":
            assert val_start is not None
            assert test_start is not None
            time = clicks[u][place]["timestamp"]
            return 1 + (time >= val_start) + (time >= test_start)
        return 1 if len(clicks[u]) < 3 else max(1, 3 - (len(clicks[u]) - 1 - place))

    def in_training(u: str, time: int) -> bool:
        if settings.split == "chronological":
            assert val_start is not None
            return time < val_start
        return len(clicks[u]) < 3 or time < cut(clicks[u][-2])

    grouped: dict[tuple[str, str], Rows] = {}
    for s in searches if settings.searches != "none" else []:
        if s["user_id"] in clicks:
            grouped.setdefault((s["user_id"], s["search_id"]), []).append(s)
    items: dict[tuple[str, str], list[str]] = {}
    without_click = set()
    for key, rows in grouped.items():
        rows.sort(key=lambda s: (s["timestamp"], s["line"]))
        offered = [r for r in rows if r["item_id"] is not None]
        items[key] = [r["item_id"] for r in offered if r.get("clicked", True)]
        if not items[key]:
            without_click.add(key)
            items[key] = [r["item_id"] for r in offered[:1]] if settings.zero_click == "first-shown" else []
    if settings.zero_click == "drop":
        grouped = {key: rows for key, rows in grouped.items() if key not in without_click}
    seen_items: Counter[str] = Counter()
    rec_count: Counter[str] = Counter()
    for u, rows in clicks.items():
        rec_count.update(r["item_id"] for place, r in enumerate(rows) if part(u, place) == 1)
    seen_items.update(rec_count)
    for key, rows in grouped.items():
        if in_training(key[0], rows[-1]["timestamp"]):
            seen_items.update(set(items[key]))
    known = {item for item, n in seen_items.items() if n >= settings.min_item_clicks}
    shown = {
        r["item_id"]
        for r in recommendations
        if r["user_id"] in clicks and not r["clicked"] and in_training(r["user_id"], r["timestamp"])
    }
    pool = known & (shown | set(rec_count))

    logs, known_users, outside = {}, [], Counter[int]()
    for u, rows in clicks.items():
        found = []
        for key, group in grouped.items():
            if key[0] == u:
                named = list(dict.fromkeys(item for item in items[key] if item in known))
                words = tokenise(group[0]["query"] or "")
                if words or named:
                    line = min(s["line"] for s in group)
                    span = group[-1]["timestamp"], line
                    found.append((*span, words, named, group[0]["timestamp"], key not in without_click))
        found.sort(key=lambda s: s[:2])
        history, log = [], []
        for place, r in enumerate(rows):
            item, split = r["item_id"], part(u, place)
            if item not in known:
                outside[split] += 1
                continue
            rec_seen = sum(q["timestamp"] < cut(r) for q in rows if q["item_id"] in known)
            search_seen = sum(time < cut(r) for time, *_ in found)
            role = split
            repeated = item in history or any(time < r["timestamp"] and item in named for time, _, _, named, *_ in found)
            if split > 1 and item not in pool:
                outside[split] += 1
                role = 0
            elif (settings.repeats == "drop" and repeated) or not rec_seen + search_seen:
                role = 0
            log.append((item, r["timestamp"], rec_seen, search_seen, role))
            history.append(item)
        asked = []
        last_clicked = max((number for number, s in enumerate(found) if s[3] and s[5]), default=-1)
        for number, (time, _, words, named, first, clicks_made) in enumerate(found):
            before = [q["item_id"] for q in rows if q["item_id"] in known and q["timestamp"] < first]
            earlier = [s for s in found if s[0] < first]
            clicked = {*before, *(item for s in earlier for item in s[3])} if settings.repeats == "drop" else set()
            if in_training(u, time):
                task = 1
            elif settings.split == "chronological":
                assert test_start is not None
                task = 2 + (time >= test_start)
            else:
                task = 3 if number == last_clicked else 2
            roles = [task if clicks_made and item not in clicked else 0 for item in named]
            asked.append((time, words, named, len(before), len(earlier), roles))
        logs[u] = (log, asked)
        training_click = any(part(u, place) == 1 and r["item_id"] in known for place, r in enumerate(rows))
        if training_click or any(in_training(u, time) for time, *_ in found):
            known_users.append(u)
    return {
        "logs": logs,
        "known_users": known_users,
        "pool": pool,
        "items": {item: rec_count[item] for item in sorted(known)},
        "outside": (outside[2], outside[3]),
    }


def read_back(corpus: Corpus) -> dict[str, Any]:
    """The same, decoded from the folder."""
    items = dict(zip(corpus.table("items")["item"].to_pylist(), corpus.table("items")["item_id"].to_pylist(), strict=True))
    texts = corpus.table("queries")["text"].to_pylist()
    words = dict(zip(corpus.table("words")["word"].to_pylist(), corpus.table("words")["text"].to_pylist(), strict=True))
    users = dict(zip(corpus.table("users")["user"].to_pylist(), corpus.table("users")["user_id"].to_pylist(), strict=True))
    logs, known_users = {}, []
    for p, user_id in enumerate(corpus.table("rows")["user_id"].to_pylist()):
        recs = slice(corpus.rec_offset[p], corpus.rec_offset[p + 1])
        columns = (corpus.rec_time, corpus.rec_seen, corpus.rec_search_seen, corpus.rec_role)
        log = list(zip((items[i] for i in corpus.rec_item[recs]), *(c[recs].tolist() for c in columns), strict=True))
        found = []
        for q in range(corpus.search_offset[p], corpus.search_offset[p + 1]):
            query = corpus.search_query[q]
            ids = corpus.query_word[corpus.query_offset[query] : corpus.query_offset[query + 1]].tolist()
            query_words = tokenise(texts[query])
            assert [words.get(i) for i in ids] == [w if w in words.values() else None for w in query_words]
            clicks = slice(corpus.click_offset[q], corpus.click_offset[q + 1])
            named, roles = [items[i] for i in corpus.click_item[clicks]], corpus.click_role[clicks].tolist()
            seen = int(corpus.search_rec_seen[q]), int(corpus.search_search_seen[q])
            found.append((int(corpus.search_time[q]), query_words, named, *seen, roles))
        logs[user_id] = (log, found)
        if corpus.row_user[p] != 1:
            assert users[int(corpus.row_user[p])] == user_id
            known_users.append(user_id)
    assert len(users) == len(known_users) == corpus.users - 2
    assert list(items) == list(range(2, corpus.items))
    counts = corpus.manifest["counts"]
    return {
        "logs": logs,
        "known_users": known_users,
        "pool": {items[i] for i in np.flatnonzero(corpus.item_pool).tolist()},
        "items": {items[i]: int(corpus.item_count[i]) for i in items},
        "outside": (counts["targets_val_outside_pool"], counts["targets_test_outside_pool"]),
    }


@pytest.mark.parametrize("seed", range(12))
def test_against_plain_python(seed: int, tmp_path: Path) -> None:
    recommendations, searches = random_log(seed, users=16)
    chronological = {
        "split": "chronological",
        "val_start": "1970-01-01T00:00:00.010",
        "test_start": "1970-01-01T00:00:00.015+00:00",
    }
    variants: list[dict[str, Any]] = [
        {},
        {"repeats": "keep", "min_item_clicks": 2, "zero_click": "first-shown"},
        {"min_user_clicks": 3, "searches": "none"},
        chronological | {"zero_click": "drop"},
        chronological | {"zero_click": "first-shown"},
        chronological | {"repeats": "keep", "min_user_clicks": 2},
    ]
    settings = DataSettings(negatives=1, **variants[seed % len(variants)])
    corpus = write_corpus(events(recommendations, searches), tmp_path / "corpus", settings)
    assert read_back(corpus) == expected(recommendations, searches, settings)
    position = np.arange(len(corpus.rec_item)) - corpus.rec_offset[corpus.rec_row]
    assert (corpus.rec_seen <= position).all()
    for name in ARRAYS:
        assert getattr(corpus, name).dtype == DTYPES[name], name


LONG = {
    "rec_offset",
    "rec_time",
    "search_offset",
    "search_time",
    "click_offset",
    "query_offset",
    "item_count",
    "item_text_offset",
}
DTYPES = {name: np.dtype(np.int64 if name in LONG else np.int32) for name in ARRAYS} | {
    "click_role": np.dtype(np.uint8),
    "rec_role": np.dtype(np.uint8),
    "item_pool": np.dtype(bool),
}


def hash_of(log: Events, out: Path, **settings: Any) -> str:
    return write_corpus(log, out, DataSettings(negatives=1, **settings)).content_hash


def test_hash_does_not_depend_on_row_order_or_threads(tmp_path: Path) -> None:
    recommendations, searches = random_log(1)
    numbered = [row | {"line": i} for i, row in enumerate(recommendations)]
    first = hash_of(events(numbered, searches), tmp_path / "a")
    random.Random(5).shuffle(numbered)
    random.Random(6).shuffle(searches)
    again = hash_of(events(numbered, searches, threads=2), tmp_path / "b")
    assert first == again
    for name in ARRAYS:
        assert (tmp_path / "a" / f"{name}.npy").read_bytes() == (tmp_path / "b" / f"{name}.npy").read_bytes(), name


def test_hash_depends_on_content_and_settings(tmp_path: Path) -> None:
    recommendations, searches = random_log(1)
    log = events(recommendations, searches)
    variants: list[dict[str, Any]] = [
        {}, {"seed": 1}, {"repeats": "keep"}, {"searches": "none"}, {"searches": "shuffled"}, {"sampler": "popularity"},
    ]  # fmt: skip
    hashes = [hash_of(log, tmp_path / "out", **settings) for settings in variants]
    assert hash_of(log, tmp_path / "out") == hashes[0]
    for row in searches:
        row["query"] = "cap" if row["query"] == "hat" else row["query"]
    hashes.append(hash_of(events(recommendations, searches), tmp_path / "out"))
    assert len(set(hashes)) == len(hashes)


def three(user: str, *items: str, start: int = 100) -> Rows:
    return [rec(user, item, start + 100 * i) for i, item in enumerate(items)]


def simple() -> Rows:
    """Users whose last items others click too, so that they may be targets and negatives."""
    return [
        *three("a", "x", "y", "z", "v", "w"),
        *three("b", "v", "w", "q", "x", "y"),
        *three("c", "q", "z", "w", start=5000),
    ]


def test_request_hides_what_happens_in_it(tmp_path: Path) -> None:
    log = [*simple()]
    log[4] = rec("a", "w", 500, request_id="r")
    log.append(rec("a", "s", 250, request_id="r", clicked=False))
    corpus = write_corpus(events(log, [search("a", "1", 260, "late"), search("a", "2", 240, "early")]), tmp_path / "c",
                          DataSettings(negatives=1))  # fmt: skip
    last = corpus.rec_offset[1] - 1
    assert (corpus.rec_role[last], corpus.rec_seen[last], corpus.rec_search_seen[last]) == (3, 2, 1)


@pytest.mark.parametrize(("time", "role"), [(499, 0), (500, 3), (501, 3)])
def test_a_search_repeats_an_item_only_before_it(time: int, role: int, tmp_path: Path) -> None:
    log = events(simple(), [search("a", "1", time, "that one", "w")])
    corpus = write_corpus(log, tmp_path / "c", DataSettings(negatives=1))
    assert corpus.rec_role[corpus.rec_offset[1] - 1] == role


def test_future_only_items_and_users_never_become_known(tmp_path: Path) -> None:
    log = [*simple(), rec("a", "new", 9000), *three("late", "x", "y", start=9000)]
    settings = DataSettings(split="chronological", val_start="1970-01-01T00:00:00.4", test_start="1970-01-01T00:00:05.1",
                            negatives=1)  # fmt: skip
    searches = [search("late", "1", 8999, "unheard words", "new"), search("b", "1", 300, "known words", "x")]
    users = [{"user_id": u, "category_city": city} for u, city in [("a", "rome"), ("late", "oslo")]]
    items = [{"item_id": "x", "title": "X", "text": "X thing", "category_kind": "k"}, {"item_id": "new", "text": "newly"}]
    corpus = write_corpus(events(log, searches, items, users), tmp_path / "c", settings)
    assert "new" not in corpus.table("items")["item_id"].to_pylist()
    assert sorted(corpus.table("words")["text"].to_pylist()) == ["known", "thing", "words", "x"]
    rows = corpus.table("rows")["user_id"].to_pylist()
    assert corpus.row_user.tolist() == [{"a": 2, "b": 3}.get(u, 1) for u in rows]
    assert corpus.manifest["counts"]["known_users"] == 2
    q = int(corpus.search_offset[rows.index("late")])
    query = corpus.search_query[q]
    ids = corpus.query_word[corpus.query_offset[query] : corpus.query_offset[query + 1]].tolist()
    assert ids[0] == 1
    assert ids[1] > 1
    assert corpus.click_offset[q] == corpus.click_offset[q + 1]
    assert corpus.manifest["counts"]["clicks_on_unknown_items"] == 1
    assert corpus.user_category.tolist() == [[0], [1], [2], [0]]
    assert corpus.table("users_categories").to_pylist() == [{"column": "category_city", "value": 2, "text": "rome"}]
    x = corpus.table("items")["item_id"].to_pylist().index("x") + 2
    assert corpus.item_category[[0, 1, x, x + 1]].tolist() == [[0], [1], [2], [0]]
    text = corpus.item_text_word[corpus.item_text_offset[x] : corpus.item_text_offset[x + 1]]
    assert len(text) == 2
    assert len(corpus.item_text_offset) == corpus.items + 1


def test_shuffled_searches_move_whole_logs(tmp_path: Path) -> None:
    searches = [search(u, str(s), 10 * s + 50, f"{u} words", relevant=s % 3) for u in "abc" for s in range(1 + ord(u) - 96)]
    log = events([*simple(), *three("d", "x", "y", "z")], searches)
    own = write_corpus(log, tmp_path / "own", DataSettings(negatives=1))
    other = write_corpus(log, tmp_path / "other", DataSettings(negatives=1, searches="shuffled"))

    def owners(corpus: Corpus) -> list[set[str]]:
        texts = corpus.table("queries")["text"].to_pylist()
        query = [[texts[q] for q in corpus.search_query[a:b]] for a, b in zip(
            corpus.search_offset[:-1], corpus.search_offset[1:], strict=True)]  # fmt: skip
        return [set(row) for row in query]

    assert owners(own) == [{"a words"}, {"b words"}, {"c words"}, set()]
    shuffled = owners(other)
    assert all(len(s) == 1 for s in shuffled[:3])
    assert all(s != o for s, o in zip(shuffled[:3], owners(own), strict=False))
    assert set.union(*shuffled) == {"a words", "b words", "c words"}
    truth, mixed = own.truth("search_relevant"), other.truth("search_relevant")
    assert truth is not None
    assert mixed is not None
    assert Counter(truth.tolist()) == Counter(row["relevant"] for row in searches)
    assert set(mixed.tolist()) == {0, 2}


def test_truth_only_where_the_source_knows_it(tmp_path: Path) -> None:
    corpus = write_corpus(events(simple()), tmp_path / "c", DataSettings(negatives=1))
    assert corpus.truth("search_relevant") is None
    assert corpus.truth("target_announced") is None
    log = [row | {"announced": 1 if row["item_id"] == "w" else 0} for row in simple()]
    announced = write_corpus(events(log), tmp_path / "d", DataSettings(negatives=1)).truth("target_announced")
    assert announced is not None
    assert announced.sum() == 3


def test_fractions_are_shares_of_the_clicks(tmp_path: Path) -> None:
    log = [rec(f"u{i % 10}", f"i{(i * 7) % 30}", 1000 + i) for i in range(200)]
    settings = DataSettings(split="chronological", val_fraction=0.2, test_fraction=0.1, negatives=5, repeats="keep")
    corpus = write_corpus(events(log), tmp_path / "c", settings)
    assert corpus.manifest["bounds"] == {"val_start": 1140, "test_start": 1180}
    assert [len(corpus.targets(split)) for split in ("val", "test")] == [40, 20]


def test_manifest(tmp_path: Path) -> None:
    refused = [{"table_name": "searches", "line": 3, "reason": "time_missing", "content": "x"}]
    log = events(simple(), quarantine=refused)
    corpus = write_corpus(log, tmp_path / "c", DataSettings(negatives=1))
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
    assert manifest["kind"] == "seerec-corpus"
    assert manifest["quarantined"] == {"searches": {"time_missing": 1}}
    assert manifest["counts"]["recommendations_read"] == len(simple())
    assert manifest["settings"] == DataSettings(negatives=1).model_dump()
    assert manifest["tokeniser"] == {"version": 1, "min_word_count": 1, "max_words": 1_000_000}
    assert manifest["source"] == {"name": "by hand"}
    assert corpus.table("quarantine").num_rows == 1
    assert log.connection.execute("SELECT count(*) FROM recommendations").fetchall() == [(len(simple()),)]


@pytest.mark.parametrize(
    ("log", "settings", "cause"),
    [
        ([], {}, "No user has a clicked recommendation"),
        (simple(), {"min_user_clicks": 9}, "No user has at least 9 clicked"),
        ([*three("a", "x", "y"), *three("b", "x", "y")], {}, "fewer than 3 clicked"),
        ([*three("a", "x", "y", "z", "w")], {}, "1 outside pool"),
        (simple(), {"split": "chronological", "val_start": "2020-01-01", "test_start": "2021-01-01"}, "no click falls"),
        (simple(), {"split": "chronological", "val_start": "2021-01-01", "test_start": "2020-01-01"}, "must begin before"),
        (simple(), {"split": "chronological", "test_start": "1970-01-01"}, "must begin before"),
        (simple(), {"split": "chronological", "val_start": "soon"}, "no date"),
        (simple(), {"val_start": "2020-01-01"}, "chronological"),
        (simple(), {"negatives": 99}, "pool is too small"),
        (simple(), {"min_item_clicks": 99}, r"none is left \(\d+ on items below min_item_clicks = 99\).*Lower the setting"),
    ],
)
def test_errors_leave_nothing(log: Rows, settings: dict[str, Any], cause: str, tmp_path: Path) -> None:
    prepared = events(log)
    with pytest.raises(SeerecError, match=cause):
        write_corpus(prepared, tmp_path / "c", DataSettings(**({"negatives": 1} | settings)))
    assert list(tmp_path.iterdir()) == []
    left = prepared.connection.execute("SELECT count(*) FROM information_schema.schemata WHERE schema_name LIKE 'seerec%'")
    assert left.fetchall() == [(0,)]


def test_an_exception_midway_keeps_the_old_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = events(simple())
    old = hash_of(log, tmp_path / "c")

    def fail(*_: object) -> None:
        raise RuntimeError("midway")

    monkeypatch.setattr(prepare, "hash_content", fail)
    with pytest.raises(RuntimeError, match="midway"):
        hash_of(log, tmp_path / "c", seed=1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["c"]
    assert Corpus.open(tmp_path / "c").content_hash == old


def test_a_disk_that_fills_between_two_parts_of_the_features_is_still_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(features, "_PART", 2)
    monkeypatch.setattr(pq.ParquetWriter, "write_batch", full)
    with pytest.raises(SeerecError, match="No space left"):
        hash_of(events(simple()), tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mine.txt").write_text("keep")
    with pytest.raises(SeerecError, match="not a corpus"):
        hash_of(events(simple()), tmp_path / "letters")
    assert (tmp_path / "letters" / "mine.txt").read_text() == "keep"

"""``prepare``: the one door to a corpus."""

import contextlib

import duckdb
import pandas as pd
import pyarrow as pa
import pytest

import seerec
from seerec.data.door import SOURCES
from seerec.data.watching import watched
from seerec.errors import SeerecError
from seerec.progress import Bar, Progress


def clicks(users=4, each=6):
    return pd.DataFrame(
        {"user_id": f"u{u}", "item_id": f"i{(u * 3 + k) % 11}", "timestamp": 1000 * k + u}
        for u in range(users)
        for k in range(each)
    )


def content(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_tables_become_a_corpus_and_the_same_tables_the_same_one(tmp_path):
    first = seerec.prepare(tmp_path / "a", recommendations=clicks(), settings={"negatives": 2})
    second = seerec.prepare(tmp_path / "b", recommendations=clicks(), settings={"negatives": 2})
    assert (first.users, first.items) == (6, 13)
    assert first.content_hash == second.content_hash
    assert seerec.Corpus.open(tmp_path / "a").content_hash == first.content_hash
    other = seerec.prepare(tmp_path / "c", recommendations=clicks(users=5), settings={"negatives": 2})
    assert other.content_hash != first.content_hash


def test_an_old_corpus_is_replaced_in_one_step(tmp_path):
    seerec.prepare(tmp_path / "c", recommendations=clicks(), settings={"negatives": 2})
    seerec.prepare(tmp_path / "c", recommendations=clicks(users=5), settings={"negatives": 2})
    assert seerec.Corpus.open(tmp_path / "c").users == 7
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize(
    ("asked", "cause"),
    [
        ({"source": "tables"}, "no recommendations table"),
        ({"source": "nowhere"}, "no source 'nowhere'"),
        ({"source": "simulated", "settings": {"negatives": 0}}, "'negatives'"),
        ({"source": "simulated", "settings": {"split": "random"}}, "'split'"),
        ({"source": "simulated", "settings": {"colour": 1}}, "'colour'"),
        ({"source": "simulated", "options": {"users": -1}}, "users"),
        ({"source": "simulated", "options": {"colour": 1}}, "colour"),
        ({"source": "interactions", "options": {"colour": 1}}, "colour"),
        ({"source": "simulated", "recommendations": clicks()}, "reads no table recommendations"),
        ({"source": "interactions", "paths": ["a.csv"], "items": "items.csv"}, "reads no table items"),
        ({"source": "simulated", "paths": ["a.csv"]}, "reads no files"),
        ({"recommendations": clicks(), "options": {"users": 3}}, "has no options="),
        ({"source": "simulated", "options": {"users": "x"}}, "option users = 'x' is not valid"),
        ({"source": "simulated", "options": {"noise": None}}, "option noise = None"),
        ({"source": "simulated", "options": ["users"]}, "options are .'users'."),
        ({"source": "interactions", "paths": ["a.csv"], "options": {"items": 5}}, "option items = 5"),
        ({"source": "simulated", "settings": [1]}, r"settings are \[1\]"),
        ({"source": "simulated", "settings": {1: 2}}, "settings are"),
        ({"recommendations": pd.concat([clicks(), clicks()[["user_id"]]], axis=1)}, "names the column user_id twice"),
        ({"recommendations": pa.table([["u"], ["v"]], ["user_id", "User_id "])}, "names the column user_id twice"),
        ({"source": "interactions", "paths": ["missing.csv"]}, "missing.csv"),
        ({"recommendations": "missing.csv"}, "missing.csv"),
        ({"recommendations": pd.DataFrame({"user_id": ["a"]})}, "item_id"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_written(asked, cause, tmp_path):
    out = tmp_path / "corpus"
    with pytest.raises(SeerecError, match=cause) as caught:
        seerec.prepare(out, **asked)
    assert caught.value.fix
    assert list(tmp_path.iterdir()) == []


def test_a_failed_prepare_keeps_the_old_corpus(tmp_path):
    seerec.prepare(tmp_path / "c", recommendations=clicks(), settings={"negatives": 2})
    before = content(tmp_path / "c")
    with pytest.raises(SeerecError, match="too small"):
        seerec.prepare(tmp_path / "c", recommendations=clicks(), settings={"negatives": 50})
    assert content(tmp_path / "c") == before
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("kind", [RuntimeError, duckdb.InterruptException])
def test_ctrl_c_during_a_query_is_an_interrupt_and_leaves_nothing(kind, tmp_path, monkeypatch):
    """A real signal at the right moment cannot be arranged; this is what DuckDB raises after one."""

    def interrupted(*_):
        raise kind("Query interrupted")

    monkeypatch.setattr("seerec.data.prepare._run_plan", interrupted)
    with pytest.raises(KeyboardInterrupt):
        seerec.prepare(tmp_path / "c", recommendations=clicks())
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_corpus_is_never_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("four years of work")
    (tmp_path / "file").write_text("likewise")
    for name in ("thesis", "file"):
        with pytest.raises(SeerecError, match="is not a corpus"):
            seerec.prepare(tmp_path / name, recommendations=clicks(), settings={"negatives": 2})
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "four years of work"
    assert (tmp_path / "file").read_text() == "likewise"
    (tmp_path / "empty").mkdir()
    assert seerec.prepare(tmp_path / "empty", recommendations=clicks(), settings={"negatives": 2}).users == 6


def test_every_source_has_a_description():
    assert set(SOURCES) == {"interactions", "jdsearch", "kuaisar", "qilin", "simulated", "tables", "ubi"}
    assert all(SOURCES.values())


class Seen(Progress):
    """Bars that nobody sees: labels, and units of each that were finished."""

    def __init__(self):
        super().__init__(shown=True)
        self.done, self.total = {}, {}

    @contextlib.contextmanager
    def task(self, label, total, unit, done=0):
        bar = Bar(None, 0, unit)
        self.done[label], self.total[label] = done, total

        def advance(count, **shown):  # noqa: ARG001
            self.done[label] += count

        bar.advance = advance
        yield bar


def test_every_part_of_a_preparation_has_a_bar(tmp_path):
    clicks().to_csv(tmp_path / "log.csv", index=False)
    given = {"recommendations": tmp_path / "log.csv", "settings": {"negatives": 2}}
    seen = Seen()
    corpus = seerec.prepare(tmp_path / "a", progress=seen, **given)
    assert corpus.content_hash == seerec.prepare(tmp_path / "b", **given).content_hash
    checked = [f"checking {table}" for table in ("recommendations", "searches", "items", "users")]
    made = ["users, clicks and searches", "items, words and candidates", "hashing"]
    assert list(seen.total) == ["reading log.csv", *checked, *made]
    assert {label: seen.done[label] for label in made} == {label: seen.total[label] for label in made}


def test_a_bar_follows_the_query_that_runs():
    seen, connection = Seen(), duckdb.connect(config={"threads": 1})
    with watched(connection, seen, "counting"):
        connection.execute("SELECT sum(hash(a.range + b.range)) FROM range(20000) AS a, range(20000) AS b").fetchall()
    assert 0 < seen.done["counting"] <= 100

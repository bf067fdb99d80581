"""Candidate sets: who may be a negative, with which probability, and where the positive stands."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from seerec.config import DataSettings
from seerec.data import candidates
from seerec.data.candidates import CandidateSet
from seerec.data.corpus import Corpus
from seerec.data.targets import TASKS, Task
from seerec.errors import SeerecError


def corpus(tmp_path: Path, rows: int, items: int, seed: int = 0, clicks: int = 8, pool: float = 0.9) -> Corpus:
    """A random corpus folder: each row has clicks and searches; the last two clicks in the pool are val and test."""
    draw = np.random.default_rng(seed)
    rec_offset, search_offset = np.arange(rows + 1) * clicks, np.arange(rows + 1) * 3
    item_pool = draw.random(items) < pool
    item_pool[:2] = False
    rec_item = draw.integers(2, items, rows * clicks).astype(np.int32)
    rec_role = np.zeros(rows * clicks, np.uint8)
    last = rec_offset[1:] - 1
    rec_role[last] = np.where(item_pool[rec_item[last]], 3, 0)
    rec_role[last - 1] = np.where(item_pool[rec_item[last - 1]], 2, 0)
    position = np.tile(np.arange(clicks), rows)
    click_count = draw.integers(0, 3, rows * 3)
    click_offset = np.concatenate([[0], np.cumsum(click_count)])
    arrays: dict[str, NDArray[Any]] = {
        "row_user": np.ones(rows, np.int32), "rec_offset": rec_offset, "search_offset": search_offset,
        "rec_item": rec_item, "rec_seen": (position - draw.integers(0, 2, len(position))).clip(0).astype(np.int32),
        "rec_search_seen": draw.integers(0, 4, rows * clicks).astype(np.int32), "rec_role": rec_role,
        "search_time": np.zeros(rows * 3, np.int64), "search_query": np.zeros(rows * 3, np.int32), "click_offset": click_offset,
        "rec_time": np.zeros(rows * clicks, np.int64), "search_rec_seen": draw.integers(0, clicks + 1, rows * 3).astype(np.int32),
        "search_search_seen": np.tile(np.arange(3), rows).astype(np.int32),
        "click_role": draw.integers(0, 4, click_offset[-1]).astype(np.uint8),
        "click_item": draw.integers(2, items, click_offset[-1]).astype(np.int32), "item_pool": item_pool,
        "item_count": np.concatenate([[0, 0], draw.zipf(1.5, items - 2).clip(0, 1000)]),
        "item_category": np.zeros((items, 0), np.int32),
    }  # fmt: skip
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    return Corpus(tmp_path, {})


def draw(c: Corpus, split: str, settings: DataSettings, task: Task = "recommendation") -> CandidateSet:
    """One set, with histories of its own."""
    return candidates.draw(c, split, settings, task, histories=candidates.histories_of(c, settings))


def history(c: Corpus, target: int, task: str = "recommendation") -> set[int]:
    """Items the target may see, one by one."""
    if task == "search":
        event = next(q for q in range(len(c.search_time)) if c.click_offset[q] <= target < c.click_offset[q + 1])
        row, clicks, searches = c.search_row[event], c.search_rec_seen[event], c.search_search_seen[event]
    else:
        row, clicks, searches = c.rec_row[target], c.rec_seen[target], c.rec_search_seen[target]
    start = int(c.rec_offset[row])
    seen = {int(c.rec_item[e]) for e in range(start, start + int(clicks))}
    first = int(c.search_offset[row])
    for q in range(first, first + int(searches)):
        seen.update(int(i) for i in c.click_item[c.click_offset[q] : c.click_offset[q + 1]])
    return seen


@pytest.mark.parametrize("sampler", ["uniform", "popularity"])
@pytest.mark.parametrize("repeats", ["drop", "keep"])
@pytest.mark.parametrize(("items", "negatives"), [(60, 20), (300, 99)])
@pytest.mark.parametrize("task", TASKS)
def test_exclusions(sampler: Any, repeats: Any, items: int, negatives: int, task: Task, tmp_path: Path) -> None:
    c = corpus(tmp_path, 40, items)
    settings = DataSettings(sampler=sampler, repeats=repeats, negatives=negatives)
    negatives_of_history = 0
    for split in ("val", "test"):
        drawn = draw(c, split, settings, task)
        searched = np.flatnonzero(c.click_role == {"val": 2, "test": 3}[split]).tolist()
        assert drawn.target.tolist() == (c.targets(split).tolist() if task == "recommendation" else searched)
        assert drawn.negative.shape == (len(drawn.target), negatives)
        for target, row in zip(drawn.target.tolist(), drawn.negative.tolist(), strict=True):
            assert len(set(row)) == negatives
            assert min(row) >= 2
            assert c.item_pool[row].all() or task == "search"
            assert int((c.rec_item if task == "recommendation" else c.click_item)[target]) not in row
            negatives_of_history += len(history(c, target, task) & set(row))
    assert (negatives_of_history > 0) == (repeats == "keep")


def test_exactly_enough_items_are_all_drawn(tmp_path: Path) -> None:
    c = corpus(tmp_path, 12, 40, pool=1.0)
    left = [38 - len(history(c, t) | {int(c.rec_item[t])}) for t in c.targets("test").tolist()]
    drawn = draw(c, "test", DataSettings(negatives=min(left)))
    tight = left.index(min(left))
    forbidden = history(c, int(drawn.target[tight])) | {int(c.rec_item[drawn.target[tight]])}
    assert set(drawn.negative[tight].tolist()) == set(range(2, 40)) - forbidden
    with pytest.raises(SeerecError, match=rf"needs {min(left) + 1} negatives and only \d+ of its 38 items"):
        draw(c, "test", DataSettings(negatives=min(left) + 1))


def test_a_hopeless_pool_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(SeerecError, match="--negatives"):
        draw(corpus(tmp_path, 5, 30), "test", DataSettings(negatives=99))


@pytest.mark.parametrize("rounds", [0, 1, 12])
def test_shares_of_the_first_and_second_draw(rounds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redrawing and the exact way give the law of drawing one after the other without replacement."""
    monkeypatch.setattr(candidates, "_ROUNDS", rounds)
    c = corpus(tmp_path, 20_000, 8, clicks=2, pool=1.0)
    np.save(tmp_path / "item_count.npy", np.array([0, 0, 1, 1, 2, 4, 8, 16]))
    drawn = draw(c, "test", DataSettings(sampler="popularity", repeats="keep", negatives=2))
    weight = c.item_count / c.item_count.sum()
    rows = c.rec_item[drawn.target] == 2
    weight = np.where(np.arange(8) == 2, 0, weight) / (1 - weight[2])
    pair = weight[:, None] * weight[None, :] / (1 - weight[:, None])
    np.fill_diagonal(pair, 0)
    found = np.zeros((8, 8))
    np.add.at(found, tuple(drawn.negative[rows].T), 1 / rows.sum())
    assert np.abs(found - pair).max() < 4 * np.sqrt(0.25 / rows.sum())
    assert np.abs(found.sum(1) - weight).max() < 4 * np.sqrt(0.25 / rows.sum())


def test_uniform_counts_are_flat_and_columns_too(tmp_path: Path) -> None:
    c = corpus(tmp_path, 3000, 102, clicks=2, pool=1.0)
    drawn = draw(c, "test", DataSettings(repeats="keep", negatives=50))
    counts = np.bincount(drawn.negative.reshape(-1), minlength=102)[2:]
    assert np.abs(counts / counts.mean() - 1).max() < 0.15
    places = np.bincount(drawn.column, minlength=51)
    assert len(places) == 51
    assert np.abs(places / places.mean() - 1).max() < 0.6


def test_same_seed_same_sets(tmp_path: Path) -> None:
    c = corpus(tmp_path, 30, 200)
    first = draw(c, "val", DataSettings(seed=3))
    negative = np.array(first.negative)
    again = draw(c, "val", DataSettings(seed=3))
    assert first.hash == again.hash
    assert np.array_equal(negative, again.negative)
    others = [draw(c, "test", DataSettings(seed=3)), draw(c, "val", DataSettings(seed=4))]
    assert len({first.hash, *(other.hash for other in others)}) == 3


def test_the_positive_stands_in_its_column(tmp_path: Path) -> None:
    c = corpus(tmp_path, 30, 200)
    drawn = draw(c, "val", DataSettings(negatives=5))
    items = drawn.items(c)
    assert items.shape == (len(drawn.target), 6)
    for row in range(len(items)):
        column = int(drawn.column[row])
        assert items[row, column] == c.rec_item[drawn.target[row]]
        assert np.delete(items[row], column).tolist() == drawn.negative[row].tolist()
    assert np.array_equal(drawn.items(c, slice(3, 7)), items[3:7])
    assert np.array_equal(drawn.items(c, np.array([5, 1])), items[[5, 1]])


def test_save_and_load(tmp_path: Path) -> None:
    c = corpus(tmp_path, 30, 200)
    drawn = draw(c, "test", DataSettings(negatives=5))
    again = candidates.load(Corpus(tmp_path, {"candidates": {"test": {"hash": drawn.hash}}}), "test")
    assert (again.hash, again.column.dtype) == (drawn.hash, np.uint8)
    for name in ("target", "negative", "column"):
        assert np.array_equal(getattr(again, name), getattr(drawn, name))
    with pytest.raises(SeerecError, match="no candidates for the split val"):
        candidates.load(Corpus(tmp_path, {"candidates": {}}), "val")


@pytest.mark.parametrize("repeats", ["drop", "keep"])
@pytest.mark.parametrize("negatives", [40, 70, 99])
def test_a_pool_that_is_too_small_names_the_number_that_works(negatives: int, repeats: Any, tmp_path: Path) -> None:
    c = corpus(tmp_path, 60, 45 if negatives == 40 else 80)
    with pytest.raises(SeerecError, match="pool is too small") as error:
        draw(c, "val", DataSettings(negatives=negatives + 10 * (repeats == "keep"), repeats=repeats))
    found = re.search(r"--negatives (\d+)", error.value.fix)
    assert found is not None
    fewest = int(found[1])
    assert f"only {fewest} of its" in error.value.cause
    for split in ("val", "test"):
        draw(c, split, DataSettings(negatives=fewest, repeats=repeats))
    refusals = 0
    for split in ("val", "test"):
        try:
            draw(c, split, DataSettings(negatives=fewest + 1, repeats=repeats))
        except SeerecError:
            refusals += 1
    assert refusals


def test_many_negatives_need_a_wider_column(tmp_path: Path) -> None:
    c = corpus(tmp_path, 200, 500)
    drawn = draw(c, "test", DataSettings(negatives=300))
    assert drawn.column.dtype == np.uint16
    assert drawn.column.max() > 255

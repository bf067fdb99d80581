"""Files in the format of Qilin."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from seerec.data.simulation import qilin

DETAILS = ["click", "collect", "comment", "like", "note_idx", "page_time", "position"]
SEARCH = [
    "query",
    "query_from_type",
    "recent_clicked_note_idxs",
    "search_result_details_with_idx",
    "search_idx",
    "session_idx",
    "user_idx",
]
RECOMMENDATION = ["recent_clicked_note_idxs", "rec_result_details_with_idx", "request_idx", "session_idx", "user_idx"]
NOTE = [
    "note_idx",
    "note_title",
    "note_content",
    "note_type",
    "taxonomy1_id",
    "taxonomy2_id",
    "taxonomy3_id",
    "image_num",
    "video_duration",
    "video_height",
    "video_width",
    "imp_rec_num",
    "click_search_num",
    "full_view_times",
    "image_path",
]
COLUMNS = {
    "search_train": [*SEARCH, "dpr_results"],
    "search_test": [*SEARCH, "bm25_results", "dpr_results", "search_results"],
    "recommendation_train": [*RECOMMENDATION, "query"],
    "recommendation_test": [*RECOMMENDATION, "rec_results", "query"],
}


@pytest.fixture(scope="module")
def tables(simulated):
    return {name: pq.read_table(simulated("qilin") / name) for name in qilin.FILES}


def flat(tables, name, key):
    """One row per shown note of both parts."""
    parts = [tables[f"{name}_{part}"].to_pandas() for part in ("train", "test")]
    column = next(column for column in parts[0] if column.endswith("_details_with_idx"))
    whole = pd.concat(parts)[["user_idx", "session_idx", key, column]].explode(column, ignore_index=True)
    return whole.drop(columns=column).join(pd.DataFrame(list(whole[column])))


@pytest.fixture(scope="module")
def results(tables):
    return flat(tables, "search", "search_idx")


@pytest.fixture(scope="module")
def recommended(tables):
    return flat(tables, "recommendation", "request_idx")


def test_files_and_columns(simulated, tables):
    assert len(list((simulated("qilin") / "notes").glob("train-0000?-of-00005.parquet"))) == 5
    assert [path.name for path in (simulated("qilin") / "search_test").iterdir()] == ["train-00000-of-00001.parquet"]
    assert {name: tables[name].column_names for name in COLUMNS} == COLUMNS
    assert list(tables["user_feat"].column_names) == [
        "gender", "platform", "age", "fans_num", "follows_num", *(f"dense_feat{n}" for n in range(1, 41)), "location", "user_idx",
    ]  # fmt: skip
    assert set(NOTE) <= set(tables["notes"].column_names)


def test_counts_are_shares_of_the_published_ones(tables, results, recommended):
    rows = {name: tables[name].num_rows for name in qilin.FILES}
    assert rows == dict(zip(qilin.FILES, (176, 25, 334, 44, 7_936, 62), strict=True))
    queries = {query for part in ("train", "test") for query in tables[f"search_{part}"]["query"].to_pylist()}
    assert (len(queries), len(results), len(recommended)) == (179, 3_879, 5_754)
    assert set(recommended.user_idx) == set(range(62))
    assert tables["notes"]["note_idx"].to_pylist() == list(range(7_936))
    published = qilin.counts("published")
    assert (published.queries, published.shown_results, published.shown_recommendations) == (44_820, 969_866, 1_438_435)


def test_times_of_searches_are_seconds_that_grow(results):
    assert [*DETAILS, "search_timestamp", "share"] == list(results.columns[3:])
    search = results.groupby("search_idx")
    assert search.search_timestamp.is_monotonic_increasing.all()
    assert (search.search_timestamp.nunique() > 1).mean() > 0.7
    assert results.search_timestamp.between(1.7322e9, 1.7329e9).all()
    assert (results.search_timestamp % 1 == 0).all()
    assert {results[name].dtype for name in ("click", "position", "search_timestamp")} == {np.dtype(float)}


def test_times_of_recommendations_are_milliseconds_that_differ_a_little(recommended):
    assert [*DETAILS, "request_timestamp", "share"] == list(recommended.columns[3:])
    assert recommended.request_timestamp.between(1.7322e12, 1.7329e12).all()
    assert {recommended[name].dtype for name in ("click", "position", "request_timestamp")} == {np.dtype(int)}
    request = recommended.groupby("request_idx")
    spread = request.request_timestamp.max() - request.request_timestamp.min()
    assert (spread < 100).mean() > 0.9
    assert not request.position.is_monotonic_increasing.all()


def test_a_list_repeats_notes_only_hours_later(results, recommended):
    assert not results.duplicated(["search_idx", "note_idx"]).any()
    repeated = recommended[recommended.duplicated(["request_idx", "note_idx"])]
    assert 0 < len(repeated) < 0.1 * len(recommended)
    assert not recommended.duplicated(["request_idx", "note_idx", "request_timestamp"]).any()


def test_clicks_and_the_time_on_a_page(results, recommended):
    clicked = results.groupby("search_idx").click.max()
    assert 0.2 < (clicked == 0).mean() < 0.42
    assert results.page_time.isna().equals(results.click == 0)
    assert (recommended.groupby("request_idx").click.max() == 0).mean() < 0.08
    assert set(recommended.page_time[recommended.click == 0]) == {0.0, -1.0}
    assert (recommended.page_time[recommended.click == 1] > 0).all()


def test_test_rows_are_the_latest(tables):
    for name, column, time in (
        ("search", "search_result_details_with_idx", "search_timestamp"),
        ("recommendation", "rec_result_details_with_idx", "request_timestamp"),
    ):
        first = [[row[0][time] for row in tables[f"{name}_{part}"][column].to_pylist()] for part in ("train", "test")]
        slack = 10 if name == "recommendation" else 1
        assert max(first[0]) <= min(first[1]) + slack


def test_notes_are_text(tables):
    notes = tables["notes"].to_pandas()
    words = notes.note_content.str.replace("，", "").str.len() / 2
    assert 52 < words.mean() < 66
    assert words.max() > 4 * words.median()
    assert (notes.content_length == notes.note_content.str.len()).all()
    assert notes.note_title.str.len().between(6, 24).all()
    assert (notes.taxonomy3_id == "nan").mean() > 0.2
    assert (notes[notes.taxonomy2_id != "nan"].groupby("taxonomy2_id").taxonomy1_id.nunique() == 1).all()
    assert set(notes.note_type) == {1.0, 2.0}
    assert (notes.video_duration[notes.note_type == 1] == 0).all()


def test_lists_beside_the_details(tables):
    test = tables["search_test"].to_pylist()[0]
    assert test["search_results"] == [note["note_idx"] for note in test["search_result_details_with_idx"]]
    assert {len(pair) for pair in test["dpr_results"] + test["bm25_results"]} == {2}
    row = next(row for row in tables["recommendation_train"].to_pylist() if row["recent_clicked_note_idxs"])
    assert 0 < len(row["recent_clicked_note_idxs"]) <= 20
    assert row["query"].split(" ")[0] == tables["notes"]["note_title"][row["recent_clicked_note_idxs"][0]].as_py()


def test_queries_lead_to_notes_of_their_topic(tables, results):
    topic = tables["notes"].to_pandas().taxonomy2_id
    clicked = results[results.click > 0]
    shown = topic[results.note_idx].to_numpy()
    of_search = clicked.assign(topic=topic[clicked.note_idx].to_numpy()).groupby("search_idx").topic.first()
    same = shown == results.search_idx.map(of_search).to_numpy()
    strangers = shown == results.search_idx.map(of_search).sample(frac=1, random_state=0).to_numpy()
    assert same.mean() > 5 * strangers.mean()

"""Files in the format of KuaiSAR."""

import numpy as np
import pandas as pd
import pytest

from seerec.data.simulation import kuaisar, kuaisar_items

COLUMNS = {
    "rec_inter": "user_id,item_id,playing_time,duration_ms,time,timestamp,click,forward,like,follow,search,search_item_related",
    "src_inter": "user_id,search_session_id,search_session_time,search_session_timestamp,keyword,search_source,item_id,"
    "click_cnt,item_type",
    "social_network": "user_id,user_follow_id",
    "user_features": "user_id,search_active_level,rec_active_level,onehot_feat1,onehot_feat2",
    "item_features": "item_id,caption,author_id,item_type,upload_time,upload_type,"
    "first_level_category_id,first_level_category_name,first_level_category_name_en,"
    "second_level_category_id,second_level_category_name,second_level_category_name_en,"
    "third_level_category_id,third_level_category_name,third_level_category_name_en,"
    "fourth_level_category_id,fourth_level_category_name,fourth_level_category_name_en",
}
SESSION = ["user_id", "search_session_id"]


@pytest.fixture(scope="module")
def files(simulated):
    return {name: pd.read_csv(simulated("kuaisar") / f"{name}.csv") for name in COLUMNS}


@pytest.fixture(scope="module")
def shown(files):
    """Recommendation rows with the categories of their items."""
    return files["rec_inter"].merge(files["item_features"], on="item_id")


def lists(texts):
    return [[int(word) for word in text[1:-1].split(", ") if word] for text in texts]


def test_columns_in_their_order(files):
    assert {name: ",".join(table.columns) for name, table in files.items()} == COLUMNS


def test_counts_are_shares_of_the_published_ones(files):
    recommended, searched = files["rec_inter"], files["src_inter"]
    assert (len(recommended), recommended.user_id.nunique(), recommended.item_id.nunique()) == (14_986, 52, 4_562)
    assert (len(searched), searched.user_id.nunique(), searched.item_id.nunique()) == (6_342, 52, 4_025)
    assert searched.keyword.nunique() == 535
    items = set(recommended.item_id) | set(searched.item_id)
    assert len(items) == 8_391
    assert sorted(files["item_features"].item_id) == sorted(items)
    assert set(files["user_features"].user_id) == set(recommended.user_id) == set(searched.user_id)


@pytest.mark.parametrize(("scale", "shared"), [("small", 97_981), ("large", 181_849), (0.0001, 9), (10, 979_810)])
def test_every_scale_can_hold_its_counts(scale, shared):
    size = kuaisar.counts(scale)
    assert size.shared == shared
    assert size.queries <= size.sessions <= size.search_rows
    assert size.users <= size.hand_outs <= size.recommendation_rows


def test_published_counts():
    small, large = kuaisar.counts("small"), kuaisar.counts("large")
    assert (small.recommendation_rows, small.search_rows, small.queries, small.items) == (
        7_493_101,
        3_171_231,
        267_608,
        4_195_529,
    )
    assert (large.recommendation_rows, large.search_rows, large.queries, large.items) == (
        14_605_716,
        5_059_169,
        453_667,
        6_890_707,
    )
    assert small.users == large.users == 25_877
    assert pd.to_timedelta(large.span, "ms") == pd.Timestamp("2023-06-10 09:30") - pd.Timestamp("2023-05-22 14:50")


def test_times_are_beijing_time(files):
    for time, stamp in (
        (files["rec_inter"].time, files["rec_inter"].timestamp),
        (files["src_inter"].search_session_time, files["src_inter"].search_session_timestamp),
    ):
        told = pd.to_datetime(time).dt.tz_localize("Asia/Shanghai")
        assert ((stamp - told.dt.as_unit("ms").astype("int64")).between(0, 999)).all()
        assert time.min() >= "2023-05-22 14:50:00"
        assert time.max() < "2023-05-31 14:50:00"


def test_numbers_are_printed_as_published(simulated, files):
    line = (simulated("kuaisar") / "rec_inter.csv").read_text().splitlines()[1].split(",")
    assert line[5].endswith(".0")
    assert line[5][:-2].isdigit()
    assert files["src_inter"].search_session_timestamp.dtype == np.int64
    assert files["src_inter"].keyword.str.fullmatch(r"\[\d+(, \d+)*\]").all()
    assert files["item_features"].caption.str.fullmatch(r"\[(\d+(, \d+)*)?\]").all()


def test_hand_outs_are_ties_without_repeats(files):
    table = files["rec_inter"]
    size = table.groupby(["user_id", "timestamp"]).size()
    assert 3.5 < size.mean() < 4.5
    assert (size > 1).mean() > 0.6
    assert not table.duplicated(["user_id", "timestamp", "item_id"]).any()


def test_sessions(files):
    table = files["src_inter"]
    session = table.groupby(SESSION)
    assert (session[["search_session_timestamp", "keyword"]].nunique() == 1).all(axis=None)
    assert session.size().mean() > 5
    assert 0.34 < (session.click_cnt.max() == 0).mean() < 0.46
    assert table.search_session_id.nunique() < len(session)  # only the pair of user and session is a key
    assert not table.duplicated([*SESSION, "item_id"]).any()
    assert set(table.item_type) == set(kuaisar_items.TYPES)
    assert set(table.click_cnt) == {0, 1, 2}


def test_only_videos_and_atlases_are_recommended(files):
    found = files["src_inter"][["item_id", "item_type"]].drop_duplicates()
    assert found.item_id.is_unique
    shared = found[found.item_id.isin(files["rec_inter"].item_id)]
    assert set(shared.item_type) <= {"VIDEO", "IMAGE_ATLAS"}
    assert (found.item_id[found.item_type == "USER"] > 1e11).all()


def test_clicks_are_half_and_words_and_deeds_fit(files):
    table = files["rec_inter"]
    assert 0.45 < table.click.mean() < 0.6
    assert table.loc[table[["forward", "like", "follow"]].any(axis=1), "click"].all()
    assert table.loc[table.search_item_related == 1, "search"].all()
    assert (table.playing_time[table.click == 1].mean()) > 5 * table.playing_time[table.click == 0].mean()
    assert table.groupby("item_id").duration_ms.nunique().max() == 1


def test_both_tails_are_long(files):
    users = files["rec_inter"].user_id.value_counts()
    items = files["rec_inter"].item_id.value_counts()
    assert users.max() > 8 * users.median()
    assert items.max() > 10 * items.median()
    words = pd.Series([word for text in lists(files["item_features"].caption) for word in text]).value_counts()
    assert words.max() > 20 * words.median()
    assert words.index.min() >= 1
    assert words.index.max() <= kuaisar.counts(0.002).words


def test_categories_are_nested(files):
    table = files["item_features"]
    for below, above in (("second", "first"), ("third", "second"), ("fourth", "third")):
        known = table[table[f"{below}_level_category_id"] > 0]
        assert (known.groupby(f"{below}_level_category_id")[f"{above}_level_category_id"].nunique() == 1).all()
    assert table.first_level_category_id.max() <= 38
    assert table.second_level_category_id.max() <= 297
    unknown = table[table.first_level_category_id == 0]
    assert set(unknown.first_level_category_name) == {"空"}
    assert set(unknown.first_level_category_name_en) == {"empty"}
    assert (table.author_id == 0).any()
    assert pd.to_datetime(table.upload_time).min() == pd.Timestamp("1970-01-01")


def test_favourite_categories_are_clicked_more(shown):
    known = shown[shown.first_level_category_id > 0]
    often = known.groupby(["user_id", "first_level_category_id"]).click.agg(["size", "mean"]).reset_index()
    rank = often.groupby("user_id")["size"].rank(ascending=False, method="first")
    assert often[rank <= 2]["mean"].mean() > often[rank > 6]["mean"].mean() + 0.1


def test_queries_share_words_and_topics_with_what_is_clicked(files):
    clicks = files["src_inter"][files["src_inter"].click_cnt > 0].merge(files["item_features"], on="item_id")
    shared = [bool(set(a) & set(b)) for a, b in zip(lists(clicks.keyword), lists(clicks.caption), strict=True)]
    strangers = [bool(set(a) & set(b)) for a, b in zip(lists(clicks.keyword), lists(clicks.caption[::-1]), strict=True)]
    assert np.mean(shared) > 1.5 * np.mean(strangers)


def test_hand_outs_follow_searches(files, shown):
    searched = files["src_inter"].merge(files["item_features"], on="item_id")
    searched = searched[(searched.click_cnt > 0) & (searched.second_level_category_id > 0)]
    topics = searched.groupby(SESSION).agg(
        time=("search_session_timestamp", "first"), topic=("second_level_category_id", "first")
    )
    topics = topics.reset_index().sort_values("time")
    rows = shown.assign(time=shown.timestamp.astype("int64")).sort_values("time")
    rows = pd.merge_asof(rows, topics, on="time", by="user_id", allow_exact_matches=False).dropna(subset="topic")
    same = rows.second_level_category_id == rows.topic
    strangers = rows.second_level_category_id == rows.topic.sample(frac=1, random_state=0).to_numpy()
    assert same.mean() > 3 * strangers.mean()
    assert rows.click[same].mean() > rows.click[~same].mean() + 0.08

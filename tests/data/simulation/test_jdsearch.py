"""Files in the format of JDsearch."""

from itertools import pairwise

import pytest

BEHAVIOR = "query candidate_wid_list candidate_label_list history_qry_list history_wid_list history_type_list history_time_list"
PRODUCT = (
    "wid name brand_id brand_name cate_id_1 cate_name_1 cate_id_2 cate_name_2 cate_id_3 cate_name_3 cate_id_4 cate_name_4 shop_id"
)


def read(path):
    header, *rows = [line.split("\t") for line in path.read_text().rstrip("\n").split("\n")]
    return header, [dict(zip(header, row, strict=True)) for row in rows]


@pytest.fixture(scope="module")
def behavior(simulated):
    header, rows = read(simulated("jdsearch") / "user_behavior_data.txt")
    assert header == BEHAVIOR.split()
    return [{name: text if name == "query" else text.split("_") for name, text in row.items()} for row in rows]


@pytest.fixture(scope="module")
def products(simulated):
    header, rows = read(simulated("jdsearch") / "product_meta_data.txt")
    assert header == PRODUCT.split()
    return {row["wid"]: row for row in rows}


def test_counts(behavior, products):
    assert len(behavior) == 85
    assert sum(len(row["history_wid_list"]) for row in behavior) == 13_039
    assert sum(len(row["candidate_wid_list"]) for row in behavior) == 6_800
    named = {wid for row in behavior for wid in row["candidate_wid_list"] + row["history_wid_list"]}
    assert len(named) == 6_290
    assert 0 < len(named - set(products)) < 0.02 * len(named)
    assert set(products) <= named


def test_lists_of_a_user_agree(behavior):
    for row in behavior:
        lengths = {len(row[f"history_{name}_list"]) for name in ("qry", "wid", "type")}
        assert lengths == {len(row["history_time_list"]) - 1}
        assert len(row["candidate_wid_list"]) == len(row["candidate_label_list"]) <= 200
        assert len(set(row["candidate_wid_list"])) == len(row["candidate_wid_list"])
        assert row["history_time_list"][0] == "0"
        assert all(time.isdigit() for time in row["history_time_list"])
    lengths = sorted(len(row["history_wid_list"]) for row in behavior)
    assert lengths[-1] > 10 * lengths[0]


def test_labels_and_types(behavior):
    labels = [label for row in behavior for label in row["candidate_label_list"]]
    assert set(labels) == {"0.0", "1.0", "2.0", "3.0"}
    assert labels.count("0.0") > 0.95 * len(labels)
    types = [row["history_type_list"] for row in behavior]
    assert {kind for row in types for kind in row} == {"ORD", "CLICK", "CART", "FLW"}
    assert all("CLICK" not in row[: len(row) // 2] for row in types)


def test_queries_come_in_runs(behavior):
    queries = [row["history_qry_list"] for row in behavior]
    shared = [a == b for row in queries for a, b in pairwise(row)]
    alone = [query == "-1" for row in queries for query in row]
    assert 0.45 < sum(alone) / len(alone) < 0.65
    assert sum(shared) / len(shared) > 0.6
    words = [word for row in behavior for word in row["query"].split("\x18")]
    assert all(word.isdigit() and 0 < int(word) < 1e8 for word in words)


def test_categories_are_nested_and_products_have_names(products):
    parent = {}
    for row in products.values():
        for level in (2, 3, 4):
            assert parent.setdefault((level, row[f"cate_id_{level}"]), row[f"cate_id_{level - 1}"]) == row[f"cate_id_{level - 1}"]
        assert 10 <= len(row["name"].split("\x18")) < 45
    assert any(row["brand_name"] == "" for row in products.values())
    assert len({row["cate_id_1"] for row in products.values()}) == 30

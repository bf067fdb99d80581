"""The demo from end to end, at its smallest size."""

import json

import pytest

from seerec import SeerecError, demo
from seerec.evaluation.metrics import METRICS


def test_the_demo_writes_what_it_promises(tmp_path):
    report = demo.run(tmp_path / "demo", quick=True)
    metrics = json.loads((tmp_path / "demo" / "metrics.json").read_text())
    assert list(metrics) == sorted(["popularity", "sasrec", "lcr-ser-stage1", "lcr-ser"])
    assert all(set(values) == set(METRICS) for values in metrics.values())
    assert all(0 <= value <= 1 for values in metrics.values() for value in values.values())
    for kind in ("png", "svg"):
        assert (tmp_path / "demo" / f"learning-curves.{kind}").stat().st_size > 1000
    assert len(report["recommendations"][0]["items"]) == 5
    assert report["searches"]
    assert "step" in report["explanation_text"]
    assert report["comparison"]["runs"][0]["run"] == "popularity"


def test_the_demo_replaces_only_an_earlier_demo(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(SeerecError, match="not an earlier demo"):
        demo.run(tmp_path / "mine", quick=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"

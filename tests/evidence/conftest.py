"""One small comparison for the whole session; tests that change its folder copy it first."""

import shutil

import pytest

from seerec.evidence.comparison import Comparison

MODELS = ("popularity", "last-click", "sasrec")
ASKED = {
    "models": MODELS,
    "against": "sasrec",
    "seeds": 2,
    "trials": 2,
    "tune_users": 40,
    "tune_minutes": 1.0,
    "minutes": 1.0,
    "settings": {"batch.rec_length": 8, "batch.search_length": 6, "batch.query_words": 3, "model.width": 8, "epochs": 2},
}


@pytest.fixture(scope="session")
def finished(tiny_corpus, tmp_path_factory):
    """(folder, document) of the comparison ``ASKED``, done once."""
    out = tmp_path_factory.mktemp("compare") / "out"
    return out, Comparison(tiny_corpus, out, **ASKED).run()


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of that folder."""
    return shutil.copytree(finished[0], tmp_path / "copied")


@pytest.fixture
def again(tiny_corpus, copied):
    """A function of (changed arguments): the comparison ``ASKED`` on the copy."""
    return lambda **changed: Comparison(tiny_corpus, copied, **{**ASKED, **changed})

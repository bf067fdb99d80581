"""One tiny corpus and one run per setting for the whole session; tests that change files copy them first."""

import pytest
import torch

import seerec
from seerec.models.base import ModelConfig
from seerec.models.registry import MODELS

TINY = {
    "batch.rec_length": 8,
    "batch.search_length": 6,
    "batch.query_words": 3,
    "batch.clicks": 2,
    "batch.rows": 32,
    "model.width": 8,
    "epochs": 2,
    "learning_rate": 0.01,
    "reinforce.rollouts": 2,
    "reinforce.negatives": 9,
    "reinforce.epochs": 1,
    "reinforce.learning_rate": 0.001,
}


def pytest_addoption(parser):
    """``--logs 50``: all random logs that the promise names; beside the other tests fewer must do."""
    parser.addoption("--logs", type=int, default=8, help="random logs prepared by both engines")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """The tensors are tiny, and results do not depend on the machine's load."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory):
    """60 users of the simulated marketplace."""
    return seerec.prepare(tmp_path_factory.mktemp("tiny") / "corpus", source="simulated", options={"users": 60})


@pytest.fixture(scope="session")
def tiny_settings():
    """A function of (model key, changed settings): settings that train in about a second."""

    def settings(model="lcr-ser", **changed):
        own = {"model.hidden": (8,)} if model == "lcr-ser" else {}
        learns = issubclass(MODELS[model].Config, ModelConfig)
        kept = TINY if learns else {n: v for n, v in TINY.items() if not n.startswith("model.")}
        return {**kept, **own, **{name.replace("__", "."): value for name, value in changed.items()}}

    return settings


@pytest.fixture(scope="session")
def tiny_run(tiny_corpus, tiny_settings, tmp_path_factory):
    """A function of (model key, stages, changed settings): a finished run, trained once per session."""
    runs = {}

    def run(model="lcr-ser", stages="1", **changed):
        name = repr((model, stages, sorted(changed.items())))
        if name not in runs:
            out = tmp_path_factory.mktemp("run") / "run"
            runs[name] = seerec.train(tiny_corpus, out, model=model, stages=stages, settings=tiny_settings(model, **changed))
        return runs[name]

    return run

"""One small simulation of each format for all tests of this folder."""

import pytest

from seerec.data.simulation import simulate
from seerec.progress import SILENT

SCALES = {"kuaisar": 0.002, "qilin": 0.004, "jdsearch": 0.0005}


@pytest.fixture(scope="session")
def simulated(tmp_path_factory):
    """A function of a kind: its folder."""
    made = {}

    def folder(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("simulated") / kind
            simulate(made[kind], kind=kind, scale=SCALES[kind], seed=3, progress=SILENT)
        return made[kind]

    return folder

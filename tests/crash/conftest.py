"""Processes to kill."""

import multiprocessing
import os

import pytest


@pytest.fixture(scope="session")
def processes():
    """Children of a server that has imported everything once, so that a start costs milliseconds. A process has one server."""
    context = multiprocessing.get_context("forkserver")
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # equal bytes need equal threads
    context.set_forkserver_preload(["seerec.training.train", "seerec.data.door", "torch._dynamo", "pandas"])
    yield context
    if before is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = before

"""Arrays in files: read on several threads at once."""

import gc
import sys
import threading

import numpy as np
import pytest

from seerec.data.arrays import read_array


class Knot:
    """Something that only the garbage collector ends, in Python: there another thread may go on."""

    def __init__(self):
        self.me = self

    def __del__(self):
        sum(range(20))


@pytest.fixture
def nervous():
    """Threads change places often, and the garbage collector comes often."""
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(50)
    yield
    sys.setswitchinterval(interval)
    gc.set_threshold(*thresholds)


@pytest.mark.usefixtures("nervous")
def test_threads_read_at_once(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(8).reshape(4, 2))
    found, errors = [], []

    def read():
        for _ in range(1500):
            [Knot() for _ in range(3)]
            try:
                found.append(read_array(tmp_path / "a.npy").shape)
            except SystemError as error:
                errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert found == [(4, 2)] * 6000

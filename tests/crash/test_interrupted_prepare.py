"""A preparation that is stopped, killed or out of disk space leaves the old corpus or the new one, and nothing else."""

import contextlib
import os
import resource
import signal
import time

import pytest

import seerec
from seerec.data.corpus import Corpus
from seerec.data.simulation import simulate
from seerec.errors import SeerecError
from seerec.progress import SILENT

STOPS = 10
SIZES = (0, 100, 2000, 20_000, 60_000, 10**8)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    simulate(folder, kind="kuaisar", scale=0.002, seed=1, progress=SILENT)
    return folder


def prepare(begun, raw, out, seed, limit=None):
    """In a child: exit 0 when it is done, 3 when it was interrupted, 4 with an error that names the folder."""
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has it ignored
    try:
        begun.set()
        seerec.prepare(out, source="kuaisar", paths=[raw], settings={"seed": seed}, memory="100MB")
    except KeyboardInterrupt:
        os._exit(3)
    except SeerecError as error:
        os._exit(4 if str(out) in error.cause else 5)
    os._exit(0)


def start(processes, *given):
    """A child that has begun to prepare."""
    begun = processes.Event()
    child = processes.Process(target=prepare, args=(begun, *given))
    child.start()
    begun.wait()
    return child


def whole(processes, *given):
    """Seconds of a preparation that nothing disturbs."""
    child, began = start(processes, *given), time.monotonic()
    child.join()
    assert child.exitcode == 0
    return time.monotonic() - began


@pytest.fixture(scope="module")
def old_and_new(processes, raw, tmp_path_factory):
    """Content hashes of the corpora of two seeds, and the seconds that one takes."""
    out = tmp_path_factory.mktemp("whole")
    seconds = [whole(processes, raw, out / f"{seed}", seed) for seed in (1, 2)]
    hashes = [Corpus.open(out / f"{seed}").content_hash for seed in (1, 2)]
    assert hashes[0] != hashes[1]
    return (*hashes, min(seconds))


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_stop_at_any_moment_leaves_the_old_corpus_or_the_new_one(processes, raw, old_and_new, tmp_path, stop):
    old, new, seconds = old_and_new
    out = tmp_path / "corpus"
    whole(processes, raw, out, 1)
    stopped = 0
    for number in range(STOPS):
        child = start(processes, raw, out, 2)
        time.sleep(seconds * (number + 0.5) / STOPS)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, stop)
        child.join()
        stopped += child.exitcode == (-stop if stop == signal.SIGKILL else 3)
        assert child.exitcode in (0, -stop, 3)
        found = Corpus.open(out).content_hash
        assert found in (old, new)
        if child.exitcode == 0:
            assert found == new
        if stop == signal.SIGINT and found == old:  # the new one may have been interrupted where it removes the old one
            assert [path.name for path in tmp_path.iterdir()] == ["corpus"]
        if found == new:
            whole(processes, raw, out, 1)
    print(f"{stopped} of {STOPS} stops met a running preparation")
    assert stopped >= STOPS // 2
    whole(processes, raw, out, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"], "what killed writers left goes with the next one"
    assert Corpus.open(out).content_hash == new


def test_a_stop_of_the_first_preparation_leaves_no_corpus_at_all(processes, raw, old_and_new, tmp_path):
    child = start(processes, raw, tmp_path / "corpus", 1)
    time.sleep(old_and_new[2] / 2)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert not (tmp_path / "corpus").exists()
    with pytest.raises(SeerecError, match="corpus"):
        Corpus.open(tmp_path / "corpus")


def test_a_full_disk_is_a_named_error_and_keeps_the_old_corpus(processes, raw, old_and_new, tmp_path):
    old, new, _ = old_and_new
    out = tmp_path / "corpus"
    whole(processes, raw, out, 1)
    for size in SIZES:
        child = start(processes, raw, out, 2, size)
        child.join()
        full = size < SIZES[-1]
        assert child.exitcode == (4 if full else 0), size
        assert Corpus.open(out).content_hash == (old if full else new)
        assert [path.name for path in tmp_path.iterdir()] == ["corpus"]

"""SIGKILL at any moment, a full disk at any byte: what was there before can be read, and a run goes on bit for bit."""

import json
import os
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import seerec
from seerec import artifact, atomic
from seerec.artifact import vocabulary_of
from seerec.config import BatchSettings
from seerec.errors import SeerecError
from seerec.models.registry import MODELS, build
from seerec.training import checkpoint
from seerec.training.optimizers import LazyAdam

BATCH = BatchSettings(rec_length=6, search_length=5, query_words=3, clicks=2)
WRITERS = [str(Path(module.__file__)) for module in (atomic, artifact, checkpoint)]


def results(run):
    """Everything that must not depend on interruptions, by relative path."""
    files = [*run.glob("stage?/*"), *run.glob("checkpoints/*/*"), run / "result.json", run / "metrics.jsonl"]
    return {str(file.relative_to(run)): file.read_bytes() for file in sorted(files)}


def progress(run):
    """The newest checkpoint's name, which sorts as the run goes."""
    names = [path.name for path in (run / "checkpoints").glob("stage*")]
    return max(names, default="")


def train(processes, corpus, out, **asked):
    child = processes.Process(target=seerec.train, args=(str(corpus.path), str(out)), kwargs={"device": "cpu", **asked})
    child.start()
    return child


def killed_and_resumed(processes, corpus, folder, kills, **asked):
    """(results of an undisturbed run, of a killed one, how many kills hit a running process, progress at each)."""
    whole, broken = folder / "whole", folder / "broken"
    child = train(processes, corpus, whole, **asked)
    moments = []
    while child.is_alive():
        now = progress(whole)
        if now and now not in moments:
            moments.append(now)
        time.sleep(0.001)
    assert child.exitcode == 0
    draw = np.random.default_rng(0)
    middle = moments[:-1]  # after the last one there is little left to hit
    chosen = [middle[i] for i in sorted(draw.choice(len(middle), kills, replace=False))]
    hits, hit_at = 0, []
    for moment in chosen:
        child = train(processes, corpus, broken, resume=True, **asked)
        while child.is_alive() and progress(broken) < moment:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.02))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        hits += child.exitcode == -signal.SIGKILL and not (broken / "result.json").is_file()
        hit_at.append(progress(broken))
    child = train(processes, corpus, broken, resume=True, **asked)
    child.join()
    assert child.exitcode == 0
    return results(whole), results(broken), hits, hit_at


def assert_equal(whole, broken):
    assert whole.keys() == broken.keys()
    assert [name for name in whole if whole[name] != broken[name]] == []


def test_lcr_ser_killed_ten_times_ends_with_the_same_bytes(processes, tiny_corpus, tiny_settings, tmp_path):
    settings = tiny_settings(checkpoint_seconds=0, reinforce__epochs=2, reinforce__rows=32, reinforce__noise_std=1.0)
    whole, broken, hits, at = killed_and_resumed(processes, tiny_corpus, tmp_path, 10, model="lcr-ser", settings=settings)
    print(f"lcr-ser: {hits} of 10 kills hit a running process: {', '.join(at)}")
    assert hits == 10
    assert {name[:6] for name in at} == {"stage1", "stage2"}
    assert_equal(whole, broken)
    assert {"stage1/weights.safetensors", "stage2/weights.safetensors"} < whole.keys()
    assert sum(name.endswith("state.safetensors") for name in whole) == 2


def test_sasrec_killed_three_times_ends_with_the_same_bytes(processes, tiny_corpus, tiny_settings, tmp_path):
    settings = tiny_settings("sasrec", checkpoint_seconds=0, epochs=4, model__dropout=0.3)
    whole, broken, hits, at = killed_and_resumed(processes, tiny_corpus, tmp_path, 3, model="sasrec", settings=settings)
    print(f"sasrec: {hits} of 3 kills hit a running process: {', '.join(at)}")
    assert hits == 3
    assert_equal(whole, broken)


# one write, interrupted everywhere -----------------------------------------------------------------------------------------


def sasrec(corpus, value):
    """A model all of whose weights are ``value``."""
    model = build("sasrec", MODELS["sasrec"].Config(width=8), vocabulary_of(corpus, 3), 6, 5)
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(value)
    return model


def write_artifact(folder, model, corpus, number):  # noqa: ARG001
    artifact.save(folder / "stage1", model, vocabulary_of(corpus, 3), corpus, BATCH, {})


def read_artifact(folder):
    """The value of the weights; every file of the artifact is read."""
    return {float(w.detach().min()) for w in artifact.load(folder / "stage1").model.parameters()}


def write_checkpoint(folder, model, corpus, number):  # noqa: ARG001
    checkpoint.save(folder, checkpoint.Position(1, step=number), model, LazyAdam(model, 0.0), keep=1)


def read_checkpoint(folder):
    found = checkpoint.latest(folder)
    assert found is not None
    position, tensors = found
    values = {float(w.min()) for name, w in tensors.items() if name.endswith("weight") and name.startswith("model")}
    assert values == {float(position.step)}
    return values


KINDS = {"artifact": (write_artifact, read_artifact), "checkpoint": (write_checkpoint, read_checkpoint)}


def kill_at_line(number):
    """Have this process killed before it runs line ``number`` (counted as they run) of the modules that write."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        if frame.f_code.co_filename not in WRITERS:
            return None
        count += event == "line"
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


def in_child(work):
    """Run ``work`` in a fork of this process; the status it ended with."""
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            work()
            status = 0
        except SeerecError:
            status = 1
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]


def interrupt_every_line(kind, corpus_path, folder, out):
    """Kill a second write at each of its lines in turn; note what can be read afterwards."""
    os.fsync = lambda _: None  # it matters to a power cut, not to a kill, and takes most of the time
    write, read = KINDS[kind]
    corpus = seerec.Corpus.open(corpus_path)
    folder = Path(folder)
    write(folder, sasrec(corpus, 0.0), corpus, 0)
    found, number, status = [], 0, -1
    while status != 0:
        number += 1
        model = sasrec(corpus, float(number))

        def again(at=number, new=model):
            kill_at_line(at)
            write(folder, new, corpus, at)

        status = in_child(again)
        assert status in (0, signal.SIGKILL), status
        found.append([value - number + 1 for value in read(folder)])
        write(folder, model, corpus, number)  # the next writer finds nothing in its way
    assert read(folder) == {float(number)}
    Path(out).write_text(json.dumps(found))


def fill_disk_at_every_size(kind, corpus_path, folder, out):
    """Let a second write run into a limit of so many bytes a file; note the outcome and what can be read afterwards."""
    os.fsync = lambda _: None  # it matters to a power cut, not to a kill, and takes most of the time
    write, read = KINDS[kind]
    corpus = seerec.Corpus.open(corpus_path)
    folder, first, second = Path(folder), sasrec(corpus, 1.0), sasrec(corpus, 2.0)
    found = []
    for size in (0, 10, 700, 1500, 3000, 6000, 12_000, 25_000, 60_000, 10**7):
        shutil.rmtree(folder, ignore_errors=True)
        write(folder, first, corpus, 1)

        def again(limit=size):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            write(folder, second, corpus, 2)

        status = in_child(again)
        found.append([size, os.waitstatus_to_exitcode(status), sorted(read(folder)), len(list(folder.glob(".partial-*")))])
    Path(out).write_text(json.dumps(found))


def outcome(processes, work, kind, corpus, tmp_path):
    child = processes.Process(target=work, args=(kind, str(corpus.path), str(tmp_path / "x"), str(tmp_path / "out.json")))
    child.start()
    child.join()
    assert child.exitcode == 0
    return json.loads((tmp_path / "out.json").read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_a_kill_inside_a_write_leaves_the_old_or_the_new(processes, tiny_corpus, kind, tmp_path):
    found = outcome(processes, interrupt_every_line, kind, tiny_corpus, tmp_path)
    print(f"{kind}: killed at each of {len(found) - 1} lines")
    assert len(found) > 30
    # The old one up to some line, the new one from there on; never both, never none.
    assert found == [[0.0]] * found.count([0.0]) + [[1.0]] * found.count([1.0])
    assert found.count([0.0]) > 20
    assert found[-1] == [1.0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_is_a_named_error_and_keeps_the_old(processes, tiny_corpus, kind, tmp_path):
    *failed, done = outcome(processes, fill_disk_at_every_size, kind, tiny_corpus, tmp_path)
    assert done == [10**7, 0, [2.0], 0]
    assert failed == [[size, 1, [1.0], 0] for size, *_ in failed]


def train_on_a_full_disk(corpus_path, folder, settings, out):
    """Train runs under ever larger limits of bytes a file; note what was raised. A resume without limit completes each."""
    found = []
    for size in (0, 300, 900, 2000, 20_000):
        run = Path(folder) / str(size)

        def limited(limit=size, to=run):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            seerec.train(corpus_path, to, model="sasrec", settings=settings, device="cpu")

        found.append(os.waitstatus_to_exitcode(in_child(limited)))
        seerec.train(corpus_path, run, model="sasrec", settings=settings, resume=True, device="cpu")
        found.append(read_artifact(run) is not None)
    Path(out).write_text(json.dumps(found))


def test_training_on_a_full_disk_is_a_named_error_and_resumes(processes, tiny_corpus, tiny_settings, tmp_path):
    settings = tiny_settings("sasrec", checkpoint_seconds=0, epochs=1)
    args = (str(tiny_corpus.path), str(tmp_path / "runs"), settings, str(tmp_path / "out.json"))
    child = processes.Process(target=train_on_a_full_disk, args=args)
    child.start()
    child.join()
    assert child.exitcode == 0
    assert json.loads((tmp_path / "out.json").read_text()) == [1, True] * 5


@pytest.mark.parametrize("name", ["position.json", "state.safetensors"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tiny_corpus, name, tmp_path):
    model = sasrec(tiny_corpus, 1.0)
    for step in (1, 2):
        checkpoint.save(tmp_path, checkpoint.Position(1, step=step), model, LazyAdam(model, 0.0), keep=2)
    file = tmp_path / "stage1-epoch0000-step0000002" / name
    file.write_bytes(file.read_bytes()[:-5])
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert found[0].step == 1
    file = tmp_path / "stage1-epoch0000-step0000001" / name
    file.unlink()
    with pytest.raises(SeerecError, match="can be read"):
        checkpoint.latest(tmp_path)

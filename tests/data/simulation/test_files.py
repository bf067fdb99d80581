"""`simulate`: what it refuses, what it replaces, and that equal seeds give equal bytes."""

import json

import pyarrow.parquet as pq
import pytest

from seerec.data.simulation import KINDS, SCALES, jdsearch, kuaisar, qilin, simulate
from seerec.errors import DiskError, SeerecError
from seerec.progress import SILENT

MODULES = {"kuaisar": kuaisar, "qilin": qilin, "jdsearch": jdsearch}
TINY = {"kuaisar": 0.0003, "qilin": 0.0005, "jdsearch": 0.0001}


def make(out, kind="kuaisar", scale=None, seed=0):
    return simulate(out, kind=kind, scale=TINY[kind] if scale is None else scale, seed=seed, progress=SILENT)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_every_byte(kind, tmp_path):
    make(tmp_path / "one", kind)
    make(tmp_path / "same", kind)
    make(tmp_path / "other", kind, seed=1)
    one, same, other = (contents(tmp_path / name) for name in ("one", "same", "other"))
    assert one == same
    assert one.keys() == other.keys()
    assert all(one[name] != other[name] for name in one)


@pytest.mark.parametrize(("kind", "chunk"), [("kuaisar", 999), ("jdsearch", 3), ("qilin", 7)])
def test_rows_do_not_depend_on_the_chunk_they_are_made_in(kind, chunk, tmp_path, monkeypatch):
    make(tmp_path / "one", kind)
    monkeypatch.setattr(MODULES[kind], "_CHUNK", chunk)
    make(tmp_path / "other", kind)
    one, other = contents(tmp_path / "one"), contents(tmp_path / "other")
    if kind == "qilin":  # the bytes of Parquet files tell how they were written
        one, other = (
            {name: repr(pq.read_table(tmp_path / out / name).to_pylist()) for name in qilin.FILES} for out in ("one", "other")
        )
    assert one == other


@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_says_what_it_is(kind, tmp_path):
    counts = make(tmp_path / "out", kind, seed=5)
    said = json.loads((tmp_path / "out" / "SIMULATED.json").read_text())
    assert said == {
        "kind": "seerec-simulation",
        "as": kind,
        "scale": TINY[kind],
        "seed": 5,
        "counts": counts,
        "note": "simulated; not the published data",
    }
    assert min(counts.values()) > 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(["SIMULATED.json", *MODULES[kind].FILES])


def test_an_earlier_simulation_is_replaced_whole(tmp_path):
    make(tmp_path / "out", "qilin")
    make(tmp_path / "out", "kuaisar", scale="0.0002")
    assert not (tmp_path / "out" / "notes").exists()
    assert json.loads((tmp_path / "out" / "SIMULATED.json").read_text())["scale"] == 0.0002
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    assert make(tmp_path / "out")["users"] == 8


@pytest.mark.parametrize(
    "manifest", [None, "", "[]", '{"kind": "seerec-corpus", "as": "kuaisar"}', '{"kind": "seerec-simulation"}']
)
def test_a_foreign_folder_is_refused(manifest, tmp_path):
    (tmp_path / "rec_inter.csv").write_text("mine")
    if manifest is not None:
        (tmp_path / "SIMULATED.json").write_text(manifest)
    with pytest.raises(SeerecError, match="no earlier simulation"):
        make(tmp_path)
    assert (tmp_path / "rec_inter.csv").read_text() == "mine"


def test_files_beside_an_earlier_simulation_are_safe(tmp_path):
    make(tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(SeerecError, match=r"notes\.txt"):
        make(tmp_path / "out")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_a_file_is_refused(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(SeerecError, match="is a file"):
        make(tmp_path / "out")


def test_a_crash_leaves_the_earlier_simulation(tmp_path, monkeypatch):
    make(tmp_path / "out")
    before = contents(tmp_path / "out")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kuaisar, "_write_users", full)
    with pytest.raises(DiskError, match="No space left"):
        make(tmp_path / "out", seed=1)
    assert contents(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("kind", "scale", "names"),
    [
        ("kuaisar", "published", "small, large, or a share from 0.0001 to 10"),
        ("kuaisar", 0.00001, "share"),
        ("kuaisar", 10.5, "share"),
        ("qilin", 1.5, "share"),
        ("kuaisar", float("nan"), "share"),
        ("qilin", "small", "published, or a share"),
        ("jdsearch", "published", "Give a share from"),
    ],
)
def test_scales_are_named(kind, scale, names, tmp_path):
    with pytest.raises(SeerecError, match=names):
        make(tmp_path / "out", kind, scale=scale)
    assert not (tmp_path / "out").exists()


def test_kinds_and_seeds_are_checked(tmp_path):
    with pytest.raises(SeerecError, match="kuaisar, qilin, jdsearch"):
        simulate(tmp_path / "out", kind="amazon", scale=1, seed=0, progress=SILENT)
    with pytest.raises(SeerecError, match="seed = -1"):
        make(tmp_path / "out", seed=-1)


def test_every_format_and_scale_is_described():
    assert KINDS.keys() == SCALES.keys() == TINY.keys()
    assert {kind: [*MODULES[kind].SCALES, "SHARE"] for kind in KINDS} == {kind: list(scales) for kind, scales in SCALES.items()}

"""A saved model: safetensors, JSON and Arrow tables; nothing in it can run code.

``manifest.json`` names the model by registry key and holds its settings and checks; ``weights.safetensors`` its weights;
``features.safetensors`` the sizes and features it was built for; ``items``, ``users`` and ``words`` (Parquet) map raw ids,
titles and words to rows. An artifact recommends without the corpus it was trained on.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import seerec
from seerec.atomic import atomic_folder
from seerec.config import BatchSettings, Settings
from seerec.data.corpus import FIRST_ID, Corpus
from seerec.data.text import Tokeniser
from seerec.errors import SeerecError
from seerec.models.base import NeuralRecommender, Recommender, Vocabulary
from seerec.models.inputs import InputLayer
from seerec.models.registry import build, model_class

FORMAT = 1
_FEATURES = ("item_count", "item_category", "item_text", "user_category")


@dataclass(frozen=True)
class Artifact:
    """A model with everything it needs to recommend."""

    model: Recommender[Any]
    manifest: dict[str, Any]
    items: pa.Table  # item, item_id, title, categories
    users: pa.Table  # user, user_id
    words: pa.Table  # word, text
    vocabulary: Vocabulary
    pool: NDArray[np.bool_]  # I

    @property
    def batch(self) -> BatchSettings:
        """Lengths the model was built for."""
        return BatchSettings(**self.manifest["batch"])

    @property
    def tokeniser(self) -> Tokeniser:
        """How queries become words."""
        return Tokeniser(**self.manifest["tokeniser"])


def vocabulary_of(corpus: Corpus, words: int) -> Vocabulary:
    """Sizes and features of a corpus; of an item's text the first ``words`` words are kept."""
    offset, flat = np.asarray(corpus.item_text_offset), np.asarray(corpus.item_text_word)
    width = min(int(np.diff(offset).max(initial=0)), words)
    at = offset[:-1, None] + np.arange(width)
    text = np.where(at < offset[1:, None], flat[np.minimum(at, max(len(flat) - 1, 0))], 0) if len(flat) else at[:, :0]
    return Vocabulary(
        users=corpus.users,
        items=corpus.items,
        words=corpus.words,
        item_count=torch.from_numpy(np.array(corpus.item_count, dtype=np.int64)),
        item_category=torch.from_numpy(np.array(corpus.item_category, dtype=np.int32)),
        item_text=torch.from_numpy(np.ascontiguousarray(text, dtype=np.int32)),
        user_category=torch.from_numpy(np.array(corpus.user_category, dtype=np.int32)),
    )


def columns_of(corpus: Corpus) -> dict[str, list[str]]:
    """The category columns of items and users, in the order of the feature arrays."""
    source = corpus.manifest["source"]
    return {name: list(source.get(f"{name}_columns", {}).get("category", [])) for name in ("items", "users")}


def save(
    folder: Path,
    model: Recommender[Any],
    vocabulary: Vocabulary,
    corpus: Corpus,
    batch: BatchSettings,
    facts: dict[str, Any],
) -> None:
    """Write an artifact in one step. ``facts`` (metrics, training settings) join the manifest.

    Raises
    ------
    SeerecError
        The disk is full or the folder is not writable.
    """
    manifest = {
        "kind": "seerec-artifact",
        "format": FORMAT,
        "seerec": seerec.__version__,
        "model": model.key,
        "config": model.config.model_dump(),
        "batch": batch.model_dump(),
        "tokeniser": corpus.manifest["tokeniser"],
        "sizes": {"users": vocabulary.users, "items": vocabulary.items, "words": vocabulary.words},
        "columns": columns_of(corpus),
        "corpus_hash": corpus.content_hash,
        **facts,
    }
    with atomic_folder(folder) as work:
        save_file({n: t.detach().cpu().contiguous() for n, t in model.state_dict().items()}, work / "weights.safetensors")
        features = {name: getattr(vocabulary, name).contiguous() for name in _FEATURES}
        features["item_pool"] = torch.from_numpy(np.array(corpus.item_pool))
        save_file(features, work / "features.safetensors")
        for name in ("items", "users", "words"):
            pq.write_table(corpus.table(name), work / f"{name}.parquet")
        (work / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True))


def load(folder: str | Path) -> Artifact:
    """Load an artifact in evaluation mode.

    Raises
    ------
    SeerecError
        The folder is not an artifact, is damaged, or was written by a newer seerec.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    fix = "Train again, or give another artifact."
    try:
        features = load_file(folder / "features.safetensors")
        weights = load_file(folder / "weights.safetensors")
        items, users, words = (pq.read_table(folder / f"{name}.parquet") for name in ("items", "users", "words"))
        kind = model_class(manifest["model"])
        config = kind.Config(**manifest["config"])
        absent = set(kind.Config.model_fields) - set(manifest["config"])
        if absent:  # a default in its place would be another model
            raise ValueError(f"the config has no {min(absent)}")
        batch = BatchSettings(**manifest["batch"])
        vocabulary = Vocabulary(
            users=manifest["sizes"]["users"],
            items=manifest["sizes"]["items"],
            words=manifest["sizes"]["words"],
            **{name: features[name] for name in _FEATURES},
        )
        pool = features["item_pool"].numpy()
        _check_sizes(vocabulary, pool, items, users, words)
        Tokeniser(**manifest["tokeniser"])
        _check_shapes(kind.key, config, vocabulary, batch, weights)
        model = build(kind.key, config, vocabulary, batch.rec_length, batch.search_length)
        model.restore(weights)
    except (OSError, LookupError, TypeError, ValueError, SafetensorError, pa.ArrowException, RuntimeError) as error:
        raise SeerecError(f"The artifact {folder} is damaged ({_first_line(error)}).", fix) from error
    broken = [name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise SeerecError(f"The artifact {folder} has weights that are not finite ({broken[0]}).", fix)
    model.eval()
    return Artifact(model, manifest, items, users, words, vocabulary, pool)


def locate(path: str | Path, stage: int | None = None) -> Path:
    """The artifact folder of a run (its last stage, or the one asked for), or ``path`` itself where it is an artifact.

    Raises
    ------
    SeerecError
        There is no such model.
    """
    path = Path(path)
    if not path.is_dir():
        raise SeerecError(f"There is no folder {path}.", "Give a run that `seerec train` finished, or one of its artifacts.")
    if stage is None and (path / "weights.safetensors").is_file():
        return path
    for number in [stage] if stage is not None else [2, 1]:
        if (path / f"stage{number}" / "weights.safetensors").is_file():
            return path / f"stage{number}"
    wanted = "trained model" if stage is None else f"model of stage {stage}"
    raise SeerecError(f"There is no {wanted} in {path}.", "Give a run that `seerec train` finished, or one of its artifacts.")


def corpus_of(path: str | Path, corpus: str | Path | None = None) -> Corpus:
    """The corpus given, else the one that the run in ``path`` was trained on.

    Raises
    ------
    SeerecError
        It is unknown or gone.
    """
    if corpus is None:
        for place in (Path(path), Path(path).parent):
            if (place / "run.json").is_file():
                corpus = json.loads((place / "run.json").read_text())["corpus"]
                break
        else:
            raise SeerecError(f"{path} does not say which corpus it was trained on.", "Name it with --corpus.")
    return Corpus.open(corpus)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an artifact. Raises SeerecError where there is none or it is newer than this seerec."""
    fix = "Give a run that `seerec train` wrote, or one of its artifact folders."
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise SeerecError(f"{folder} is not a trained model: its manifest.json cannot be read.", fix) from error
    if not isinstance(manifest, dict) or manifest.get("kind") != "seerec-artifact":
        raise SeerecError(f"{folder} is not a trained model.", fix)
    number = manifest.get("format")
    if not isinstance(number, int) or number > FORMAT:
        raise SeerecError(f"{folder} has artifact format {number!r}, this seerec reads {FORMAT}.", "Install a newer seerec.")
    return manifest


def set_unknown_user(model: Recommender[Any], trained_users: Tensor) -> None:
    """Give the unknown user the mean of the trained ones, where training never showed it (``preset paper``)."""
    inputs = getattr(model, "inputs", None)
    if isinstance(inputs, InputLayer) and len(inputs.user.weight) > FIRST_ID:
        with torch.no_grad():
            inputs.user.weight[1] = inputs.user.weight[trained_users].mean(0)


def _check_sizes(vocabulary: Vocabulary, pool: NDArray[np.bool_], items: pa.Table, users: pa.Table, words: pa.Table) -> None:
    """Before anything is built in these sizes. Raises ValueError where two parts disagree and KeyError where one is missing."""
    by_item = (vocabulary.item_count, vocabulary.item_category, vocabulary.item_text, pool, items["item_id"], items["title"])
    for name, size, parts in (
        ("items", vocabulary.items, by_item),
        ("users", vocabulary.users, (vocabulary.user_category, users["user_id"])),
        ("words", vocabulary.words, (words["text"],)),
    ):
        rows = [len(part) + FIRST_ID * isinstance(part, pa.ChunkedArray) for part in parts]
        if set(rows) != {size}:
            raise ValueError(f"{size} {name} in the manifest, {sorted(set(rows))} in the files")


def _check_shapes(key: str, config: Settings, vocabulary: Vocabulary, batch: BatchSettings, weights: dict[str, Tensor]) -> None:
    """Raises ValueError where the settings ask for other weights than the file has, before memory is taken for them."""
    if issubclass(model_class(key), NeuralRecommender):
        with torch.device("meta"):
            asked = build(key, config, vocabulary, batch.rec_length, batch.search_length).state_dict()
        for name in asked.keys() | weights.keys():
            shapes = [list(tensors[name].shape) if name in tensors else "none" for tensors in (asked, weights)]
            if shapes[0] != shapes[1]:
                raise ValueError(f"{name} has shape {shapes[0]} in the manifest, {shapes[1]} in the weights")


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__

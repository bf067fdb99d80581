"""Are our GRU4Rec, SASRec and BERT4Rec as good as somebody else's? RecBole's, trained and ranked on the same split.

RecBole's model classes with its documented defaults (full softmax, Adam at 0.001, its Cloze transform) read the training
prefixes of a corpus, stop early on validation, and rank the saved test candidates. Ours runs as `seerec train` would run it.
Printed and kept: metrics of both, among the saved
candidates and in the whole catalogue, and the paired tests by user. A finished half is not repeated.

RecBole pins other versions of what we use, so its files go into a folder of their own:

    pip install --no-deps --target runs/recbole recbole==1.2.1 colorlog==4.7.2 colorama thop tabulate texttable pandas pytz
    PYTHONPATH=runs/recbole python benchmarks/third_party.py CORPUS --model sasrec --out runs/third-party
"""

import argparse
import copy
import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.data.transform import MaskItemSequence
from recbole.model.sequential_recommender import BERT4Rec, GRU4Rec, SASRec
from torch import Tensor

import seerec
from seerec.atomic import write_json
from seerec.batch import Batch
from seerec.config import BatchSettings
from seerec.data.batches import EvaluationBatches, TrainingBatches
from seerec.data.candidates import load as load_candidates
from seerec.data.draws import seed_of
from seerec.evaluation.evaluate import Candidates, evaluate
from seerec.evaluation.metrics import per_target, summary
from seerec.evaluation.ranking import rank_candidates, rank_catalogue
from seerec.evaluation.results import Evaluation
from seerec.evaluation.significance import by_user, compare
from seerec.progress import Progress

BATCH, CPU = BatchSettings(), torch.device("cpu")
LENGTH = BATCH.rec_length
CANDIDATES: tuple[Candidates, ...] = ("sampled", "full")
METRICS = ("ndcg@5", "hr@10")
THEIRS: dict[str, tuple[Any, dict[str, Any]]] = {
    "gru4rec": (GRU4Rec, {"embedding_size": 64, "hidden_size": 128, "num_layers": 1, "dropout_prob": 0.3}),
    "sasrec": (SASRec, {"hidden_dropout_prob": 0.5, "attn_dropout_prob": 0.5}),
    "bert4rec": (BERT4Rec, {"hidden_dropout_prob": 0.2, "attn_dropout_prob": 0.2, "mask_ratio": 0.2, "ft_ratio": 0.5}),
}
SHARED: dict[str, Any] = {
    "USER_ID_FIELD": "user", "ITEM_ID_FIELD": "item", "LIST_SUFFIX": "_list", "ITEM_LIST_LENGTH_FIELD": "length",
    "NEG_PREFIX": "neg_", "MAX_ITEM_LIST_LENGTH": LENGTH, "device": "cpu", "loss_type": "CE", "initializer_range": 0.02,
    "n_layers": 2, "n_heads": 2, "hidden_size": 64, "inner_size": 256, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
}  # fmt: skip


class Settings(dict[str, Any]):
    """RecBole reads settings as items, and in one place as attributes."""

    __getattr__ = dict.__getitem__


class Catalogue:
    """What RecBole asks of a dataset."""

    def __init__(self, items: int) -> None:
        self._items = items

    def num(self, field: str) -> int:  # noqa: ARG002
        """Rows of the item table."""
        return self._items


def interaction(rec: Tensor, seen: Tensor, target: Tensor) -> Interaction:
    """Right-padded prefixes as RecBole names them."""
    visible = torch.arange(rec.shape[1]) < seen[:, None]
    return Interaction({"item_list": rec * visible, "length": seen, "item": target})


def with_room(rec: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """The same prefixes with a free slot at the end: a full one loses its oldest click."""
    full = seen == LENGTH
    rec = torch.where(full[:, None], rec.roll(-1, 1), rec)
    return (rec if rec.shape[1] == LENGTH else torch.nn.functional.pad(rec, (0, 1))), seen - full.long()


class Theirs:
    """One of RecBole's models on a corpus."""

    def __init__(self, corpus: seerec.Corpus, key: str, seed: int) -> None:
        kind, own = THEIRS[key]
        random.seed(seed)
        torch.manual_seed(seed_of(seed))
        self.config = Settings({**SHARED, **own})
        self.data = Catalogue(corpus.items)
        self.mask = MaskItemSequence(self.config) if key == "bert4rec" else None
        self.model = kind(self.config, self.data)
        self.training = TrainingBatches(
            corpus, BATCH, seed=seed, packs=False, rows=256, negatives=1, unknown_user_share=0.0
        )  # fmt: skip

    def learn(self, epoch: int, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """One epoch over all prefixes that hold a click."""
        self.model.train()
        with progress.task(f"epoch {epoch}", total=self.training.steps(epoch), unit="steps") as bar:
            for step in range(self.training.steps(epoch)):
                batch = self.training.batch(epoch, step)
                some = batch.rec_seen[:, 0] > 0
                rec, seen, target = batch.rec[some], batch.rec_seen[some, 0], batch.positive_item[some, 0]
                if self.mask is not None:  # its sequences end with the target
                    rec, seen = with_room(rec, seen)
                    rec, seen = rec.scatter(1, seen[:, None], target[:, None]), seen + 1
                if not len(rec):
                    continue
                rows = interaction(rec, seen, target)
                loss = self.model.calculate_loss(rows if self.mask is None else self.mask(self.data, rows))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                bar.advance(1)

    # What ranking asks of a model.

    def eval(self) -> None:
        """No dropout."""
        self.model.eval()

    def encode(self, batch: Batch) -> Tensor:
        """Scores of every item, B I."""
        rec, seen = batch.rec, batch.rec_seen[:, 0]
        if self.mask is not None:  # RecBole appends the mask and drops the first slot, which need not be a click
            rec, seen = with_room(rec, seen)
            rec, seen = torch.nn.functional.pad(rec[:, :-1], (1, 0)), seen + 1
        found: Tensor = self.model.full_sort_predict(interaction(rec, seen, seen))
        return found

    def items(self, ids: Tensor) -> Tensor:
        """The ids."""
        return ids

    def score(self, state: Tensor, items: Tensor) -> Tensor:
        """B 1 C."""
        return state[:, None].gather(2, items.expand(len(state), 1, -1))


def train_theirs(corpus: seerec.Corpus, key: str, seed: int, folder: Path, patience: int, progress: Progress) -> None:
    """Until validation has not improved for ``patience`` epochs; keeps the test ranks of the best epoch."""
    if (folder / "full" / "report.json").is_file():
        return
    theirs, began = Theirs(corpus, key, seed), time.process_time()
    validation, test = (EvaluationBatches(corpus, BATCH, load_candidates(corpus, name)) for name in ("val", "test"))
    optimizer = torch.optim.Adam(theirs.model.parameters(), lr=1e-3)
    best, since, epoch, weights = -1.0, 0, 0, theirs.model.state_dict()
    while since < patience:
        theirs.learn(epoch, optimizer, progress)
        value = summary(per_target(*rank_candidates(theirs, validation, CPU, progress)))["ndcg@5"]
        epoch, since = epoch + 1, since + 1
        if value > best:
            best, since, weights = value, 0, copy.deepcopy(theirs.model.state_dict())
        print(f"{key} of RecBole, epoch {epoch}: NDCG@5 {value:.4f}, best {best:.4f}", flush=True)
    theirs.model.load_state_dict(weights)
    users = corpus.user_ids[test.row]
    facts = {"model": f"recbole {key}", "validation": best, "epochs": epoch, "seconds": round(time.process_time() - began)}
    sampled = rank_candidates(theirs, test, CPU, progress)
    for name, ranks in (("sampled", sampled), ("full", rank_catalogue(theirs, corpus, test, CPU, progress))):
        found = Evaluation(np.asarray(test.target), users, np.ones(len(test.target), bool), *ranks, facts)
        found.save(folder / name)


def main() -> None:
    """Both sides of some models and seeds; print and keep the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--model", choices=tuple(THEIRS), required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--patience", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of ours")
    parser.add_argument("--out", type=Path, default=Path("runs/third-party"))
    asked = parser.parse_args()
    corpus, progress, key = seerec.Corpus.open(asked.corpus), Progress(), asked.model
    own = {name: json.loads(value) for name, value in (each.split("=", 1) for each in asked.set)}
    for seed in range(asked.seeds):
        settings = {**own, "seed": seed}
        run = asked.out / "-".join([key, *(f"{name}={value}" for name, value in own.items()), str(seed)])
        began = time.process_time()
        seerec.train(corpus, run, model=key, settings=settings, stages="1", resume=True, progress=progress)
        seconds = round(time.process_time() - began)
        other = asked.out / f"recbole-{key}-{seed}"
        train_theirs(corpus, key, seed, other, asked.patience, progress)
        report: dict[str, Any] = {"model": key, "seed": seed, "settings": own, "seconds": seconds}
        for candidates in CANDIDATES:
            ours = evaluate(run, candidates=candidates, progress=progress)
            theirs = Evaluation.load(other / candidates)
            report[candidates] = {
                "ours": summary(ours.vectors()),
                "theirs": {**summary(theirs.vectors()), **theirs.facts},
                **{metric: difference(ours, theirs, metric) for metric in METRICS},
            }
        write_json(run / "third-party.json", report)
        print(json.dumps(report, indent=2), flush=True)


def difference(ours: Evaluation, theirs: Evaluation, metric: str) -> dict[str, float]:
    """Ours less theirs, paired by user, with the ends of its 95 % interval."""
    a, b = (by_user(each.vectors()[metric], each.user_id) for each in (ours, theirs))
    found = compare(a, b)
    return {"difference": found.difference, "low": found.low, "high": found.high, "p": found.t_p}


if __name__ == "__main__":
    main()

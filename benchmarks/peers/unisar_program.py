"""The program of UniSAR's authors, timed for a driver; see ``protocol.py``.

    python benchmarks/peers/unisar_program.py LOAD.npz --program FOLDER

FOLDER is a checkout of that program. It carries no licence, so nothing of it is here, and its files stay as they are: what it
needs to run on a processor, with a generated load, is replaced in memory. Its epoch loop takes the steps, its ``predict`` scores.
"""

import argparse
import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, chdir
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from protocol import CANDIDATES, Clock, Ids, Load, serve
from torch.utils.data import DataLoader

SOURCE = "https://github.com/TengShi-RUC/UniSAR"
NEEDED = (
    "main.py", "config/UniSAR_KuaiSAR.yaml", "models/UniSAR.py",
    "utils/Runner.py", "utils/const.py", "utils/sampler.py", "utils/utils.py",
)  # fmt: skip
STEPS, TESTED, SESSIONS = 64, 4096, 100_000
"""Training steps of an epoch, test rows and distinct searches that are generated; a clock may go through them several times."""
SEARCH_ROWS = 88
"""Search rows in a step, beside the recommendation rows: the log that the authors publish for KuaiSAR says so."""
CAPTION, QUERY, CLICKS = 30, 6, 2
"""Most words of an item's caption and of a query (the least is 1), and most clicks of a search (the least is 0)."""


@dataclass(frozen=True)
class Options:
    """Of the command line: where the program is, rows of its user and word tables, negatives of a training row."""

    program: Path
    users: int
    words: int
    negatives: int

    def fault(self) -> str | None:
        """Why the program cannot run, and what to do about it."""
        absent = [name for name in NEEDED if not (self.program / name).is_file()]
        if absent:
            return (
                f"--program {self.program} is not a checkout of the UniSAR authors' program: {', '.join(absent)} not found. "
                f"Run `git clone {SOURCE}` and give the folder that holds main.py."
            )
        absent = [name for name in ("tqdm", "yaml") if importlib.util.find_spec(name) is None]
        if absent:
            return f"The UniSAR authors' program imports {', '.join(absent)}, not found here. Run `pip install pyyaml tqdm`."
        return None


class Tables:
    """What the program would read from its data folder, generated: histories are the load's, all else is random."""

    def __init__(self, load: Load, const: Any, negatives: int, batch: int) -> None:
        self.const, self.draw = const, np.random.default_rng((load.seed, 1))
        self.sequence = load.sequence[: const.user_id_num]
        self.events: Ids = (self.sequence > 0).sum(1)
        if not len(self.events) or self.events.min() < 2:
            raise ValueError("Every user of the load needs 2 events or more, a history and a target. Leave the others out.")
        self.length = load.length
        self.keywords = self._texts(SESSIONS + 1, QUERY)
        # The program derives the search rows of a step from the sizes of both tables; so many give SEARCH_ROWS.
        searched = (SEARCH_ROWS - 1) * (STEPS + 1)
        self.held = {
            const.user_vocab: self._histories(),
            const.query_vocab: [self._trimmed(row) for row in self.keywords],
            const.user_map_vocab: self._columns(const.user_feature_list, const.user_id_num),
            const.item_map_vocab: self._columns(const.item_feature_list, const.item_id_num),
            const.session_map_vocab: {"keyword": self.keywords, "pos_items": self._clicks()},
            const.rec_train: self._rows(STEPS * batch, negatives),
            const.src_train: self._rows(searched, negatives),
            const.rec_val: self._rows(1, CANDIDATES - 1),
            const.src_val: self._rows(1, CANDIDATES - 1),
            const.rec_test: self._rows(TESTED, CANDIDATES - 1),
            const.src_test: self._rows(1, CANDIDATES - 1),
        }

    def _texts(self, rows: int, most: int) -> Ids:
        """Word ids by Zipf's law, right-padded with 0 to the program's length; the first text is empty, for padding."""
        texts = np.zeros((rows, self.const.max_query_word_len), np.int64)
        count = self.draw.integers(1, most + 1, rows)
        for column in range(most):
            ids = ((self.const.word_id_num - 1) ** self.draw.random(rows)).astype(np.int64)
            texts[:, column] = ids * (column < count)
        texts[0] = 0
        return texts

    def _trimmed(self, text: Ids) -> list[int]:
        """Without the padding."""
        words: list[int] = text[text > 0].tolist()
        return words

    def _clicks(self) -> Ids:
        """Clicked items of every search, 0 where there are no more."""
        shape = (SESSIONS + 1, self.const.max_session_item_len)
        kept = np.arange(shape[1]) < self.draw.integers(0, CLICKS + 1, (shape[0], 1))
        return self.draw.integers(1, self.const.item_id_num, shape) * kept

    def _columns(self, names: Iterable[str], rows: int) -> dict[str, Ids]:
        """The features of items or users; the first name is the id itself."""
        columns = {}
        for name in list(names)[1:]:
            texts = name in self.const.item_text_feature
            size = 0 if texts else getattr(self.const, f"{name}_num")
            columns[name] = self._texts(rows, CAPTION) if texts else self.draw.integers(1, size, rows)
        return columns

    def _histories(self) -> list[dict[str, list[int]]]:
        """Of every user, by id: items clicked, as many searches as one row reads, and their times, all mixed."""
        found = []
        for row, events in zip(self.sequence, self.events, strict=True):
            searches = self.draw.integers(1, SESSIONS + 1, self.length)
            times = self.draw.permutation(int(events) + self.length)
            found.append(
                {
                    "rec_his": row[:events].tolist(), "rec_his_ts": np.sort(times[:events]).tolist(),
                    "src_session_his": searches.tolist(), "src_session_his_ts": np.sort(times[events:]).tolist(),
                }
            )  # fmt: skip
        return found

    def _rows(self, rows: int, negatives: int) -> pd.DataFrame:
        """Targets: an event with at least ``length`` events before it where the user has so many, else the last one."""
        user = self.draw.integers(0, len(self.sequence), rows)
        seen = self.draw.integers(np.minimum(self.length, self.events[user] - 1), self.events[user])
        columns = {
            "user_id": user,
            "item_id": self.sequence[user, seen],
            "neg_items": self.draw.integers(1, self.const.item_id_num, (rows, negatives)).tolist(),
            "rec_his": seen,
            "src_session_his": np.full(rows, self.length),
            "keyword": [self._trimmed(text) for text in self.keywords[self.draw.integers(1, SESSIONS + 1, rows)]],
        }
        return pd.DataFrame(columns)


def in_process(*, dataset: Any, shuffle: bool, batch_size: int, collate_fn: Any, **_: Any) -> DataLoader[Any]:
    """A loader without processes of its own: ten of them, the program's default, would take the processors from the steps."""
    return DataLoader(dataset, batch_size, shuffle, collate_fn=collate_fn)


class UniSAR:
    """The program's runner and model."""

    def __init__(self, load: Load, options: Options) -> None:
        sys.dont_write_bytecode = True  # nothing is written into the checkout
        sys.path.insert(0, str(options.program.resolve()))
        main, runners, const, sampler, theirs = map(
            importlib.import_module, ("main", "utils.Runner", "utils.const", "utils.sampler", "utils.utils")
        )
        parser = main.UniSAR.parse_model_args(main.parse_global_args(argparse.ArgumentParser()))
        args = main.SarRunner.parse_runner_args(parser).parse_args(["--gpu", "cpu"])
        args.device = torch.device("cpu")
        with chdir(options.program):
            theirs.load_hyperparam(args)
        const.init_setting_KuaiSAR()
        const.item_id_num, const.word_id_num, const.user_id_num = load.items + 1, options.words, options.users
        const.max_rec_his_len = const.max_src_session_his_len = load.length
        const.final_emb_size = load.width
        theirs.setup_seed(load.seed)
        held = Tables(load, const, options.negatives, args.batch_size).held
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
        with ExitStack() as replaced:
            for place, name, instead in (
                (theirs, "load_pickle", held.__getitem__),
                (sampler, "pd", SimpleNamespace(read_pickle=held.__getitem__)),
                (runners, "DataLoader", in_process),
                # torch took the argument ``verbose`` away.
                (torch.optim.lr_scheduler, "ReduceLROnPlateau", lambda *given, verbose, **named: plateau(*given, **named)),  # noqa: ARG005
            ):
                replaced.enter_context(patch.object(place, name, instead))
            self.model, self.runner = main.UniSAR(args), main.SarRunner(args)
            self.runner._build_optimizer(self.model)
            self.runner.get_query_vocab()
            pairs = runners.InfoNCEDataset(query_vocab=self.runner.query_vocab)
            self.runner.InfoNCE_dataloader = self.runner.getDataLoader(pairs, self.runner.infoNCE_neg_sample, shuffle=False)
        self.batches = self.runner.rec_train_loader
        self.rows, self.loss, self.losses = 0, 0.0, list[float]()
        self.model.rec_loss = self._noted(self.model.rec_loss, 1.0)
        self.model.src_loss = self._noted(self.model.src_loss, self.runner.src_loss_weight)
        self.shape = f"{load.items:,} items, {const.word_id_num:,} words, {const.user_id_num:,} users, width {load.width}"
        self.settings = (
            f"batches of {args.batch_size} recommendation and {self.runner.src_train_loader.batch_size} search rows, "
            f"{options.negatives} negatives, {args.infoNCE_neg_sample} alignment negatives, histories of {load.length} + "
            f"{load.length}, {args.num_layers} layer, {args.num_heads} heads, dropout {args.dropout}, Adam at {args.lr} with "
            f"weight decay {args.l2}, deterministic algorithms"
        )
        self.evaluate_note = (
            f"its predict on batches of {args.eval_batch_size}, 1 positive and {CANDIDATES - 1} negatives; {self.shape}"
        )

    @property
    def train_note(self) -> str:
        """With the loss of the first and the last step of this process."""
        return f"its train_epoch, loss {self.losses[0]:.4f} to {self.losses[-1]:.4f}; {self.settings}; {self.shape}"

    def train(self, clock: Clock) -> None:
        """Recommendation and search rows of its epoch loop."""
        self.rows, self.loss = 0, 0.0  # a request that failed may have left half a step
        self.runner.rec_train_loader = self._steps(self.batches, clock, self._trained)
        self.runner.train_epoch(0, self.model)

    def evaluate(self, clock: Clock) -> None:
        """Recommendation rows."""
        scores = self.runner.predict(self.model, self._steps(self.runner.rec_test_loader, clock, lambda rows: rows["batch_size"]))
        if scores.shape[1:] != (CANDIDATES,) or not np.isfinite(scores).all():
            raise ValueError(f"predict gave scores of shape {scores.shape}, {(~np.isfinite(scores)).sum()} not finite.")

    def _steps(self, loader: Iterable[Any], clock: Clock, rows: Callable[[Any], int]) -> Iterator[Any]:
        """Batches without an end; the program asks for the next one when its step is over."""
        while True:
            for batch in loader:
                yield batch
                if clock.tick(rows(batch)):
                    return

    def _noted(self, loss: Callable[[Any], dict[str, Any]], weight: float) -> Callable[[Any], dict[str, Any]]:
        """The same function, adding its rows and its share of the loss to those of the step."""

        def noted(batch: Any) -> dict[str, Any]:
            found = loss(batch)
            self.rows += batch["batch_size"]
            self.loss += weight * found["total_loss"].item()
            return found

        return noted

    def _trained(self, _: Any) -> int:
        """Rows of the step that has ended, both kinds."""
        if not math.isfinite(self.loss):
            raise ValueError(f"The loss of step {len(self.losses) + 1} is {self.loss}: a rate of such steps means nothing.")
        self.losses.append(self.loss)
        rows, self.rows, self.loss = self.rows, 0, 0.0
        return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("load", type=Path)
    parser.add_argument("--program", type=Path, required=True, help=f"a checkout of {SOURCE}")
    parser.add_argument("--words", type=int, default=394_912, help="rows of the word table (KuaiSAR's: %(default)s)")
    parser.add_argument("--users", type=int, default=22_700, help="rows of the user table (KuaiSAR's: %(default)s)")
    parser.add_argument("--negatives", type=int, default=4, help="of a training row (%(default)s)")
    given = parser.parse_args()
    options = Options(given.program, given.users, given.words, given.negatives)
    fault = options.fault()
    sys.argv[1:] = [str(given.load)]  # where serve() looks for the load, wherever the options stood
    serve("unisar", {} if fault else {"unisar": partial(UniSAR, options=options)}, {"unisar": fault} if fault else {})

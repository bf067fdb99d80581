"""``train``: a corpus and a model key in, a run folder out; stage 1, and stage 2 where the model reasons."""

import copy
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch.utils import deterministic

import seerec
from seerec import artifact
from seerec.atomic import claimed, remove_partials, write_json
from seerec.batch import Batch
from seerec.config import TrainSettings
from seerec.data.batches import EvaluationBatches, StepBatches, TrainingBatches
from seerec.data.candidates import load as load_candidates
from seerec.data.corpus import Corpus
from seerec.data.draws import seed_of
from seerec.data.targets import Task, positions, sample_rows
from seerec.device import place_of
from seerec.errors import SeerecError
from seerec.evaluation.metrics import per_target, summary
from seerec.evaluation.ranking import rank_candidates
from seerec.kernels import Precision, choose, products_in
from seerec.models.base import CountingRecommender, NeuralRecommender, ReasoningRecommender, Recommender, Vocabulary
from seerec.models.registry import build
from seerec.progress import SILENT, Progress
from seerec.training.growth import adopt
from seerec.training.journal import Journal
from seerec.training.loop import Stage, run_stage
from seerec.training.optimizers import DenseAdam, LazyAdam, Optimizer
from seerec.training.presets import resolve
from seerec.training.reinforce import PolicyObjective
from seerec.training.run import Run

Stages = Literal["all", "1"]
_memory: Any = deterministic  # torch gives the module no types


def train(
    corpus: Corpus | str | Path,
    out: str | Path,
    *,
    model: str = "lcr-ser",
    preset: str = "best",
    settings: dict[str, Any] | None = None,
    stages: Stages = "all",
    resume: bool = False,
    start: str | Path | None = None,
    device: str | None = None,
    progress: Progress = SILENT,
) -> Run:
    """Train a model.

    Parameters
    ----------
    corpus
        A prepared folder.
    out
        The run folder to make.
    model
        A key of ``seerec models``.
    preset
        ``best`` or ``paper``.
    settings
        Values over the preset by dotted name: ``{"model.steps": 4, "learning_rate": 3e-4, "reinforce.noise_std": 0.5}``.
    stages
        ``"1"`` leaves out stage 2 of a model that reasons.
    resume
        Go on with the run in ``out``; the result is the same as without the interruption.
    start
        A run or artifact to go on from, on a newer corpus: known users, items and words keep their rows.
    device
        ``cpu`` or ``cuda``; None: a GPU where there is one.

    Raises
    ------
    SeerecError
        Wrong settings, a taken folder, no training targets, a full disk, a diverging loss.
    """
    corpus = corpus if isinstance(corpus, Corpus) else Corpus.open(corpus)
    config, training = resolve(model, preset, settings or {})
    if stages not in get_args(Stages):
        raise SeerecError(f"There are no stages {stages!r}.", 'Choose "all" or "1".')
    if not len(corpus.targets("train")):
        raise SeerecError(f"The corpus {corpus.path} has no training targets.", "Prepare a log with more clicks per user.")
    facts = {
        "kind": "seerec-run",
        "seerec": seerec.__version__,
        "corpus": str(corpus.path.resolve()),
        "corpus_hash": corpus.content_hash,
        "model": model,
        "preset": preset,
        "config": config.model_dump(),
        "settings": training.model_dump(),
        "stages": stages,
        "start": None if start is None else artifact.read_manifest(artifact.locate(start)).get("corpus_hash"),
    }
    place = place_of(device)
    precision, _ = choose(training.precision, place)
    facts["products"] = precision
    batch = training.batch
    vocabulary = artifact.vocabulary_of(corpus, batch.query_words)
    with _settled(place):
        torch.manual_seed(seed_of(training.seed))
        built = build(model, config, vocabulary, batch.rec_length, batch.search_length)
        if start is not None:
            adopt(built, artifact.load(artifact.locate(start)), corpus)
        with claimed(Path(out), "training"):  # after all that may refuse the settings, so that no empty folder is left
            run = Run.begin(Path(out), facts, resume)
            remove_partials(run.path)
            if not (run.path / "result.json").is_file():
                _Work(corpus, vocabulary, training, run, place, precision, progress).do(built, stages)
    return run


@contextmanager
def _settled(place: torch.device) -> Iterator[None]:
    """Deterministic on a CPU, with gradients; what the caller had set in torch, and its random state, come back."""
    strict, fill = torch.are_deterministic_algorithms_enabled(), _memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(place.type == "cpu")
    _memory.fill_uninitialized_memory = False  # nothing here reads memory it has not written
    try:
        with torch.random.fork_rng([place] if place.type == "cuda" else []), torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.use_deterministic_algorithms(strict)
        _memory.fill_uninitialized_memory = fill


def _seconds(minutes: float | None) -> float | None:
    return None if minutes is None else 60 * minutes


class _Work:
    """What both stages of one run share."""

    def __init__(
        self,
        corpus: Corpus,
        vocabulary: Vocabulary,
        settings: TrainSettings,
        run: Run,
        device: torch.device,
        precision: Precision,
        progress: Progress,
    ) -> None:
        self.vocabulary, self.precision = vocabulary, precision
        self.corpus, self.settings, self.run, self.device, self.progress = corpus, settings, run, device, progress
        self.rows_kept = None if settings.users is None else sample_rows(corpus, settings.users)
        sets = load_candidates(corpus, "val")
        self.validation = EvaluationBatches(corpus, settings.batch, sets, settings.validation_users, self.rows_kept)
        self.results: dict[str, Any] = {}

    def do(self, model: Recommender[Any], stages: Stages) -> None:
        """All of it; ``result.json`` comes last."""
        if isinstance(model, CountingRecommender):
            self.count(model)
        elif isinstance(model, NeuralRecommender):
            self.learn(model.to(self.device))
            if isinstance(model, ReasoningRecommender) and stages == "all" and self.settings.reinforce.epochs > 0:
                self.reinforce()
        write_json(self.run.path / "result.json", self.results)

    def count(self, model: CountingRecommender[Any]) -> None:
        """One pass of counting."""
        self._show(model)
        model.finish()
        metrics = self._validate(model)()
        self._keep(1, model)(metrics)
        self.results["stage1"] = metrics

    def learn(self, model: NeuralRecommender[Any]) -> None:
        """Stage 1."""
        s = self.settings
        if model.learns_transitions:
            self._show(model)

        def objective(batches: tuple[Batch, ...], update: int) -> tuple[dict[str, torch.Tensor], dict[str, float]]:  # noqa: ARG001
            model.train()
            with products_in(self.precision):
                terms = model.objective(batches[0], model.encode(batches[0]), s.objective)
                for search in batches[1:]:
                    own = model.objective(search, model.encode(search), s.objective)
                    terms |= {f"search_{name}": model.config.search_weight * term for name, term in own.items()}
            return terms, {}

        how = (s.batch.rows, s.batch.negatives, s.unknown_user_share, s.batch.fresh_negatives)
        asked = model.searches and len(positions(self.corpus, "train", "search")) > 0
        search = self._batches(1, model, *how, task="search") if asked else None
        self._run(
            Stage(
                number=1,
                model=model,
                inputs=model.inputs,
                batches=StepBatches(self._batches(1, model, *how), search),
                objective=objective,
                augment=model.augment,
                catalogue=model.reads_catalogue(s.objective),
                optimizer=self._optimizer(model, s.weight_decay),
                validate=self._validate(model),
                keep_best=self._keep(1, model),
                seed=s.seed,
                epochs=s.epochs,
                patience=s.patience,
                learning_rate=s.learning_rate,
                metric=s.metric,
                rows_open=s.optimizer == "lazy",
                device=self.device,
                max_seconds=_seconds(s.max_minutes),
                clip_norm=s.clip_norm,
                warmup_steps=s.warmup_steps,
                decay=s.decay if s.schedule == "plateau" else None,
                decay_patience=s.decay_patience,
                patience_steps=s.patience_steps,
                min_learning_rate=s.min_learning_rate,
            )
        )

    def reinforce(self) -> None:
        """Stage 2, from the best model of stage 1."""
        s, r = self.settings, self.settings.reinforce
        model = artifact.load(self.run.artifact(1)).model.to(self.device)
        assert isinstance(model, ReasoningRecommender)
        policy = PolicyObjective(model, copy.deepcopy(model), r)

        def objective(batches: tuple[Batch, ...], update: int) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
            with products_in(self.precision):
                return policy(batches[0], update)

        self._run(
            Stage(
                number=2,
                model=model,
                inputs=model.inputs,
                batches=StepBatches(self._batches(2, model, r.rows, r.negatives, s.unknown_user_share)),
                objective=objective,
                optimizer=self._optimizer(model, 0.0),
                validate=self._validate(model),
                keep_best=self._keep(2, model),
                seed=s.seed,
                epochs=r.epochs,
                patience=r.patience,
                learning_rate=r.learning_rate,
                metric=s.metric,
                rows_open=s.optimizer == "lazy",
                device=self.device,
                max_seconds=_seconds(r.max_minutes),
                updates=r.updates,
                clip_norm=s.clip_norm,
                steps_per_epoch=r.steps_per_epoch,
                validate_first=True,
            )
        )

    def _run(self, stage: Stage) -> None:
        journal = Journal(self.run.path)
        began = time.monotonic()
        s = self.settings
        position = run_stage(
            stage,
            self.run.path / "checkpoints",
            journal,
            self.progress,
            checkpoint_seconds=s.checkpoint_seconds,
            keep=s.keep_checkpoints,
        )
        journal.close()
        with (self.run.path / "timing.jsonl").open("a") as file:
            seconds = round(time.monotonic() - began, 3)
            file.write(json.dumps({"stage": stage.number, "seconds": seconds, "threads": torch.get_num_threads()}) + "\n")
        best = artifact.read_manifest(self.run.artifact(stage.number))["validation"]
        self.results[f"stage{stage.number}"] = best | ({"stopped": position.stopped} if position.stopped else {})

    def _show(self, model: CountingRecommender[Any] | NeuralRecommender[Any]) -> None:
        """One epoch of training batches for what a model counts."""
        batches = self._batches(1, model, rows=1024, negatives=1, share=0.0)
        with self.progress.task("count", total=batches.steps(0), unit="steps") as bar:
            for step in range(batches.steps(0)):
                model.observe(batches.batch(0, step))
                bar.advance(1)

    def _batches(
        self,
        stage: int,
        model: Recommender[Any],
        rows: int,
        negatives: int,
        share: float,
        fresh: bool = True,
        task: Task = "recommendation",
    ) -> TrainingBatches:
        return TrainingBatches(
            self.corpus,
            self.settings.batch,
            seed=seed_of(self.settings.seed, stage, *([1] if task == "search" else [])),
            packs=model.packs,
            rows=rows,
            negatives=negatives,
            unknown_user_share=share,
            fresh=fresh,
            task=task,
            rows_kept=self.rows_kept,
            paired=stage == 1 and task == "recommendation" and isinstance(model, NeuralRecommender) and model.paired,
        )

    def _optimizer(self, model: NeuralRecommender[Any], weight_decay: float) -> Optimizer:
        kind = LazyAdam if self.settings.optimizer == "lazy" else DenseAdam
        return kind(model, weight_decay)

    def _validate(self, model: Recommender[Any]) -> Callable[[], dict[str, float]]:
        def validate() -> dict[str, float]:
            return summary(per_target(*rank_candidates(model, self.validation, self.device, self.progress)))

        return validate

    def _keep(self, stage: int, model: Recommender[Any]) -> Callable[[dict[str, float]], None]:
        trained = torch.from_numpy(self.corpus.row_user[self.corpus.row_user > 1].astype("int64"))

        def keep(metrics: dict[str, float]) -> None:
            if self.settings.unknown_user_share == 0:
                artifact.set_unknown_user(model, trained)
            facts = {
                "stage": stage,
                "validation": metrics,
                "preset": self.run.facts["preset"],
                "settings": self.settings.model_dump(),
                "optimizer": self.settings.optimizer,
            }
            artifact.save(self.run.path / f"stage{stage}", model, self.vocabulary, self.corpus, self.settings.batch, facts)

        return keep

"""The command line: one short function per command, no logic. What a command needs is imported when it runs."""

import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.exceptions import TyperException

from seerec import arguments, printing
from seerec.allocator import keep_freed_memory
from seerec.errors import SeerecError
from seerec.progress import SILENT, Progress

app = typer.Typer(
    name="seerec",
    help="Search-enhanced recommendation: train, evaluate, explain and serve models that read searches and clicks.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Split = Literal["test", "val"]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else on standard output.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run of `seerec train`, or one of its models.")]
Stage = Annotated[int | None, typer.Option(min=1, max=2, help="Use the model of stage 1 or 2.", show_default="the last")]
OtherCorpus = Annotated[
    Path | None, typer.Option("--corpus", help="The corpus, where it has moved.", show_default="the run's own")
]
Pairs = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any other setting; repeatable.")]
Files = Annotated[list[Path] | None, typer.Argument(metavar="PATH", help="Files of the source, or a folder of them.")]
RecipeFile = Annotated[
    Path | None, typer.Option("--recipe", metavar="FILE", help="An experiment as data, e.g. recipes/qilin.toml; flags go first.")
]
HistoryFile = Annotated[
    str | None, typer.Option("--history", metavar="FILE", help="JSON with histories; - reads standard input.")
]


def _file(text: str) -> Any:
    return typer.Option(metavar="FILE", help=text)


def _progress(as_json: bool) -> Progress:
    return SILENT if as_json else Progress()


@app.command(epilog="Example: seerec prepare simulated --users 3000 --out corpus")
def prepare(
    source: Annotated[
        Literal["interactions", "jdsearch", "kuaisar", "qilin", "simulated", "tables", "ubi"],
        typer.Argument(metavar="SOURCE", show_choices=True),
    ],
    out: Annotated[Path, typer.Option(metavar="CORPUS", help="The corpus folder to make.")],
    paths: Files = None,
    items: Annotated[Path | None, _file("interactions, tables, ubi: item titles and features.")] = None,
    searches_file: Annotated[Path | None, _file("tables: the searches.")] = None,
    users_file: Annotated[Path | None, _file("tables: user features.")] = None,
    renamed: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="COLUMN=NAME", help="tables: unusual names; TABLE.COLUMN too; repeatable."),
    ] = None,
    user_column: Annotated[str | None, typer.Option(help="interactions: the column of users.")] = None,
    item_column: Annotated[str | None, typer.Option(help="interactions: the column of items.")] = None,
    time_column: Annotated[str | None, typer.Option(help="interactions: the column of times.")] = None,
    p_search: Annotated[float | None, typer.Option(help="interactions: share turned into searches.", show_default="0.4")] = None,
    users: Annotated[int | None, typer.Option(help="simulated: number of users.", show_default="3000")] = None,
    announce: Annotated[float | None, typer.Option(help="simulated: share of announced interests.", show_default="0.7")] = None,
    noise: Annotated[
        float | None, typer.Option(help="Irrelevant searches.", show_default="interactions 0.3, simulated 0.5")
    ] = None,
    types: Annotated[
        str | None,
        typer.Option(metavar="TYPES", help="jdsearch: events, with commas between.", show_default="ORD,CLICK,CART,FLW"),
    ] = None,
    user: Annotated[
        Literal["client_id", "session_id", "user_id"] | None, typer.Option(help="ubi: who a user is.", show_default="client_id")
    ] = None,
    clicks: Annotated[
        str | None, typer.Option(metavar="ACTIONS", help="ubi: clicks, with commas between.", show_default="click,purchase,...")
    ] = None,
    shown: Annotated[
        str | None, typer.Option(metavar="ACTIONS", help="ubi: what only shows an item.", show_default="impression,view,...")
    ] = None,
    notes: Annotated[
        Literal["all", "with-text"] | None, typer.Option(help="qilin: which notes stay.", show_default="all")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the source and of the candidates.", show_default="0")] = None,
    split: Annotated[
        Literal["leave-one-out", "chronological"] | None,
        typer.Option(help="What validation and test are.", show_default="leave-one-out"),
    ] = None,
    val_start: Annotated[str | None, typer.Option(metavar="DATE", help="chronological: first instant of validation.")] = None,
    test_start: Annotated[str | None, typer.Option(metavar="DATE", help="chronological: first instant of test.")] = None,
    repeats: Annotated[
        Literal["drop", "keep"] | None, typer.Option(help="Items of the own history as targets.", show_default="drop")
    ] = None,
    zero_click: Annotated[
        Literal["keep", "first-shown", "drop"] | None,
        typer.Option(help="What a search without a click is.", show_default="keep"),
    ] = None,
    searches: Annotated[
        Literal["own", "shuffled", "none"] | None, typer.Option(help="A control: whose searches.", show_default="own")
    ] = None,
    negatives: Annotated[int | None, typer.Option(help="Negatives of an evaluated target.", show_default="99")] = None,
    sampler: Annotated[
        Literal["uniform", "popularity"] | None, typer.Option(help="How they are drawn.", show_default="uniform")
    ] = None,
    recipe: RecipeFile = None,
    memory: Annotated[str, typer.Option(metavar="SIZE", help="Of queries; beyond it they go on on disk.")] = "2GB",
    engine: Annotated[Literal["duckdb", "spark"], typer.Option(help="Where queries run; the corpus is the same.")] = "duckdb",
    master: Annotated[str | None, typer.Option(help="spark: its address.", show_default="local[*]")] = None,
    pairs: Pairs = None,
    as_json: AsJson = False,
) -> None:
    """Prepare a log as a corpus.

    SOURCE is a format. interactions: clicks without searches, which are constructed. jdsearch, kuaisar, qilin: as published,
    PATH is the folder or the archive. simulated: a marketplace whose truth is known, no PATH. tables: PATH is the
    recommendations table. ubi: JSON lines of OpenSearch's User Behavior Insights, PATH is their folder or the files.
    Published sets bring their own split and rule for searches without a click, where no option says otherwise.
    A corpus that is already there is replaced when the new one is complete; runs trained on it keep their models, but cannot
    be evaluated on the new one.
    """
    flags = {
        "items": items, "searches_file": searches_file, "users_file": users_file, "user_column": user_column,
        "item_column": item_column, "time_column": time_column, "p_search": p_search, "users": users,
        "announce": announce, "noise": noise, "notes": notes, "types": types, "user": user, "clicks": clicks, "shown": shown,
        "map": renamed or None, "seed": seed,
    }  # fmt: skip
    experiment = arguments.recipe(recipe, source)
    options = arguments.source_options(source, paths or [], {**experiment.options, **arguments.given(**flags)})
    chosen = arguments.settings(
        pairs or [], split=split, val_start=val_start, test_start=test_start, repeats=repeats, zero_click=zero_click,
        searches=searches, negatives=negatives, sampler=sampler, seed=seed,
    )  # fmt: skip
    with printing.waiting("starting", quiet=as_json):
        from seerec.data.door import prepare as write

    replaced = (out / "manifest.json").is_file()
    progress, values = _progress(as_json), {**experiment.data, **chosen}
    corpus = write(out, source=source, settings=values, memory=memory, engine=engine, master=master, progress=progress, **options)
    document = {name: corpus.manifest[name] for name in ("content_hash", "counts", "quarantined", "bounds")}
    read = corpus.manifest["source"]
    about = {"simulated": bool(read.get("simulated")), "absent": read.get("absent", [])}
    printing.show({"corpus": str(out), "replaced": replaced, **about, **document}, as_json, printing.corpus)


@app.command(epilog="Example: seerec download kuaisar-small --out raw")
def download(
    name: Annotated[Literal["kuaisar-small", "kuaisar-large", "qilin"], typer.Argument(metavar="NAME", show_choices=True)],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the files go; what is complete there stays.")],
    accept_licence: Annotated[bool, typer.Option("--accept-licence", help="You have read the licence and accept it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring a published data set: kuaisar-small, kuaisar-large or qilin.

    The publisher's own sizes and checksums are compared. The same command again goes on where it was interrupted.
    """
    from seerec.data.download import DATASETS
    from seerec.data.download import download as bring

    accepted = accept_licence or (not as_json and printing.agreed(f"{DATASETS[name].terms}. Do you accept it?"))
    printing.show(bring(name, out, accepted=accepted, progress=_progress(as_json)).report(), as_json, printing.downloaded)


@app.command(epilog="Example: seerec simulate raw --as kuaisar --scale 0.01")
def simulate(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to make.")],
    kind: Annotated[Literal["kuaisar", "qilin", "jdsearch"], typer.Option("--as", help="The format.")],
    scale: Annotated[str, typer.Option(help="small or large (kuaisar), published (qilin), or a share such as 0.01.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Write raw files in a published format, with its row counts and none of its content.

    For tests of size and speed. The folder says that it is simulated, and so does every corpus made from it.
    """
    from seerec.data.simulation import simulate as write

    counts = write(out, kind=kind, scale=scale, seed=seed, progress=_progress(as_json))
    printing.show({"folder": str(out), "as": kind, "simulated": True, "counts": counts}, as_json, printing.raw_files)


@app.command(epilog="Example: seerec train corpus --model lcr-ser --out runs/lcr-ser")
def train(
    corpus: Annotated[Path, typer.Argument(metavar="CORPUS", help="A folder of `seerec prepare`.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run folder to make.")],
    model: Annotated[str, typer.Option(metavar="KEY", help="A key of `seerec models`.")] = "lcr-ser",
    preset: Annotated[Literal["best", "paper"], typer.Option(help="best on validation, or as the paper prints it.")] = "best",
    seed: Annotated[int | None, typer.Option(help="Of weights, order, dropout and noise.", show_default="0")] = None,
    epochs: Annotated[int | None, typer.Option(help="Of stage 1, at most.")] = None,
    pairs: Pairs = None,
    stages: Annotated[Literal["all", "1"], typer.Option(help="1 leaves out stage 2 of a model that reasons.")] = "all",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run; the result is the same.")] = False,
    start: Annotated[Path | None, typer.Option("--from", metavar="RUN", help="A run or one of its models to go on from.")] = None,
    device: Annotated[Literal["cpu", "cuda"] | None, typer.Option(show_default="a GPU where there is one")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a model on a corpus."""
    chosen = arguments.settings(pairs or [], seed=seed, epochs=epochs)
    from seerec.device import place_of
    from seerec.kernels import choose
    from seerec.kernels.library import library
    from seerec.training.train import train as fit

    if not as_json:
        typer.echo(f"On a processor with {library.said}; SEEREC_KERNELS=off does without compiled kernels.", err=True)
        _, why = choose(chosen.get("precision", "auto"), place_of(device))
        typer.echo(f"{why[0].upper()}{why[1:]}.", err=True)
    run = fit(
        corpus, out, model=model, preset=preset, settings=chosen, stages=stages, resume=resume, start=start,
        device=device, progress=_progress(as_json),
    )  # fmt: skip
    validation = json.loads((run.path / "result.json").read_text())
    printing.show({"run": str(out), "model": model, "preset": preset, "validation": validation}, as_json, printing.run)


@app.command(epilog="Example: seerec evaluate runs/lcr-ser --split test")
def evaluate(
    run: RunFolder,
    split: Annotated[Split, typer.Option()] = "test",
    stage: Stage = None,
    full: Annotated[bool, typer.Option("--full", help="Rank the whole catalogue instead of sampled candidates.")] = False,
    task: Annotated[
        Literal["recommendation", "search"], typer.Option(help="search: items clicked in searches, for models that learn them.")
    ] = "recommendation",
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many targets, the same for every model.")] = None,
    precision: Annotated[Literal["fp32", "bf16"], typer.Option(help="bf16 is faster on a processor with AMX.")] = "fp32",
    corpus: OtherCorpus = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a run beside the random level.

    Metrics are printed for all users, for those known from training and for unknown ones; per-user figures are kept in
    the run.
    """
    from seerec.evaluation.evaluate import evaluate as rank

    candidates: Literal["full", "sampled"] = "full" if full else "sampled"
    found = rank(
        run, corpus=corpus, split=split, stage=stage, candidates=candidates, task=task, limit=limit, precision=precision,
        progress=_progress(as_json),
    )  # fmt: skip
    printing.show(printing.with_random_level({"run": str(run), **found.report()}), as_json, printing.evaluation)


@app.command(epilog="Example: seerec compare corpus --models all --seeds 5 --out runs/table")
def compare(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="A corpus, or runs; RUN:1 means its model of stage 1.")],
    split: Annotated[Split, typer.Option(help="runs: what they are evaluated on.")] = "test",
    full: Annotated[bool, typer.Option("--full", help="runs: rank the whole catalogue.")] = False,
    models: Annotated[str | None, typer.Option(metavar="KEYS", help="Keys with commas between.", show_default="all")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds of every model.", show_default="5")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where everything goes.", show_default="runs/compare/CORPUS")
    ] = None,
    trials: Annotated[int | None, typer.Option(min=0, help="Settings tried for each model.", show_default="5")] = None,
    tune_users: Annotated[int | None, typer.Option(min=1, help="Users of a trial.", show_default="5000")] = None,
    tune_minutes: Annotated[float | None, typer.Option(help="Training time of a trial.", show_default="3")] = None,
    minutes: Annotated[float | None, typer.Option(help="Training time of a seed.", show_default="20")] = None,
    against: Annotated[
        str | None, typer.Option(metavar="KEY", help="What the others are tested against.", show_default="lcr-ser")
    ] = None,
    recipe: RecipeFile = None,
    pairs: Pairs = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print the plan and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare models on a corpus, or runs that are there.

    A corpus: trains what is missing, the same small search of settings for every model included, and ends in one table.
    The same command goes on where it stopped; several may work on one folder. Runs: every further one against the first.
    Differences are paired by user, with 95 % intervals and p values of the t test adjusted after Holm.
    """
    asked = arguments.given(
        models=models, seeds=seeds, out=out, trials=trials, tune_users=tune_users, tune_minutes=tune_minutes,
        minutes=minutes, against=against, set=pairs, plan=plan or None, recipe=recipe,
    )  # fmt: skip
    if arguments.names_corpus(paths, asked, full, split):
        experiment = arguments.recipe(recipe)
        settings = {**experiment.train, **arguments.settings(pairs or [])}
        chosen = {name: value for name, value in asked.items() if name not in ("set", "plan", "recipe")}
        chosen = {**experiment.compare, **chosen}
        _compare_models(Path(paths[0]), {**chosen, "settings": settings}, plan, as_json)
        return
    from seerec.evaluation.evaluate import compare as test

    folders, stages = zip(*map(arguments.run_and_stage, paths), strict=True)
    candidates: Literal["full", "sampled"] = "full" if full else "sampled"
    table = test(folders, split=split, candidates=candidates, stages=stages, progress=_progress(as_json))
    rows = [{**row, "run": name} for row, name in zip(table.report(), paths, strict=True)]
    printing.show({"split": split, "candidates": candidates, "runs": rows}, as_json, printing.comparison)


def _compare_models(corpus: Path, asked: dict[str, Any], only_plan: bool, as_json: bool) -> None:
    """The plan first, a line for each cell, the table last; a cell that could not be finished is exit code 1."""
    from seerec.evidence.comparison import Comparison

    comparison = Comparison(corpus, **asked)
    if only_plan or not as_json:
        with printing.waiting("timing a few steps of each model", quiet=as_json):
            found = comparison.plan()
        printing.show(found, as_json, printing.plan)
    if only_plan:
        return
    document = comparison.run(_progress(as_json), None if as_json else printing.cell)
    printing.show(document, as_json, printing.standing)
    raise typer.Exit(1 if document["broken"] else 0)


@app.command(epilog="Example: seerec recommend runs/lcr-ser --user 42 -k 5")
def recommend(
    run: RunFolder,
    user: Annotated[list[str] | None, typer.Option(metavar="ID", help="A user of the corpus; repeatable.")] = None,
    history: HistoryFile = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many items.")] = 10,
    all_users: Annotated[bool, typer.Option("--all-users", help="Every user of the corpus, into --out.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE.parquet", help="Where --all-users writes.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted --all-users.")] = False,
    include_seen: Annotated[bool, typer.Option("--include-seen", help="Also items of the user's own history.")] = False,
    stage: Stage = None,
    corpus: OtherCorpus = None,
    as_json: AsJson = False,
) -> None:
    """Recommend to users or to new histories.

    Give users of the corpus (--user), histories never seen in training (--history), or --all-users with --out.
    """
    arguments.exactly_one(user=user, history=history, all_users=all_users)
    if all_users != (out is not None) or (resume and not all_users):
        raise typer.BadParameter("--all-users and --out go together, and --resume with them.")
    from seerec.recommendations import recommend as first_items
    from seerec.recommendations import recommend_all

    if out is not None:
        written = recommend_all(
            run, out, k=k, corpus=corpus, stage=stage, exclude_seen=not include_seen, progress=_progress(as_json),
            resume=resume,
        )  # fmt: skip
        printing.show({"file": str(out), "users": written}, as_json, printing.written)
        return
    histories = None if history is None else arguments.histories(history)
    found = first_items(run, users=user, histories=histories, k=k, corpus=corpus, stage=stage, exclude_seen=not include_seen)
    printing.show({"recommendations": found}, as_json, printing.recommendations)


@app.command(epilog="Example: seerec explain runs/lcr-ser --user 42")
def explain(
    run: RunFolder,
    user: Annotated[str | None, typer.Option(metavar="ID", help="A user of the corpus.")] = None,
    history: HistoryFile = None,
    item: Annotated[str | None, typer.Option(metavar="ID", help="Explain this item.", show_default="the first ones")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many recommended items to explain.")] = 1,
    stage: Stage = None,
    corpus: OtherCorpus = None,
    as_json: AsJson = False,
) -> None:
    """Show what a recommendation rests on.

    Per reasoning step: how much attention fell on which search and click.
    """
    arguments.exactly_one(user=user, history=history)
    from seerec.explanations import explain as find_reasons
    from seerec.explanations import text

    given = None if history is None else arguments.one_history(history)
    found = find_reasons(run, user=user, history=given, item=item, k=k, corpus=corpus, stage=stage)
    printing.show(found, as_json, text)


@app.command(epilog="Example: seerec models lcr-ser")
def models(
    key: Annotated[str | None, typer.Argument(metavar="[KEY]", help="List the settings of this model.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the models, or the settings of one."""
    from seerec import catalogue

    if key is None:
        printing.show({"models": catalogue.models()}, as_json, printing.models)
    else:
        printing.show(catalogue.model(key), as_json, printing.model)


@app.command(epilog="Example: seerec doctor")
def doctor(as_json: AsJson = False) -> None:
    """Check this installation and this machine."""
    from seerec.doctor import examine

    checks = examine()
    healthy = all(check["ok"] for check in checks)
    printing.show({"healthy": healthy, "checks": checks}, as_json, printing.health)
    raise typer.Exit(0 if healthy else 1)


@app.command(epilog="Example: seerec demo --out runs/demo")
def demo(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where everything goes.")] = Path("runs/demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Smaller and faster; figures mean nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Go the whole way on simulated data.

    Simulate, prepare, train three models, compare, recommend and explain.
    """
    from seerec import demo as tour

    printing.show(tour.run(out, quick=quick, progress=_progress(as_json)), as_json, printing.demo)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 a problem that is named, 2 wrong usage, 130 interrupted."""
    given = list(sys.argv[1:] if argv is None else argv)
    keep_freed_memory()
    try:
        code = int(app(given, prog_name="seerec", standalone_mode=False) or 0)
        if code != 130:
            return code
        resume = " with --resume" if {"train", "--all-users"} & set(given) else ""
        problem = SeerecError("Stopped.", f"To go on, give the same command again{resume}.")
    except TyperException as error:
        context = getattr(error, "ctx", None)  # what typer raises before it knows the command has none
        command = context.command_path if context is not None else "seerec"
        code, problem = 2, SeerecError(error.format_message(), f"See `{command} --help`.")
    except Exception as error:
        code, problem = 1, _named(error)
        if os.environ.get("SEEREC_TRACEBACK") == "1":
            traceback.print_exception(error)
    print(problem.cause, problem.fix, sep="\n", file=sys.stderr)
    if "--json" in given:
        printing.document({"error": {"cause": problem.cause, "fix": problem.fix}})
    return code


def _named(error: Exception) -> SeerecError:
    """Any exception as a cause and a fix."""
    if isinstance(error, SeerecError):
        return error
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or "can't allocate memory" in str(error):
        return SeerecError(
            "The memory of this machine is not enough.",
            "Use smaller batches (--set batch.rows=32), fewer negatives, or a smaller model (--set model.width=32).",
        )
    if isinstance(error, OSError):
        place = f" ({error.filename})" if error.filename else ""
        return SeerecError(f"{error.strerror or error}{place}.", "Check the free disk space and the permissions of the file.")
    return SeerecError(
        f"Something unexpected happened: {type(error).__name__}: {error}",
        "Please report it together with the traceback that SEEREC_TRACEBACK=1 shows.",
    )

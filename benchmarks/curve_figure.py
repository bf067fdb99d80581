"""The figure of `curves.py`: one small panel for each curve, and one for the memory of long histories."""

from pathlib import Path
from typing import Any

COLOURS = {"lcr-ser": "#D55E00", "sasrec": "#0072B2"}
LABELS = {"lcr-ser": "LCR-SER", "sasrec": "SASRec"}
KINDS = {"train": ("o", "-", "training, a target"), "evaluate": ("s", "--", "evaluation, a row")}
TITLES = {
    "items": "items", "length": "events of a history", "steps": "reasoning steps K", "width": "width",
    "candidates": "candidates", "threads": "threads", "rows": "rows of a step", "users": "users in the table",
}  # fmt: skip
LOGARITHMIC = {"items", "length", "candidates", "rows", "users"}


def draw(curves: dict[str, Any], facts: dict[str, Any], out: Path) -> list[Path]:
    """Write the figure beside ``out`` as PNG and SVG, and return these files. Points that failed are left out."""
    from matplotlib import pyplot

    names = [name for name in TITLES if name in curves]
    panels = len(names) + ("length" in names)
    columns = min(3, panels)
    rows = -(-panels // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(3.6 * columns, 2.7 * rows), layout="constrained", squeeze=False)
    places = iter(axes.flat)
    for name in names:
        _times(next(places), name, curves[name])
    if "length" in names:
        _memory(next(places), curves["length"])
    for left in places:
        left.set_visible(False)
    handles: dict[str, Any] = {}
    for axis in axes.flat:
        handles |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    said = (
        f"{facts['processor']}, {facts['threads']} threads, torch {facts['torch']}, {facts['turns']} turns, seed {facts['seed']}"
    )
    figure.supxlabel(said + (", quick: measures nothing" if facts["quick"] else ""), fontsize=7)
    files = [out.with_suffix(suffix) for suffix in (".png", ".svg")]
    for file in files:
        figure.savefig(file, dpi=150)
    pyplot.close(figure)
    return files


def _times(axis: Any, name: str, curve: dict[str, Any]) -> None:
    """Median microseconds, with bars from the least to the most."""
    for model, found in curve["models"].items():
        points = [point for point in found["points"] if "error" not in point]
        for what, (marker, line, label) in KINDS.items():
            middle, low, high = ([1e6 * point[what][part] for point in points] for part in ("median", "min", "max"))
            below = [m - x for m, x in zip(middle, low, strict=True)]
            above = [x - m for m, x in zip(middle, high, strict=True)]
            axis.errorbar(
                [point["value"] for point in points], middle, (below, above), marker=marker, markersize=3, linestyle=line,
                linewidth=1, capsize=2, color=COLOURS[model], label=f"{LABELS[model]}: {label}",
            )  # fmt: skip
    axis.set_yscale("log")
    _finish(axis, name, "microseconds")


def _memory(axis: Any, curve: dict[str, Any]) -> None:
    """Megabytes that a step takes, beside lines of slope 1 and 2 through the first point of LCR-SER's training."""
    first = None
    for model, found in curve["models"].items():
        points = [point for point in found["points"] if "error" not in point]
        values = [point["value"] for point in points]
        for what, (marker, line, _) in KINDS.items():
            sizes = [point["step_bytes"][what] / 1e6 for point in points]
            axis.plot(values, sizes, marker=marker, markersize=3, linestyle=line, linewidth=1, color=COLOURS[model])
            if points and first is None:
                first = values[0], sizes[0], values[-1]
    if first is not None:
        start, size, end = first
        for power, name in ((1, "linear"), (2, "quadratic")):
            axis.plot([start, end], [size, size * (end / start) ** power], color="#999999", linewidth=0.7, linestyle=":")
            axis.annotate(name, (end, size * (end / start) ** power), fontsize=6, color="#666666", ha="right", va="bottom")
    axis.set_yscale("log")
    _finish(axis, "length", "MB that a step takes")


def _finish(axis: Any, name: str, label: str) -> None:
    if name in LOGARITHMIC:
        axis.set_xscale("log")
    axis.set_xlabel(TITLES[name], fontsize=8)
    axis.set_ylabel(label, fontsize=8)
    axis.tick_params(which="both", labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)

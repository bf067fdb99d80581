"""The figure of `bench.py`: training, evaluation and memory of each model, ours and the peers'.

Rates are medians of the turns, with lines from the least to the most.
"""

from pathlib import Path
from typing import Any

OURS, THEIRS = "#D55E00", "#0072B2"


def draw(models: dict[str, Any], peers: dict[str, Any], said: str, out: Path) -> list[Path]:
    """Write the figure beside ``out`` as PNG and SVG, and return these files. What was not measured is left out."""
    from matplotlib import pyplot

    names = [*models, *peers]
    found = {**models, **peers}
    colours = dict.fromkeys(models, OURS) | dict.fromkeys(peers, THEIRS)
    figure, axes = pyplot.subplots(1, 3, figsize=(11, 1.2 + 0.22 * len(names)), layout="constrained", sharey=True)
    for axis, what, each, title in (
        (axes[0], "train", 1, "training, targets/s"),
        (axes[1], "evaluate", 100, "evaluation, candidates/s"),
    ):
        for place, name in enumerate(names):
            rates = found[name].get(what, {}).get("rates")
            if rates:
                middle, low, high = (each * rates[part] for part in ("median", "min", "max"))
                span = [[middle - low], [high - middle]]
                axis.errorbar(middle, place, xerr=span, fmt="o", markersize=4, linewidth=1, capsize=2, color=colours[name])
        axis.set_xscale("log")
        axis.grid(axis="x", color="#dddddd", linewidth=0.6)
        axis.set_title(title, fontsize=9)
    for place, name in enumerate(names):
        if peak := found[name].get("peak_rss_bytes"):
            axes[2].barh(place, peak / 1e9, color=colours[name])
    axes[2].set_title("peak memory of the process, GB", fontsize=9)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    for axis in axes:
        axis.tick_params(labelsize=7, which="both")
        axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(said, fontsize=7)
    files = [out.with_suffix(suffix) for suffix in (".png", ".svg")]
    for file in files:
        figure.savefig(file, dpi=150)
    pyplot.close(figure)
    return files

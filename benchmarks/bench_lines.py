"""One printed line for each figure of `bench.py`."""

from collections.abc import Iterator
from typing import Any

from bench_plan import NOBODY
from report import spread

UNITS = {"train": "targets/s", "evaluate": "rows/s"}


def said(ratio: dict[str, Any] | None) -> str:
    """A ratio, or seconds, with the spread."""
    if ratio is None:
        return "not measured"
    turns = len(ratio["turns"])
    return f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f}, {turns} turn{'s' * (turns > 1)})"


def lines(models: dict[str, Any], rest: dict[str, Any]) -> Iterator[str]:
    """All of them."""
    yield from ceiling_lines(rest["ceilings"])
    for key, found in models.items():
        yield from model_lines(key, found)
    for name, found in rest["peers"].items():
        yield from peer_lines(name, found)
    for kind in ("skipped_models", "missing_peers", "not_asked_for"):
        for name, reason in rest[kind].items():
            yield f"{name} not measured: {reason}"
    if "lcr-ser" in models:
        yield from extra_lines(rest["lcr-ser alone"])
    yield from count_lines(rest["counts"])
    if "error" in rest["steps"]:
        yield f"table failed: {rest['steps']['error']}"
    yield f"{rest['circumstances']['seconds'] / 60:.1f} minutes"


def ceiling_lines(ceilings: list[dict[str, Any]]) -> Iterator[str]:
    """Of the machine, over the turns."""
    for name in dict.fromkeys(name for each in ceilings for name in each):
        if name == "error":
            yield f"ceilings failed: {next(each[name] for each in ceilings if name in each)}"
        elif rates := spread([each[name] for each in ceilings if name in each]):
            yield f"ceiling {name} {rates['median']:.3g} ({rates['min']:.3g} to {rates['max']:.3g})"


def model_lines(key: str, found: dict[str, Any]) -> Iterator[str]:
    """Of one of ours."""
    for what in ("train", "evaluate"):
        part, rates = found[what], found[what]["rates"]
        if rates is None:
            yield f"{key} {what} failed: {part['error']}"
            continue
        failed = f"; then it failed: {part['error']}" if part["error"] else ""
        yield f"{key} {what} {rates['median']:.0f} {UNITS[what]} ({rates['min']:.0f} to {rates['max']:.0f}){failed}"
        if of := part["of_ceilings"]:
            shares = ", ".join(f"{name[3:]} {x['median']:.2%}" for name, x in of.items() if name.startswith("of ") and x)
            moved = f" and {of['bytes']:,.0f} bytes" if of["bytes"] else ""
            yield f"{key} {what} of ceilings: {shares}; {of['flop']:,.0f} FLOP{moved} each, by {of['from']}"
        against = part["against"]
        for name, ratio in against["ratios"].items():
            yield f"{key} {what} over {name}: {said(ratio)}" + ("; the fastest" if name == against["fastest"] else "")
        for name, fault in against["errors"].items():
            yield f"{key} {what} over {name}: failed: {fault}"
        if not against["ratios"] and not against["errors"]:
            yield f"{key} {what} over peers: {NOBODY.get(key, 'no peer implements it')}"
    if "peak_rss_bytes" in found:
        yield (
            f"{key} peak memory {found['peak_rss_bytes'] / 1e9:.2f} GB; after training "
            f"{found['peak_rss_over_held']:.2f} times parameters and optimizer state ({found['held_bytes'] / 1e9:.2f} GB), "
            f"{found['own_peak_over_held']:.2f} times without what Python and torch hold before"
        )


def peer_lines(name: str, found: dict[str, Any]) -> Iterator[str]:
    """Of somebody else's model."""
    for what in ("train", "evaluate"):
        rates = found.get(what, {}).get("rates")
        if rates:
            yield f"{name} {what} {rates['median']:.0f} {UNITS[what]} ({rates['min']:.0f} to {rates['max']:.0f})"
        elif what in found:
            yield f"{name} {what} failed: {found[what]['error']}"
    if found["peak_rss_bytes"]:
        yield f"{name} peak memory {found['peak_rss_bytes'] / 1e9:.2f} GB"


def extra_lines(extra: dict[str, Any]) -> Iterator[str]:
    """Of LCR-SER alone."""
    stage2 = extra["stage 2"]
    if rates := stage2["rates"]:
        each = 1e6 / rates["median"]
        yield f"lcr-ser reinforce {rates['median']:.0f} targets/s, {each:.0f} us a target (N = 8, 1 + 99 candidates)"
    else:
        yield f"lcr-ser reinforce failed: {stage2['error']}"
    for name, found in (("stage 2", stage2), ("stage 2 in fp32", extra["stage 2 in fp32"])):
        if of := found["of_ceilings"]:
            shares = ", ".join(f"{ceiling[3:]} {x['median']:.2%}" for ceiling, x in of.items() if ceiling.startswith("of ") and x)
            yield f"lcr-ser {name} of ceilings: {shares}; {of['flop']:,.0f} FLOP and {of['bytes']:,.0f} bytes a target"
    for name in (
        "stage 2 over stage 1, time of a target", "stage 2 over the straightforward one", "stage 2, bf16 over fp32",
        "training, bf16 over fp32", "evaluation, bf16 over fp32", "evaluation, K = 5 over K = 0, time of a row",
    ):  # fmt: skip
        yield f"lcr-ser {name}: {said(extra[name])}"
    for what, found in extra["over the UniSAR authors' program"].items():
        why = found["error"] or "give a checkout of the authors' program with --unisar"
        ratio = said(found["ratio"]) if found["ratio"] else f"not measured: {why}"
        yield f"lcr-ser {what} over the UniSAR authors' program: {ratio}; goal {found['goal']:.0f}"
    for part, seconds in extra["start to first step, seconds"].items():
        yield f"lcr-ser start to first step, {part}: {said(seconds)} s"
    yield from (f"lcr-ser start to first step failed: {error}" for error in extra["start to first step, errors"])
    waited = extra["waiting for data"]
    if "error" in waited:
        yield f"lcr-ser waiting for data failed: {waited['error']}"
    else:
        share = "not measured: one step" if waited["share"] is None else f"{waited['share']:.3%}"
        yield (
            f"lcr-ser waiting for data, of the time of {waited['steps']} steps of the training loop: {share}; "
            f"with the first batch {waited['share_with_first']:.3%}"
        )


def count_lines(counts: dict[str, Any]) -> Iterator[str]:
    """How far the written formulas agree with torch's counter."""
    if "error" in counts:
        yield f"counts failed: {counts['error']}"
        return
    for key, kinds in counts.items():
        for what, found in kinds.items():
            if "agreement" in found:
                yield (
                    f"{key} {what} count: {found['ours']:,.0f} FLOP each; what torch counts of it is "
                    f"{found['agreement']:.4f} times torch's {found['torch']:,.0f}"
                )

"""What the answers of all turns say: rates, ratios by turn with their spread, fractions of the machine's ceilings."""

from collections.abc import Mapping
from statistics import median
from typing import Any

from counts import WRITTEN, needed, reinforced
from workers import Answer

Turns = dict[str, dict[str, list[Answer]]]
"""Name -> what was asked -> the answer of each turn."""
KINDS = ("train", "evaluate", "reinforce")
PEAKS = {
    "fp32": "matmul_fp32_flop_per_s", "fp32 small": "matmul_fp32_small_flop_per_s",
    "bf16": "matmul_bf16_flop_per_s", "bf16 small": "matmul_bf16_small_flop_per_s",
}  # fmt: skip
GOALS = {"train": 60.0, "evaluate": 50.0}
"""LCR-SER over the program of UniSAR's authors."""


def spread(values: list[float]) -> dict[str, Any] | None:
    """Median, least and most of the turns; None without any."""
    return {"median": median(values), "min": min(values), "max": max(values), "turns": values} if values else None


class Report:
    """The figures of one run."""

    def __init__(self, turns: Turns, counts: Answer) -> None:
        self.turns, self.counts = turns, counts

    def answers(self, name: str, what: str) -> list[Answer]:
        """By turn, failures included."""
        return self.turns.get(name, {}).get(what, [])

    def rates(self, name: str, what: str) -> dict[str, Any] | None:
        """Of the turns that gave one."""
        return spread([answer["rate"] for answer in self.answers(name, what) if "rate" in answer])

    def fault(self, name: str, what: str) -> str | None:
        """The first reason why there is no rate."""
        return next((answer["error"] for answer in self.answers(name, what) if "error" in answer), None)

    def paired(self, above: tuple[str, str], below: tuple[str, str]) -> dict[str, Any] | None:
        """One (name, what) over another, turn by turn."""
        pairs = zip(self.answers(*above), self.answers(*below), strict=False)
        return spread([a["rate"] / b["rate"] for a, b in pairs if "rate" in a and "rate" in b])

    def facts(self, name: str, what: str) -> Answer:
        """The last answer with a rate."""
        return next((answer for answer in reversed(self.answers(name, what)) if "rate" in answer), {})

    def needs(self, key: str, what: str) -> dict[str, Any] | None:
        """FLOP and, where the products are written out, bytes of a target or of a row."""
        trained, asked = self.facts(key, "train"), self.facts(key, what)
        if what == "reinforce" and asked:
            targets = self.facts("lcr-ser", "train").get("T", 30)
            return {**reinforced(asked["rows"], targets), "from": "the formulas of counts.py"}
        if key in WRITTEN and trained and asked:
            found = needed(key, what, asked["rows"], trained["T"], trained["touched_rows"], trained["dense_parameters"])
            return {**found, "from": "the formulas of counts.py"}
        flop = self.counts.get(key, {}).get(what, {}).get("torch")
        return {"flop": flop, "bytes": None, "from": "torch's counter"} if flop else None

    def of_ceilings(self, key: str, what: str) -> dict[str, Any] | None:
        """Fractions of the ceilings, turn by turn."""
        needs = self.needs(key, what)
        if needs is None:
            return None
        turns = [
            (mine["rate"], ceiling)
            for mine, ceiling in zip(self.answers(key, what), self.answers("ceilings", "measure"), strict=False)
            if "rate" in mine and "error" not in ceiling
        ]
        limits = {f"of {name}": (needs["flop"], field) for name, field in PEAKS.items()}
        if needs["bytes"] is not None:
            limits["of memory"] = needs["bytes"], "triad_bytes_per_s"
        parts = {
            name: spread([rate * each / ceiling[field] for rate, ceiling in turns]) for name, (each, field) in limits.items()
        }
        return {**needs, **parts}

    def model(self, key: str, rivals: Mapping[str, str]) -> dict[str, Any]:
        """One of ours; ``rivals`` are implementations of the same model, name -> the name whose evaluation counts for it."""
        found: dict[str, Any] = {}
        for what, field in (("train", "train_targets_per_s"), ("evaluate", "eval_rows_per_s")):
            rates, fault = self.rates(key, what), self.fault(key, what)
            found[field] = rates["median"] if rates else None
            found[what] = {"rates": rates, "error": fault, "of_ceilings": self.of_ceilings(key, what)}
            found[what]["against"] = self._against(key, what, rivals)
        facts = self.facts(key, "train")
        if facts:
            first = next(answer for answer in self.answers(key, "train") if "rate" in answer)
            held = facts["parameter_bytes"] + facts["optimizer_bytes"]
            found["peak_rss_bytes"] = max(answer.get("peak_rss_bytes", 0) for what in KINDS for answer in self.answers(key, what))
            found["peak_rss_training_bytes"], found["held_bytes"] = first["peak_rss_bytes"], held
            found["peak_rss_over_held"] = first["peak_rss_bytes"] / held
            found["own_peak_over_held"] = (first["peak_rss_bytes"] - first["before_bytes"]) / held
            found["circumstances"] = {
                name: facts[name] for name in ("rows", "T", "search_rows", "mean_visible_clicks", "mean_visible_searches", "note")
            }
        return found

    def _against(self, key: str, what: str, rivals: Mapping[str, str]) -> dict[str, Any]:
        """Our rate over that of each rival, and which of them is the fastest."""
        names = {rival: rival if what == "train" else scored for rival, scored in rivals.items()}
        rates = {name: rates["median"] for name in names.values() if (rates := self.rates(name, what))}
        fastest = max(rates, key=rates.__getitem__) if rates else None
        ratios = {name: self.paired((key, what), (name, what)) for name in rates}
        faults = {name: fault for name in names.values() if (fault := self.fault(name, what))}
        return {"fastest": fastest, "ratios": ratios, "errors": faults}

    def peer(self, name: str) -> dict[str, Any]:
        """Rates, peak and notes of somebody else's model."""
        found: dict[str, Any] = {}
        for what in self.turns.get(name, {}):
            facts = self.facts(name, what)
            found[what] = {"rates": self.rates(name, what), "error": self.fault(name, what), "note": facts.get("note")}
        answers = [answer for what in self.turns.get(name, {}) for answer in self.answers(name, what)]
        found["peak_rss_bytes"] = max((answer["peak_rss_bytes"] for answer in answers if "rate" in answer), default=None)
        return found


def extras(report: Report, starts: list[Answer], waited: Answer) -> dict[str, Any]:
    """Figures of LCR-SER alone. ``starts`` are first steps in new processes, ``waited`` is of `waiting.py`."""
    parts = ("imports", "build", "first_step", "to_first_step", "batch_left_out")
    return {
        "stage 2": {
            "rates": report.rates("lcr-ser stage 2", "reinforce"),
            "error": report.fault("lcr-ser stage 2", "reinforce"),
            "note": report.facts("lcr-ser stage 2", "reinforce").get("note"),
            "of_ceilings": report.of_ceilings("lcr-ser stage 2", "reinforce"),
        },
        "stage 2 in fp32": {"of_ceilings": report.of_ceilings("lcr-ser fp32", "reinforce")},
        "stage 2 over the straightforward one": report.paired(
            ("lcr-ser stage 2", "reinforce"), ("lcr-ser stage 2 straightforward", "reinforce")
        ),
        "stage 2, bf16 over fp32": report.paired(("lcr-ser stage 2", "reinforce"), ("lcr-ser fp32", "reinforce")),
        "training, bf16 over fp32": report.paired(("lcr-ser", "train"), ("lcr-ser fp32", "train")),
        "evaluation, bf16 over fp32": report.paired(("lcr-ser bf16", "evaluate"), ("lcr-ser", "evaluate")),
        "stage 2 over stage 1, time of a target": report.paired(("lcr-ser", "train"), ("lcr-ser stage 2", "reinforce")),
        "evaluation, K = 5 over K = 0, time of a row": report.paired(("lcr-ser K=0", "evaluate"), ("lcr-ser K=5", "evaluate")),
        "over the UniSAR authors' program": {
            what: {
                "ratio": report.paired(("lcr-ser", what), ("unisar program", what)),
                "goal": goal,
                "error": report.fault("unisar program", what),
            }
            for what, goal in GOALS.items()
        },
        "start to first step, seconds": {part: spread([start[part] for start in starts if part in start]) for part in parts},
        "start to first step, errors": [start["error"] for start in starts if "error" in start],
        "waiting for data": waited,
    }

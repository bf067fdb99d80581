"""One evaluation: per-target counts kept, so that two runs can be compared target by target."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seerec.atomic import atomic_folder
from seerec.errors import SeerecError
from seerec.evaluation.metrics import per_target, summary


@dataclass(frozen=True)
class Evaluation:
    """n ranked targets of one split.

    ``facts`` names the model, split, candidates (``sampled`` or ``full``), their number and hash, and the corpus.
    """

    target: NDArray[np.int64]  # n    positions in the corpus
    user_id: NDArray[Any]  # n    raw ids
    known: NDArray[np.bool_]  # n    the user was seen in training
    greater: NDArray[np.int64]  # n
    ties: NDArray[np.int64]  # n
    facts: dict[str, Any]

    def vectors(self) -> dict[str, NDArray[np.float64]]:
        """Each metric per target."""
        return per_target(self.greater, self.ties)

    def report(self) -> dict[str, Any]:
        """Means over all targets, over known and over unknown users, with their counts."""
        parts = {"all": np.ones(len(self.known), dtype=bool), "known": self.known, "unknown": ~self.known}
        return {
            **self.facts,
            **{
                name: {
                    "targets": int(part.sum()),
                    **(summary(per_target(self.greater[part], self.ties[part])) if part.any() else {}),
                }
                for name, part in parts.items()
            },
        }

    def save(self, folder: Path) -> None:
        """Write ``targets.parquet`` and ``report.json``. Raises SeerecError when the disk is full."""
        table = pa.table(
            {
                "target": self.target,
                "user_id": pa.array(self.user_id, pa.string()),
                "known": self.known,
                "greater": self.greater,
                "ties": self.ties,
            }
        )
        with atomic_folder(folder) as work:
            pq.write_table(table, work / "targets.parquet")
            (work / "report.json").write_text(json.dumps(self.report(), indent=2, sort_keys=True) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Evaluation":
        """Read what ``save`` wrote. Raises SeerecError where there is none."""
        try:
            table = pq.read_table(folder / "targets.parquet")
            report = json.loads((folder / "report.json").read_text())
        except (OSError, ValueError, pa.ArrowException) as error:
            raise SeerecError(
                f"The evaluation in {folder} is missing or damaged.", "Run `seerec evaluate RUN`, which writes it anew."
            ) from error
        columns = {name: table[name].to_numpy() for name in ("target", "user_id", "known", "greater", "ties")}
        facts = {name: value for name, value in report.items() if name not in ("all", "known", "unknown")}
        return cls(**columns, facts=facts)

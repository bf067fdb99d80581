"""A run folder: what was asked, the log, checkpoints and the best model of each stage.

``run.json`` (settings, corpus, versions), ``metrics.jsonl``, ``tensorboard/``, ``checkpoints/``, ``stage1/`` and ``stage2/``
(artifacts), ``timing.jsonl``, ``result.json`` (written last), ``evaluation/`` (written by ``seerec evaluate``).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seerec.artifact import locate
from seerec.atomic import remove_partials, write_json
from seerec.errors import SeerecError


@dataclass(frozen=True)
class Run:
    """One training run."""

    path: Path
    facts: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """Open a run folder. Raises SeerecError where there is none."""
        path = Path(path)
        try:
            facts = json.loads((path / "run.json").read_text())
        except (OSError, ValueError) as error:
            raise SeerecError(
                f"{path} is not a run: it has no readable run.json.", "Give the folder of `seerec train --out`."
            ) from error
        return cls(path, facts)

    @classmethod
    def begin(cls, path: Path, facts: dict[str, Any], resume: bool) -> "Run":
        """Start a run, or go on with one that was asked the same.

        Raises
        ------
        SeerecError
            The folder is taken, or what is resumed was asked something else.
        """
        if not (path / "run.json").is_file():
            remove_partials(path)
            if path.exists() and any(path.iterdir()):
                raise SeerecError(f"{path} exists and is not a run.", "Choose another --out.")
            path.mkdir(parents=True, exist_ok=True)
            write_json(path / "run.json", facts)
            return cls(path, facts)
        run = cls.open(path)
        if not resume:
            raise SeerecError(f"{path} already holds a run.", "Go on with --resume, or choose another --out.")
        for name in facts:
            if name != "corpus" and run.facts.get(name) != json.loads(json.dumps(facts[name])):
                raise SeerecError(
                    f"The run in {path} was started with another {name}.",
                    "Resume with the same settings, or choose another --out.",
                )
        return run

    def artifact(self, stage: int | None = None) -> Path:
        """The best model of a stage, by default of the last one there is. Raises SeerecError where there is none."""
        return locate(self.path, stage)

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
        """Start a run in a folder of its own, or go on with one that was asked the same.

        Raises
        ------
        SeerecError
            The folder is taken, or what is resumed was asked something else.
        """
        if not (path / "run.json").is_file():
            remove_partials(path)
            if any(path.iterdir()):
                raise SeerecError(f"{path} exists and is not a run.", "Choose another --out.")
        elif any((path / made).exists() for made in ("checkpoints", "stage1")):
            run = cls.open(path)
            if not resume:
                raise SeerecError(
                    f"{path} already holds a run.", "Go on with --resume, remove the folder, or choose another --out."
                )
            asked = _leaves(json.loads(json.dumps({name: fact for name, fact in facts.items() if name != "corpus"})))
            begun = _leaves(run.facts)
            for name, value in asked.items():
                if begun.get(name) != value:
                    raise SeerecError(
                        f"The run in {path} was started with {name} {begun.get(name)}, now {value} is asked.",
                        "Resume with the same settings, or choose another --out.",
                    )
            return run
        write_json(path / "run.json", facts)  # nothing has been learnt here, so nothing is lost
        return cls(path, facts)

    def artifact(self, stage: int | None = None) -> Path:
        """The best model of a stage, by default of the last one there is. Raises SeerecError where there is none."""
        return locate(self.path, stage)


def _leaves(facts: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested facts by dotted name, as the command line spells settings."""
    found: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, dict):
            found |= _leaves(value, {"settings": "", "config": "model."}.get(name, f"{prefix}{name}."))
        else:
            found[prefix + name] = value
    return found

"""A run's log: ``metrics.jsonl`` (the same bytes for the same run, so no clock in it) and TensorBoard."""

import json
import warnings
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from seerec.atomic import named_disk_errors


class Journal:
    """Appends records to ``folder/metrics.jsonl`` and mirrors their numbers to ``folder/tensorboard``."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "metrics.jsonl"
        self.path.touch()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._board = SummaryWriter(str(folder / "tensorboard"))

    @property
    def length(self) -> int:
        """Bytes written so far."""
        return self.path.stat().st_size

    def cut(self, length: int) -> None:
        """Drop what lies beyond ``length``: a killed run wrote it after its last checkpoint."""
        with self.path.open("r+b") as file:
            file.truncate(length)

    def write(self, record: dict[str, object]) -> None:
        """Append one record. Raises SeerecError when the disk is full."""
        with named_disk_errors(self.path):
            with self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")
            for name, value in record.items():
                if isinstance(value, (int, float)) and name not in ("stage", "epoch"):
                    tag = f"stage{record['stage']}/{record['kind']}/{name}"
                    self._board.add_scalar(tag, value, int(str(record["epoch"])))

    def close(self) -> None:
        """Flush TensorBoard. Raises SeerecError when the disk is full."""
        with named_disk_errors(self.path.parent / "tensorboard"):
            self._board.close()

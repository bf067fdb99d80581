"""Progress bars with speed and time left, on stderr and only where somebody is looking."""

import contextlib
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


class Bar:
    """One running task."""

    def __init__(self, bars: Bars | None, task: int, unit: str) -> None:
        self._bars, self._task, self._unit = bars, task, unit

    def advance(self, count: int, **shown: float) -> None:
        """Count finished units; ``shown`` values stand beside the bar."""
        if self._bars is None:
            return
        self._bars.advance(self._task, count)  # type: ignore[arg-type]
        speed = self._bars.tasks[self._bars.task_ids.index(self._task)].speed  # type: ignore[arg-type]
        text = " ".join(f"{name} {value:.4f}" for name, value in shown.items())
        self._bars.update(self._task, info=f"{speed or 0:.1f} {self._unit}/s {text}")  # type: ignore[arg-type]


class Progress:
    """Makes bars; ``Progress(shown=False)`` is silent (tests, ``--json``, no terminal)."""

    def __init__(self, shown: bool | None = None) -> None:
        self.shown = sys.stderr.isatty() if shown is None else shown

    @contextlib.contextmanager
    def task(self, label: str, total: int, unit: str, done: int = 0) -> Iterator[Bar]:
        """A bar over ``total`` units of which ``done`` are already finished."""
        if not self.shown:
            yield Bar(None, 0, unit)
            return
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[info]}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        )  # fmt: skip
        with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
            yield Bar(bars, bars.add_task(label, total=total, completed=done, info=""), unit)


SILENT = Progress(shown=False)

"""Progress bars with speed and time left, on stderr and only where somebody is looking."""

import contextlib
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

BYTES = "bytes"  # the unit that is shown as kB, MB, GB


class Bar:
    """One running task."""

    def __init__(self, bars: Bars | None, task: int, unit: str) -> None:
        self._bars, self._task, self._unit = bars, task, unit

    def advance(self, count: int, **shown: float) -> None:
        """Count finished units (a negative count takes lost ones back); ``shown`` values stand beside the bar."""
        if self._bars is None:
            return
        self._bars.update(self._task, advance=count)  # type: ignore[arg-type]
        speed = self._bars.tasks[self._bars.task_ids.index(self._task)].speed or 0  # type: ignore[arg-type]
        text = " ".join(f"{name} {value:.4f}" for name, value in shown.items())
        rate = decimal(int(speed)) if self._unit == BYTES else f"{speed:.1f} {self._unit}"
        self._bars.update(self._task, info=f"{rate}/s {text}")  # type: ignore[arg-type]

    def note(self, text: str) -> None:
        """Say something in place of the speed, until the next unit is finished."""
        if self._bars is not None:
            self._bars.update(self._task, info=escape(text))  # type: ignore[arg-type]


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
        count = DownloadColumn() if unit == BYTES else MofNCompleteColumn()
        columns = (
            TextColumn("{task.description}"), BarColumn(), count, TextColumn("{task.fields[info]}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        )  # fmt: skip
        with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
            yield Bar(bars, bars.add_task(label, total=total, completed=done, info=""), unit)


SILENT = Progress(shown=False)

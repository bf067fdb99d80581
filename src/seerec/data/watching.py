"""Bars for queries: DuckDB says how far the one is that runs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from seerec.progress import Bar, Progress

_EVERY = 0.2  # seconds


@contextmanager
def watched(connection: duckdb.DuckDBPyConnection, progress: Progress, label: str) -> Iterator[None]:
    """A bar in percent over the query that the block runs; of several over each in turn."""
    if not progress.shown:
        yield
        return
    connection.execute("SET enable_progress_bar = true; SET enable_progress_bar_print = false; SET progress_bar_time = 0")
    ended = threading.Event()
    with progress.task(label, 100, "%") as bar:
        watcher = threading.Thread(target=_follow, args=(connection, bar, ended), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()


def _follow(connection: duckdb.DuckDBPyConnection, bar: Bar, ended: threading.Event) -> None:
    shown = 0
    while not ended.wait(_EVERY):
        now = max(0, int(connection.query_progress()))  # -1: no query runs
        bar.advance(now - shown)
        shown = now

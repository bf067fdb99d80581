"""One large random log prepared on DuckDB and on Spark: the same hash? How many seconds, how much memory?

    python benchmarks/engines.py --rows 10_000_000 --out runs/engines

The log is checked tables of a fixed arithmetic: ties in time, requests, rows only shown, searches of several clicks. Each engine
runs in a process of its own. Memory is the largest sum over the process and its children (Spark's Java), seen every half second.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import duckdb

from seerec.atomic import write_json
from seerec.config import DataSettings
from seerec.data.engines import ENGINES, engine_named
from seerec.data.events import Events
from seerec.data.prepare import write_corpus

GIB = 1 << 30


def large_events(rows: int) -> Events:
    """``rows`` checked rows, of which three tenths are of searches, about 60 of each user."""
    connection = duckdb.connect()
    users, items = rows // 60 + 5, rows // 20 + 50

    def draw(salt: int, size: int) -> str:
        return f"CAST(hash(i * 1000003 + {salt}) % {size} AS BIGINT)"

    def item(salt: int) -> str:
        return f"'item ' || CAST(floor({items} * pow({draw(salt, 1_000_000)} / 1e6, 3)) AS BIGINT)"

    time_of = "1700000000000 + 1000 * "
    connection.execute(f"""
        CREATE TABLE recommendations AS
        SELECT
            i AS line, 'u' || {draw(1, users)} AS user_id, {item(2)} AS item_id, {time_of} {draw(3, 5_000_000)} AS timestamp,
            {draw(4, 10)} < 6 AS clicked, CASE WHEN {draw(5, 2)} = 0 THEN 'r' || {draw(6, 40)} END AS request_id,
            CAST(NULL AS TINYINT) AS announced
        FROM range({rows - 3 * rows // 10}) AS numbers(i);
        CREATE TABLE searches AS
        SELECT
            i AS line, 'u' || {draw(11, users)} AS user_id, 's' || {draw(12, 20)} AS search_id,
            {time_of} {draw(13, 5_000_000)} AS timestamp, 'word' || {draw(14, 5000)} || ' term' || {draw(15, 300)} AS query,
            CASE WHEN {draw(16, 3)} > 0 THEN {item(17)} END AS item_id, {draw(18, 5)} > 0 AS clicked,
            CAST(NULL AS TINYINT) AS relevant
        FROM range({3 * rows // 10}) AS numbers(i);
        CREATE TABLE items AS
        SELECT DISTINCT item_id, 'title of ' || item_id AS title, 'text of ' || item_id AS text,
            'kind ' || hash(item_id) % 9 AS category_kind
        FROM recommendations;
        CREATE TABLE users (user_id VARCHAR, category_city VARCHAR);
        CREATE TABLE quarantine (table_name VARCHAR, line BIGINT, reason VARCHAR, content VARCHAR)""")
    return Events(connection, {"name": "large"}, {})


def prepare(rows: int, engine: str, master: str | None, out: Path) -> None:
    """Prepare once, and print the seconds and the hash as JSON."""
    events = large_events(rows)
    began = time.perf_counter()
    corpus = write_corpus(events, out / engine, DataSettings(min_item_clicks=2), engine_named(engine, master))
    print(json.dumps({"seconds": round(time.perf_counter() - began, 1), "hash": corpus.content_hash}))


def memory(process: int) -> int:
    """Bytes in memory of a process and all below it."""
    found = subprocess.run(["ps", "-eo", "pid=,ppid=,rss="], check=True, capture_output=True, text=True).stdout
    table = [tuple(map(int, line.split())) for line in found.splitlines()]
    below = {process}
    while more := {pid for pid, parent, _ in table if parent in below} - below:
        below |= more
    return sum(1024 * size for pid, _, size in table if pid in below)


def main() -> None:
    """Both engines, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--master", default="local[2]")
    parser.add_argument("--out", type=Path, default=Path("runs/engines"))
    parser.add_argument("--engine", choices=ENGINES, help="this one alone, without measuring memory")
    given = parser.parse_args()
    if given.engine:
        prepare(given.rows, given.engine, given.master if given.engine == "spark" else None, given.out)
        return
    results = {}
    for engine in ENGINES:
        command = [sys.executable, __file__, "--engine", engine, "--rows", str(given.rows), "--master", given.master]
        started = subprocess.Popen([*command, "--out", str(given.out)], stdout=subprocess.PIPE, text=True)
        peak = 0
        while started.poll() is None:
            peak = max(peak, memory(started.pid))
            time.sleep(0.5)
        if started.returncode or started.stdout is None:
            sys.exit(f"{engine} failed")
        results[engine] = json.loads(started.stdout.read()) | {"GiB": round(peak / GIB, 2)}
        print(engine, results[engine], flush=True)
    same = len({result["hash"] for result in results.values()}) == 1
    write_json(given.out / "engines.json", {"rows": given.rows, "processors": os.cpu_count(), "same": same, "engines": results})
    sys.exit(None if same else "The hashes differ.")


if __name__ == "__main__":
    main()

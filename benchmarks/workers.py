"""Processes that measure one model each, and answer one line at a time; only as many are alive as fit into memory."""

import json
import os
import select
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

Answer = dict[str, Any]
FREE = 6 << 30
"""Bytes of memory that must be available before one more process starts."""


@dataclass(frozen=True)
class Program:
    """What is measured, as a command that answers lines."""

    name: str
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()


class Process:
    """A program that runs."""

    def __init__(self, program: Program, common: Mapping[str, str]) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        environment = {**os.environ, **common, **dict(program.environment)}
        pipe = subprocess.PIPE
        self.popen = subprocess.Popen(program.command, stdin=pipe, stdout=pipe, stderr=self.errors, text=True, env=environment)

    def ask(self, line: str, limit: float) -> Answer:
        """The answer to one line, or the reason why there is none within ``limit`` seconds."""
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        try:
            self.popen.stdin.write(line + "\n")
            self.popen.stdin.flush()
        except BrokenPipeError:
            return self._ended()
        ready, _, _ = select.select([self.popen.stdout], [], [], limit)
        if not ready:
            return {"error": f"no answer within {limit:.0f} s{self._said()}", "ended": True}
        answered = self.popen.stdout.readline()
        if not answered:
            return self._ended()
        answer: Answer = json.loads(answered)
        return answer

    def _ended(self) -> Answer:
        code = self.popen.wait()
        killed = " (killed, probably for its memory)" if code == -9 else ""
        return {"error": f"the process ended with {code}{killed}{self._said()}", "ended": True}

    def _said(self) -> str:
        """The last line of its standard error."""
        self.errors.seek(0)
        lines = [line.strip() for line in self.errors if line.strip()]
        return f": {lines[-1]}" if lines else ""

    def end(self) -> None:
        """It is gone afterwards."""
        self.popen.kill()
        self.popen.communicate()
        self.errors.close()


class Alive:
    """The running processes, by name, the one asked longest ago first.

    Before one more starts, those at the front end until enough memory is free: they start anew at their next turn.
    """

    def __init__(self, common: Mapping[str, str]) -> None:
        self.common = common
        self.processes: dict[str, Process] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in self.processes.values():
            process.end()

    def ask(self, program: Program, line: str, limit: float) -> Answer:
        """Start the program if need be, and ask it. A process that failed to answer is ended."""
        process = self.processes.pop(program.name, None)
        while process is None and self.processes and available() < FREE:
            self.processes.pop(next(iter(self.processes))).end()
        process = process or Process(program, self.common)
        self.processes[program.name] = process
        answer = process.ask(line, limit)
        if answer.pop("ended", False):
            self.processes.pop(program.name).end()
        return answer


def available() -> int:
    """Bytes of memory that a new process could take (Linux; elsewhere as much as it wants)."""
    file = Path("/proc/meminfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), 1 << 60)


def run_once(command: list[str], common: Mapping[str, str], limit: float) -> Answer:
    """What a program prints as JSON in its last line, or the reason why there is nothing."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=limit, env={**os.environ, **common})
    except subprocess.TimeoutExpired:
        return {"error": f"not ready within {limit:.0f} s"}
    lines = [line for line in (ran.stderr if ran.returncode else ran.stdout).splitlines() if line.strip()]
    if ran.returncode:
        return {"error": f"ended with {ran.returncode}" + (f": {lines[-1]}" if lines else "")}
    answer: Answer = json.loads(lines[-1])
    return answer

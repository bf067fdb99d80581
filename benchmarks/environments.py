"""The virtual environments of the peers: where their Python is, made from the pinned lists of `peers/` where it is missing."""

import shutil
import subprocess
import sys
from pathlib import Path

from seerec.errors import SeerecError

HERE = Path(__file__).parent
PEERS = ("recbole", "rectools", "replay")
LIMIT = 900.0
"""Seconds that one command may take."""


def python_of(peer: str, root: Path) -> Path:
    """The peer's Python, in ``root``/peer.

    Raises
    ------
    SeerecError
        It is missing and could not be made; the message has the last line of what failed.
    """
    folder = root / peer
    python = folder / "bin" / "python"
    if python.is_file():
        return python
    listed = HERE / "peers" / f"{peer}.txt"
    interpreter = shutil.which("python3.11") or (sys.executable if sys.version_info[:2] == (3, 11) else None)
    if interpreter is None:
        raise SeerecError(f"{peer} needs Python 3.11.", "Install it, or leave the peer out with --peers.")
    if folder.exists():
        raise SeerecError(f"{folder} exists, but holds no bin/python.", "Remove it, and it will be made anew.")
    install = [str(python), "-m", "pip", "install", "--quiet", "--only-binary", ":all:", "--no-deps", "-r", str(listed)]
    try:
        _run([interpreter, "-m", "venv", str(folder)])
        _run(install)
    except SeerecError:
        shutil.rmtree(folder, ignore_errors=True)  # half of an environment would pass for one
        raise
    return python


def _run(command: list[str]) -> None:
    fix = "See benchmarks/peers/README.md, or leave the peer out with --peers."
    try:
        ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired as error:
        raise SeerecError(f"`{' '.join(command[1:4])}` took more than {LIMIT:.0f} s.", fix) from error
    if ran.returncode:
        lines = ran.stdout.strip().splitlines()
        raise SeerecError(f"`{' '.join(command[1:4])}` failed: {lines[-1] if lines else 'it said nothing'}", fix)

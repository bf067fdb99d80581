"""``seerec doctor``: is this installation whole, and is this machine fit?"""

import importlib
import importlib.metadata
import os
import platform
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seerec.errors import SeerecError

_GIB = 1 << 30
_LEAST_MEMORY, _LEAST_DISK = 2 * _GIB, 1 * _GIB
_SHOWN = ("torch", "duckdb", "numpy", "pyarrow")
_REINSTALL = "Install again with `pip install --upgrade seerec`."

Check = dict[str, Any]


def examine() -> list[Check]:
    """Findings in the order in which they are printed: ``name``, ``value``, ``ok`` and, where not, ``fix``.

    A broken package is a finding, never an exception.
    """
    checks = [_check("seerec", importlib.metadata.version("seerec")), _check("python", platform.python_version())]
    checks += _packages()
    looks = {
        "threads": _threads, "kernels": _kernels, "GPU": _gpu, "memory": _memory, "disk": _disk, "self check": _self_check,
    }  # fmt: skip
    for name, look in looks.items():
        checks.append(_look(name, look))
    return checks


def _check(name: str, value: str, ok: bool = True, fix: str = "") -> Check:
    return {"name": name, "value": value, "ok": ok, "fix": "" if ok else fix}


def _look(name: str, look: Callable[[], Check]) -> Check:
    try:
        return look()
    except SeerecError as error:
        return _check(name, error.cause, False, error.fix)
    except Exception as error:  # whatever a broken package raises is what the doctor is asked about
        return _check(name, f"{type(error).__name__}: {error}", False, _REINSTALL)


def _packages() -> list[Check]:
    """Each package that seerec requires: there, importable, and not older than it may be."""
    floors: dict[str, str] = {}
    for requirement in importlib.metadata.requires("seerec") or []:
        found = re.fullmatch(r"([\w.-]+)>=([\d.]+)", requirement)
        if found:
            floors[found[1]] = found[2]
    checks = [_look(name, lambda name=name: _package(name, floors[name])) for name in sorted(floors)]  # type: ignore[misc]
    return [check for check in checks if check["name"] in _SHOWN or not check["ok"]]


def _package(name: str, floor: str) -> Check:
    fix = f"Install it with `pip install '{name}>={floor}'`."
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return _check(name, "missing", False, fix)
    if name in _SHOWN:
        importlib.import_module(name)
    return _check(name, version, _numbers(version) >= _numbers(floor), f"seerec needs {floor} or newer. {fix}")


def _numbers(version: str) -> tuple[int, ...]:
    """Release numbers of a version: ``2.13.0+cpu`` is (2, 13, 0)."""
    return tuple(int(number) for number in re.findall(r"\d+", version.split("+")[0])[:3])


def _threads() -> Check:
    import torch

    return _check("threads", f"{torch.get_num_threads()} of {os.cpu_count()} processors")


def _kernels() -> Check:
    from seerec.kernels import has_halves
    from seerec.kernels.library import library

    return _check("kernels", f"{library.said}; {'bf16 and fp32' if has_halves() else 'fp32 alone'}")


def _gpu() -> Check:
    import torch

    return _check("GPU", torch.cuda.get_device_name() if torch.cuda.is_available() else "none, so the processor is used")


def _memory() -> Check:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return _check("memory", "unknown")
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return _check("memory", f"{size / _GIB:.1f} GiB", size >= _LEAST_MEMORY, "Use a machine with 2 GiB or more.")


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    return _check("disk", f"{free / _GIB:.1f} GiB free here", free >= _LEAST_DISK, "Free 1 GiB, or work in another folder.")


def _self_check() -> Check:
    """Score two candidates with a tiny LCR-SER, on zeros and ones that stand for a user."""
    import duckdb
    import torch

    from seerec.batch import Batch
    from seerec.models.base import Vocabulary
    from seerec.models.lcr_ser_config import LCRSERConfig
    from seerec.models.registry import build

    none = torch.zeros(4, 0, dtype=torch.int32)
    vocabulary = Vocabulary(4, 4, 4, torch.ones(4, dtype=torch.int64), none, none, none)
    with torch.random.fork_rng(devices=[]):
        model = build("lcr-ser", LCRSERConfig(width=8), vocabulary, rec_length=2, search_length=2).eval()
    one, two = torch.ones(1, 1, dtype=torch.int64), torch.tensor([[2, 3]])
    batch = Batch(
        user=one[0], rec=two, rec_time=two, query=two[:, :, None], click=two[:, :, None], search_time=two,
        searched=two > 0, rec_seen=one, search_seen=one, candidates=two[None], positive=one, target_time=one,
        task=0 * one[0], target_query=0 * one[:, :, None], key=one[0],
    ).check()  # fmt: skip
    with torch.inference_mode():
        finite = bool(model.score(model.encode(batch), model.items(batch.candidates)).isfinite().all())
    counted = duckdb.connect().execute("SELECT 41 + 1").fetchall() == [(42,)]
    return _check("self check", "a model scores, the database counts", finite and counted, _REINSTALL)

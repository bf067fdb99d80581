"""The public names of ``seerec``: exactly these, light to import, and each what it says."""

import subprocess
import sys
from importlib import import_module
from types import ModuleType

import pytest

import seerec

NAMES = ["Corpus", "Run", "SeerecError", "compare", "compare_models", "evaluate", "explain", "prepare", "recommend", "train"]


def test_the_public_names_are_these() -> None:
    assert seerec.__all__ == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_callable_however_often_and_whatever_was_imported(name: str) -> None:
    first = getattr(seerec, name)
    import_module(seerec._PLACES[name])
    assert callable(getattr(seerec, name)), "a module of the same name hides it"
    assert not isinstance(getattr(seerec, name), ModuleType)
    assert getattr(seerec, name) is first


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = seerec.nothing_like_it


@pytest.mark.parametrize("module", ["seerec", "seerec.cli"])
def test_importing_brings_in_nothing_heavy(module: str) -> None:
    heavy = "{'torch', 'duckdb', 'numpy', 'pyarrow', 'scipy', 'pydantic', 'matplotlib'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"

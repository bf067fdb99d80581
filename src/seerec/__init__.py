"""seerec: search-enhanced recommendation. Public names; each is imported when first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seerec.data.corpus import Corpus as Corpus
    from seerec.data.door import prepare as prepare
    from seerec.errors import SeerecError as SeerecError
    from seerec.evaluation.evaluate import compare as compare
    from seerec.evaluation.evaluate import evaluate as evaluate
    from seerec.evidence.comparison import compare_models as compare_models
    from seerec.explanations import explain as explain
    from seerec.recommendations import recommend as recommend
    from seerec.training.run import Run as Run
    from seerec.training.train import train as train

__version__ = "0.1.0"

_PLACES = {
    "Corpus": "seerec.data.corpus",
    "Run": "seerec.training.run",
    "SeerecError": "seerec.errors",
    "compare": "seerec.evaluation.evaluate",
    "compare_models": "seerec.evidence.comparison",
    "evaluate": "seerec.evaluation.evaluate",
    "explain": "seerec.explanations",
    "prepare": "seerec.data.door",
    "recommend": "seerec.recommendations",
    "train": "seerec.training.train",
}
__all__ = ["Corpus", "Run", "SeerecError", "compare", "compare_models", "evaluate", "explain", "prepare", "recommend", "train"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'seerec' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)

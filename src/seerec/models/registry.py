"""Every model by its key. Artifacts and commands name models by key, never by import path."""

from typing import Any

from seerec.config import Settings
from seerec.errors import SeerecError
from seerec.models.base import CountingRecommender, ReasoningRecommender, Recommender, Vocabulary
from seerec.models.bert4rec import BERT4Rec
from seerec.models.cl4srec import CL4SRec
from seerec.models.gru4rec import GRU4Rec
from seerec.models.jsr import JSR
from seerec.models.lares import LARES
from seerec.models.lcr_ser import LCRSER
from seerec.models.nrhub import NRHUB
from seerec.models.popularity import LastClick, LastSearchClick, Popularity
from seerec.models.query_seqrec import QuerySeqRec
from seerec.models.rearec import ReaRecERL, ReaRecPRL
from seerec.models.sasrec import SASRec
from seerec.models.sesrec import SESRec
from seerec.models.unifiedssr import UnifiedSSR
from seerec.models.unisar import UniSAR
from seerec.models.user import USER

MODELS: dict[str, type[Recommender[Any]]] = {
    model.key: model
    for model in (
        Popularity,
        LastClick,
        LastSearchClick,
        GRU4Rec,
        SASRec,
        BERT4Rec,
        CL4SRec,
        ReaRecERL,
        ReaRecPRL,
        LARES,
        NRHUB,
        QuerySeqRec,
        JSR,
        USER,
        SESRec,
        UnifiedSSR,
        UniSAR,
        LCRSER,
    )
}


def model_class(key: str) -> type[Recommender[Any]]:
    """The class behind a key. Raises SeerecError naming the known keys."""
    if key not in MODELS:
        raise SeerecError(f"There is no model {key!r}.", f"Choose one of: {', '.join(MODELS)}.")
    return MODELS[key]


def build(key: str, config: Settings, vocabulary: Vocabulary, rec_length: int, search_length: int) -> Recommender[Any]:
    """A new model with fresh weights, drawn from torch's current random state."""
    model: Any = model_class(key)
    built: Recommender[Any] = model(config, vocabulary, rec_length, search_length)
    return built


def describe() -> list[dict[str, Any]]:
    """One row per model: key, title, what it reads, whether it packs, whether it learns from searches, what trains it."""
    rows = []
    for key, model in MODELS.items():
        stage = "counts" if issubclass(model, CountingRecommender) else "gradient"
        rows.append(
            {
                "key": key,
                "title": model.title,
                "reads": sorted(model.reads),
                "packs": model.packs,
                "searches": model.searches,
                "training": stage,
                "reasons": issubclass(model, ReasoningRecommender),
            }
        )
    return rows

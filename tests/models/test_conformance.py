"""Every model keeps every promise: one line per model, and per setting that changes what it promises."""

import pytest
from tests.conformance import EXCEPTIONS, ModelConformance
from tests.models.synthetic import make

from seerec.models.lares import Start
from seerec.models.registry import MODELS

ONCE = None
"""Not for another form of the same model: fitting 64 rows takes seconds, and once per model is enough."""


class TestPopularity(ModelConformance):
    key = "popularity"


class TestLastClick(ModelConformance):
    key = "last-click"


class TestLastSearchClick(ModelConformance):
    key = "last-search-click"


class TestGRU4Rec(ModelConformance):
    key = "gru4rec"


class TestGRU4RecOnMergedHistory(ModelConformance):
    key = "gru4rec"
    settings = {"history": "merged", "scorer": "mlp", "project": "tanh", "layers": 2}  # noqa: RUF012
    test_overfits_64_rows_of_64_users = ONCE


class TestSASRec(ModelConformance):
    key = "sasrec"


class TestSASRecOnMergedHistory(ModelConformance):
    key = "sasrec"
    settings = {"history": "merged", "scorer": "mlp", "project": "tanh"}  # noqa: RUF012
    test_overfits_64_rows_of_64_users = ONCE


class TestBERT4Rec(ModelConformance):
    key = "bert4rec"
    test_overfits_64_rows_of_64_users = None  # Cloze masks, drawn anew, cannot be learnt by heart: without them, below


class TestBERT4RecWithoutCloze(ModelConformance):
    key = "bert4rec"
    settings = {"cloze_weight": 0.0}  # noqa: RUF012


class TestBERT4RecOnMergedHistory(ModelConformance):
    key = "bert4rec"
    settings = {"history": "merged", "scorer": "mlp", "project": "tanh"}  # noqa: RUF012
    test_overfits_64_rows_of_64_users = ONCE


class TestCL4SRec(ModelConformance):
    key = "cl4srec"


class TestCL4SRecOnMergedHistory(ModelConformance):
    key = "cl4srec"
    settings = {"history": "merged", "scorer": "mlp", "project": "tanh"}  # noqa: RUF012
    test_overfits_64_rows_of_64_users = ONCE


class TestReaRecERL(ModelConformance):
    key = "rearec-erl"


class TestReaRecPRL(ModelConformance):
    key = "rearec-prl"


class TestReaRecPRLOnMergedHistory(ModelConformance):
    key = "rearec-prl"
    settings = {"history": "merged", "scorer": "mlp", "softmax": "full"}  # noqa: RUF012
    test_overfits_64_rows_of_64_users = ONCE


class TestLARES(ModelConformance):
    key = "lares"

    def trained(self, b, updates, rate=0.006, dropout=0.0):
        """Start and depth are drawn anew in every update, which wants a smaller rate."""
        return super().trained(b, updates, rate, dropout)

    def silent(self, model, b, rollouts):
        start = model.start(model.history(b))
        return Start(start.state.expand(-1, rollouts, -1, -1), start.depth.expand(rollouts))


class TestLARESFromRandomStartsByCosine(TestLARES):
    settings = {"start": "normal", "similarity": "cos", "temperature": 0.5, "mix": "concat", "history": "merged"}  # noqa: RUF012
    test_overfits_64_rows_of_64_users = ONCE


class TestNRHUB(ModelConformance):
    key = "nrhub"


class TestQuerySeqRec(ModelConformance):
    key = "query-seqrec"


class TestQuerySeqRecAsReleased(ModelConformance):
    key = "query-seqrec"
    settings = {"residual": False, "early_query": True, "softmax": "full", "clicks": 1}  # noqa: RUF012
    test_overfits_64_rows_of_64_users = ONCE


class TestJSR(ModelConformance):
    key = "jsr"


class TestJSROfUserIds(ModelConformance):
    key = "jsr"
    settings = {"history": "none", "personalised_search": True, "text_recon": 0.5}  # noqa: RUF012
    test_overfits_64_rows_of_64_users = ONCE


class TestUSER(ModelConformance):
    key = "user"

    def trained(self, b, updates, rate=0.01, dropout=0.0):
        """Its two encoders under an MLP want a lower rate than the others to fit within these updates."""
        return super().trained(b, updates, rate, dropout)


class TestUSERInShortSessions(ModelConformance):
    key = "user"
    settings = {"session_gap": 0.0003, "session_events": 3, "layers": 2, "session_layers": 2}  # noqa: RUF012
    test_overfits_64_rows_of_64_users = ONCE


class TestSESRec(ModelConformance):
    key = "sesrec"
    settings = {"margin": 4.0}  # noqa: RUF012   so wide that no triplet is satisfied, and the co-attention learns

    def trained(self, b, updates, rate=0.005, **more):
        return super().trained(b, updates, rate, **more)


class TestSESRecOfTheAuthors(ModelConformance):
    key = "sesrec"
    settings = {"project": "linear", "heads": 4, "margin": 4.0}  # noqa: RUF012
    test_overfits_64_rows_of_64_users = ONCE


class TestUnifiedSSR(ModelConformance):
    key = "unifiedssr"


class TestUnifiedSSRWithQueriesAndSessions(ModelConformance):
    key = "unifiedssr"
    settings = {"rec_uses_query_branch": True, "session_states": True}  # noqa: RUF012
    test_overfits_64_rows_of_64_users = ONCE


class TestUnifiedSSRAsReleased(ModelConformance):
    key = "unifiedssr"
    settings = {"causal": False, "restarts": True}  # noqa: RUF012
    test_overfits_64_rows_of_64_users = ONCE
    test_every_parameter_gets_a_gradient = None  # layers below the last do nothing: that is what was released


class TestUniSAR(ModelConformance):
    key = "unisar"


class TestUniSAROfTheAuthors(ModelConformance):
    key = "unisar"
    settings = {"project": "tanh"}  # noqa: RUF012
    test_overfits_64_rows_of_64_users = ONCE


class TestLCRSER(ModelConformance):
    key = "lcr-ser"


class TestLCRSERWithoutCausalMask(ModelConformance):
    key = "lcr-ser"
    settings = {"causal": False, "scorer": "mlp+dot"}  # noqa: RUF012
    test_overfits_64_rows_of_64_users = ONCE


def test_every_model_is_here():
    assert {kind.key for kind in ModelConformance.__subclasses__()} == {*MODELS}


@pytest.mark.parametrize("key", MODELS)
def test_the_class_says_what_the_default_model_does(key):
    """`seerec models` reads the class, training the model."""
    model, kind = make(key), MODELS[key]
    assert (model.packs, model.reads, model.title, model.searches) == (kind.packs, kind.reads, kind.title, kind.searches)


def test_the_models_stand_in_the_order_of_the_papers_table():
    floors = ["last-click", "last-search-click"]
    assert [key for key in MODELS if key not in floors] == [
        "popularity", "gru4rec", "sasrec", "bert4rec", "cl4srec", "rearec-erl", "rearec-prl", "lares", "nrhub", "query-seqrec",
        "jsr", "user", "sesrec", "unifiedssr", "unisar", "lcr-ser",
    ]  # fmt: skip


def test_every_exception_names_a_model_and_a_reason():
    assert {key for key, _ in EXCEPTIONS} <= {*MODELS}
    assert all(reason for reason in EXCEPTIONS.values())

"""Every model keeps every promise: one line per model, and per setting that changes what it promises."""

from tests.conformance import EXCEPTIONS, ModelConformance

from seerec.models.registry import MODELS


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
    test_overfits_64_rows_of_64_users = None  # once per model is enough


class TestSASRec(ModelConformance):
    key = "sasrec"


class TestSASRecOnMergedHistory(ModelConformance):
    key = "sasrec"
    settings = {"history": "merged", "scorer": "mlp", "project": "tanh"}  # noqa: RUF012
    test_overfits_64_rows_of_64_users = None  # once per model is enough


class TestBERT4Rec(ModelConformance):
    key = "bert4rec"
    test_overfits_64_rows_of_64_users = None  # Cloze masks, drawn anew, cannot be learnt by heart: without them, below


class TestBERT4RecWithoutCloze(ModelConformance):
    key = "bert4rec"
    settings = {"cloze_weight": 0.0}  # noqa: RUF012


class TestBERT4RecOnMergedHistory(ModelConformance):
    key = "bert4rec"
    settings = {"history": "merged", "scorer": "mlp", "project": "tanh"}  # noqa: RUF012
    test_overfits_64_rows_of_64_users = None  # once per model is enough


class TestCL4SRec(ModelConformance):
    key = "cl4srec"


class TestCL4SRecOnMergedHistory(ModelConformance):
    key = "cl4srec"
    settings = {"history": "merged", "scorer": "mlp", "project": "tanh"}  # noqa: RUF012
    test_overfits_64_rows_of_64_users = None  # once per model is enough


class TestReaRecERL(ModelConformance):
    key = "rearec-erl"


class TestReaRecPRL(ModelConformance):
    key = "rearec-prl"


class TestReaRecPRLOnMergedHistory(ModelConformance):
    key = "rearec-prl"
    settings = {"history": "merged", "scorer": "mlp", "softmax": "full"}  # noqa: RUF012
    test_overfits_64_rows_of_64_users = None  # once per model is enough


class TestLARES(ModelConformance):
    key = "lares"


class TestLARESFromRandomStartsByCosine(ModelConformance):
    key = "lares"
    settings = {"start": "normal", "similarity": "cos", "temperature": 0.5, "mix": "concat", "history": "merged"}  # noqa: RUF012
    test_overfits_64_rows_of_64_users = None  # once per model is enough


class TestNRHUB(ModelConformance):
    key = "nrhub"


class TestQuerySeqRec(ModelConformance):
    key = "query-seqrec"


class TestQuerySeqRecAsReleased(ModelConformance):
    key = "query-seqrec"
    settings = {"residual": False, "early_query": True, "softmax": "full", "clicks": 1}  # noqa: RUF012
    test_overfits_64_rows_of_64_users = None  # once per model is enough


class TestSESRec(ModelConformance):
    key = "sesrec"


class TestSESRecOfTheAuthors(ModelConformance):
    key = "sesrec"
    settings = {"project": "linear", "heads": 4}  # noqa: RUF012
    test_overfits_64_rows_of_64_users = None  # once per model is enough


class TestUniSAR(ModelConformance):
    key = "unisar"


class TestUniSAROfTheAuthors(ModelConformance):
    key = "unisar"
    settings = {"project": "tanh"}  # noqa: RUF012
    test_overfits_64_rows_of_64_users = None  # once per model is enough


class TestLCRSER(ModelConformance):
    key = "lcr-ser"


class TestLCRSERWithoutCausalMask(ModelConformance):
    key = "lcr-ser"
    settings = {"causal": False, "scorer": "mlp+dot"}  # noqa: RUF012
    test_overfits_64_rows_of_64_users = None  # once per model is enough


def test_every_model_is_here():
    assert {kind.key for kind in ModelConformance.__subclasses__()} == {*MODELS}


def test_every_exception_names_a_model_and_a_reason():
    assert {key for key, _ in EXCEPTIONS} <= {*MODELS}
    assert all(reason for reason in EXCEPTIONS.values())

"""The search of settings: one space, one sequence, equal care; validation alone chooses."""

import pytest

from seerec.evidence.question import accepts, ask, learns
from seerec.evidence.tuning import CHANGES, SPACE, choose, left_out, proposals, settings_of
from seerec.models.registry import MODELS

LEARNING = [key for key in MODELS if learns(key)]
OWN_SHAPE = {"model.scorer", "model.history"}
"""What a model may lack, since its form is the model."""


def record(number, value, failed=None):
    return {"number": number, "value": value, "failed": failed, "asked": {}}


def test_the_sequence_is_the_same_after_a_restart_and_for_more_trials():
    points = proposals(6)
    assert points[0] == {}
    assert proposals(6) == points
    assert proposals(3) == points[:3]
    assert proposals(0) == []
    assert all(len(point) == CHANGES + 1 and "learning_rate" in point for point in points[1:])
    assert len({repr(point) for point in points}) == 6


def test_every_setting_is_changed_before_any_is_changed_twice():
    changed = [name for point in proposals(5)[1:] for name in point if name != "learning_rate"]
    assert set(changed) == set(SPACE) - {"learning_rate"}
    assert len(changed) == len(SPACE) - 1  # twelve places for twelve settings


@pytest.mark.parametrize("key", LEARNING)
def test_every_model_gets_the_same_values_of_every_shared_setting(key):
    """Not a value, let alone a setting, is kept from a model unless its form has no such thing."""
    for point in proposals(8)[1:]:
        own = settings_of(key, point, {})
        assert own == {name: value for name, value in point.items() if name in own}
        assert set(point) - set(own) <= OWN_SHAPE


def test_what_a_model_lacks_is_named():
    found = left_out(ask(models=["popularity", "sasrec", "lcr-ser"], trials=5))
    assert left_out(ask(models=["lcr-ser"], trials=2)) == {"lcr-ser": []}
    assert found == {"sasrec": [], "lcr-ser": ["model.history"]}
    assert not accepts("lcr-ser", "model.history", "rec")


def test_what_is_set_for_all_is_not_searched():
    point = proposals(2)[1]
    own = settings_of("sasrec", point, {"learning_rate": 0.5})
    assert set(point) - set(own) == {"learning_rate"}


def test_the_best_on_validation_is_chosen_and_the_first_of_equals():
    points = proposals(4)
    assert choose([record(0, 0.1), record(1, 0.3), record(2, 0.2)], points) == 1
    assert choose([record(3, 0.3), record(1, 0.3), record(0, 0.1)], points) == 1
    assert choose([record(0, None, "The loss is nan."), record(1, 0.0)], points) == 1
    assert choose([record(0, None, "The loss is nan.")], points) == 0
    assert choose([], points) == 0

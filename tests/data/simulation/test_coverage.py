"""Exact counts of long-tailed things."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from seerec.data.draws import below
from seerec.data.simulation.coverage import NONE, OwnRows, Tail, covering, ragged, shuffled, split, starts, without_repeats


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=30), st.integers(0, 1000))
def test_split_has_the_total_and_no_zeros(weights, more):
    sizes = split(len(weights) + more, np.array(weights))
    assert sizes.sum() == len(weights) + more
    assert sizes.min() >= 1


def test_split_follows_the_weights():
    np.testing.assert_array_equal(split(13, np.array([1.0, 2.0, 7.0])), [2, 3, 8])


def test_groups_of_rows():
    sizes = np.array([2, 1, 3])
    np.testing.assert_array_equal(starts(sizes), [0, 2, 3, 6])
    group, place = ragged(sizes)
    np.testing.assert_array_equal(group, [0, 0, 1, 2, 2, 2])
    np.testing.assert_array_equal(place, [0, 1, 0, 0, 1, 2])


@given(st.integers(1, 5000))
def test_shuffled_is_a_bijection(count):
    assert len(np.unique(shuffled(np.arange(count), count))) == count


def test_shuffled_is_one_at_the_largest_count_in_use():
    count = 99_999_999  # hashed words and products
    number = np.array([0, 1, count // 2, count - 1])
    found = shuffled(number, count)
    assert ((found >= 0) & (found < count)).all()
    assert len(np.unique(found)) == 4


@given(st.integers(1, 300), st.integers(0, 600), st.integers(0, 5))
def test_everything_has_one_row_of_its_own(things, more, seed):
    own = OwnRows(things, things + more, seed, 1)
    row = own.of(np.arange(things))
    assert len(np.unique(row)) == things
    at = own.at(np.arange(things + more))
    np.testing.assert_array_equal(at[row], np.arange(things))
    assert (at != NONE).sum() == things


def test_tail_draws_from_the_group_and_its_first_things_most():
    group = np.arange(1000) % 5
    tail = Tail(group, 6)
    wanted = np.full(20_000, 2)
    drawn = tail.draw(wanted, np.linspace(0, 1, 20_000, endpoint=False))
    assert (group[drawn] == 2).all()
    count = np.bincount(drawn, minlength=1000)[2::5]
    assert count[0] > 5 * count[100]
    assert count[100] > count[-1] > 0
    assert len(np.unique(group[tail.draw(np.full(100, 5), np.linspace(0, 0.99, 100))])) > 1  # an empty group: all things


def test_covering_uses_every_thing_in_a_group_that_wants_it():
    wanted = below(7, 1, 2, np.arange(2000))
    thing, group = covering(wanted, 900, 7, 5, 6)
    assert len(np.unique(thing)) == 900
    np.testing.assert_array_equal(group[thing], wanted)


def test_without_repeats_keeps_fixed_rows():
    lists = np.repeat(np.arange(50, 90), 5)
    thing = np.zeros(200, np.int64)
    fixed = np.arange(200) % 5 == 3
    found = without_repeats(lists, thing, fixed, lambda at, attempt: below(50, 7, attempt, at))
    assert (found[fixed] == 0).all()
    assert all(len(set(found[lists == number])) == 5 for number in range(50, 90))

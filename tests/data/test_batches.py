"""Training and evaluation batches against the corpus, one target at a time."""

import numpy as np
import pytest
from scipy import stats

from seerec.config import BatchSettings
from seerec.data import candidates
from seerec.data.batches import EvaluationBatches, StepBatches, TrainingBatches
from seerec.data.draws import below, bits, seed_of, uniform
from seerec.data.targets import sample_rows

SETTINGS = BatchSettings(rec_length=8, search_length=4, query_words=3, clicks=1, evaluation_rows=20)


def training(corpus, **changed):
    wanted = {"seed": 1, "packs": True, "rows": 32, "negatives": 4, "unknown_user_share": 0.0, **changed}
    return TrainingBatches(corpus, wanted.pop("settings", SETTINGS), **wanted)


def epoch(batches, number=0):
    return [batches.batch(number, step).check() for step in range(batches.steps(number))]


@pytest.fixture(scope="module")
def places(tiny_corpus):
    """(row, item, time) -> position of the training target; the three are unique in this corpus."""
    c = tiny_corpus
    found = {(c.row_user[c.rec_row[t]], c.rec_item[t], c.rec_time[t]): t for t in c.targets("train")}
    assert len(found) == len(c.targets("train"))
    return found


def targets_of(batch, places):
    """(row of the batch, slot, position in the corpus) of every target."""
    mask, item = batch.target_mask.numpy(), batch.positive_item.numpy()
    return [(b, t, places[int(batch.user[b]), item[b, t], int(batch.target_time[b, t])]) for b, t in np.argwhere(mask).tolist()]


def visible_clicks(c, target):
    first = c.rec_offset[c.rec_row[target]]
    return [(int(c.rec_item[e]), int(c.rec_time[e])) for e in range(first, first + c.rec_seen[target])]


def visible_searches(c, target, settings=SETTINGS):
    """(words, clicks, time) of each search a target may see, cut to the batch's lengths."""
    first = c.search_offset[c.rec_row[target]]
    found = []
    for q in range(first, first + c.rec_search_seen[target]):
        query = c.search_query[q]
        words = c.query_word[c.query_offset[query] : c.query_offset[query + 1]][: settings.query_words].tolist()
        clicked = c.click_item[c.click_offset[q] : c.click_offset[q + 1]][: settings.clicks].tolist()
        found.append((words, clicked, int(c.search_time[q])))
    return found


def shown_clicks(batch, b, count):
    return list(zip(batch.rec[b, :count].tolist(), batch.rec_time[b, :count].tolist(), strict=True))


def shown_searches(batch, b, count):
    assert batch.searched[b, :count].all()
    return [
        ([w for w in batch.query[b, s].tolist() if w], [i for i in batch.click[b, s].tolist() if i], int(batch.search_time[b, s]))
        for s in range(count)
    ]


@pytest.mark.parametrize("packs", [True, False])
def test_every_training_target_comes_once_an_epoch(tiny_corpus, places, packs):
    batches = training(tiny_corpus, packs=packs)
    for number in (0, 3):
        seen = [target for batch in epoch(batches, number) for _, _, target in targets_of(batch, places)]
        assert sorted(seen) == tiny_corpus.targets("train").tolist()
    if not packs:
        assert all(batch.rec_seen.shape[1] == 1 for batch in epoch(batches))


@pytest.mark.parametrize("packs", [True, False])
def test_a_target_sees_its_own_prefix_and_never_itself(tiny_corpus, places, packs):
    c, lengths = tiny_corpus, []
    for batch in epoch(training(c, packs=packs)):
        for b, t, target in targets_of(batch, places):
            clicks, searches = visible_clicks(c, target), visible_searches(c, target)
            kept, kept_searches = int(batch.rec_seen[b, t]), int(batch.search_seen[b, t])
            assert shown_clicks(batch, b, kept) == clicks[len(clicks) - kept :]
            assert shown_searches(batch, b, kept_searches) == searches[len(searches) - kept_searches :]
            # Nothing is starved: packing leaves at least R - T of R clicks, and a row of its own the last R and S.
            least = SETTINGS.rec_length // 2 if packs else SETTINGS.rec_length
            assert kept >= min(len(clicks), least)
            if not packs:
                assert kept_searches == min(len(searches), SETTINGS.search_length)
            assert (int(c.rec_item[target]), int(c.rec_time[target])) not in shown_clicks(batch, b, kept)
            assert all(time < c.rec_time[target] for _, time in clicks)
            lengths.append(kept)
    assert max(lengths) == SETTINGS.rec_length


def test_windows_move_with_the_epoch_and_tile(tiny_corpus, places):
    batches = training(tiny_corpus)

    def windows(number):
        found = set()
        for batch in epoch(batches, number):
            per_row = {}
            for b, _, target in targets_of(batch, places):
                per_row.setdefault(b, []).append(target)
            found |= {tuple(targets) for targets in per_row.values()}
        return found

    first, second = windows(0), windows(1)
    assert windows(0) == first
    assert len(first & second) < 0.6 * len(first)
    assert max(len(window) for window in first) == SETTINGS.rec_length // 2
    assert all(list(window) == sorted(window) for window in first)
    three = training(tiny_corpus, settings=SETTINGS.model_copy(update={"targets_per_row": 3}))
    assert max(batch.rec_seen.shape[1] for batch in epoch(three)) == 3


def test_negatives_are_of_the_pool_and_not_the_users_training_items(tiny_corpus):
    c = tiny_corpus
    own = {}
    for row, user in enumerate(c.row_user.tolist()):
        first, last = c.rec_offset[row : row + 2]
        trained = [e for e in range(first, last) if c.rec_role[e] == 1]
        if trained:
            end = c.rec_time[trained[-1]]
            searches = [q for q in range(*c.search_offset[row : row + 2]) if c.search_time[q] < end]
            clicked = [i for q in searches for i in c.click_item[c.click_offset[q] : c.click_offset[q + 1]].tolist()]
            own[user] = {*c.rec_item[first : trained[-1] + 1].tolist(), *clicked}
    seen = set()
    for batch in epoch(training(c, negatives=30)):
        mask = batch.target_mask.numpy()
        assert (batch.positive == 0).all()
        negative = batch.candidates.numpy()[:, :, 1:]
        assert c.item_pool[negative[mask]].all()
        assert not negative[~mask].any()
        for b, user in enumerate(batch.user.tolist()):
            assert not own[user] & set(negative[b].ravel().tolist())
        seen |= set(negative[mask].ravel().tolist())
    assert len(seen) > 0.95 * c.item_pool.sum()


def same(one, other):
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("user", "rec", "candidates", "key"))


def test_a_batch_is_a_function_of_seed_epoch_and_step(tiny_corpus):
    one, other = training(tiny_corpus), training(tiny_corpus)
    other.batch(5, 0)
    assert same(one.batch(2, 1), other.batch(2, 1))
    assert not same(one.batch(2, 1), one.batch(2, 0))
    assert not same(one.batch(2, 1), one.batch(3, 1))
    assert not same(one.batch(2, 1), training(tiny_corpus, seed=2).batch(2, 1))
    keys = np.concatenate([batch.key.numpy() for number in (0, 1) for batch in epoch(one, number)])
    assert len(set(keys.tolist())) == len(keys)
    assert keys.min() >= 0


@pytest.mark.parametrize("fresh", [True, False])
def test_fixed_negatives_repeat_over_epochs(tiny_corpus, places, fresh):
    batches = training(tiny_corpus, fresh=fresh)

    def drawn(number):
        return {
            target: tuple(batch.candidates[b, t].tolist())
            for batch in epoch(batches, number)
            for b, t, target in targets_of(batch, places)
        }

    first, second = drawn(0), drawn(1)
    changed = sum(first[target] != second[target] for target in first)
    assert changed > 0.95 * len(first) if fresh else changed == 0


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_the_asked_share_of_rows_loses_its_user(tiny_corpus, share):
    batches = training(tiny_corpus, packs=False, unknown_user_share=share)
    user = np.concatenate([batch.user.numpy() for number in range(4) for batch in epoch(batches, number)])
    error = 4 * (share * (1 - share) / len(user)) ** 0.5
    assert abs((user == 1).mean() - share) <= error


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_rows_hold_the_last_events_and_the_saved_candidates(tiny_corpus, split):
    c, sets = tiny_corpus, candidates.load(tiny_corpus, split)
    batches = EvaluationBatches(c, SETTINGS, sets)
    assert np.array_equal(batches.target, c.targets(split))
    places = []
    for index, batch in batches:
        batch.check()
        searches_at = batches.search_places(index, batch.query.shape[1])
        owner, item = batches.seen_items(index)
        for b, place in enumerate(index.tolist()):
            target = int(batches.target[place])
            clicks, searches = visible_clicks(c, target), visible_searches(c, target)
            assert shown_clicks(batch, b, int(batch.rec_seen[b, 0])) == clicks[-SETTINGS.rec_length :]
            assert shown_searches(batch, b, int(batch.search_seen[b, 0])) == searches[-SETTINGS.search_length :]
            assert int((batch.rec[b] != 0).sum()) == int(batch.rec_seen[b, 0])
            assert int(batch.user[b]) == c.row_user[c.rec_row[target]]
            assert batch.candidates[b, 0].tolist() == sets.items(c)[place].tolist()
            assert int(batch.positive_item[b, 0]) == c.rec_item[target]
            assert int(batch.target_time[b, 0]) == c.rec_time[target]
            uncut = visible_searches(c, target, SETTINGS.model_copy(update={"clicks": 10**6}))
            had = {i for i, _ in clicks} | {i for _, clicked, _ in uncut for i in clicked}
            assert set(item[owner == b].tolist()) == had
            end = c.search_offset[c.rec_row[target]] + c.rec_search_seen[target]
            kept = min(len(searches), SETTINGS.search_length)
            assert searches_at[b].tolist() == [*range(end - kept, end), *[-1] * (searches_at.shape[1] - kept)]
        places += index.tolist()
    assert sorted(places) == list(range(len(sets.target)))


def test_a_limit_takes_the_same_targets_each_time(tiny_corpus):
    sets = candidates.load(tiny_corpus, "test")
    some = EvaluationBatches(tiny_corpus, SETTINGS, sets, 20)
    again = EvaluationBatches(tiny_corpus, SETTINGS.model_copy(update={"rec_length": 3}), sets, 20)
    assert len(some.target) == 20
    assert np.array_equal(some.target, again.target)
    assert set(some.target) < set(sets.target)
    index, batch = next(iter(some))
    assert np.array_equal(batch.candidates[:, 0], sets.items(tiny_corpus)[some.chosen[index]])


def test_draws_are_uniform_and_neighbours_are_unrelated():
    n = 200_000
    grid = np.arange(n)
    for axis in range(3):
        where = [7, 3, 11]
        where[axis] = grid
        assert stats.chisquare(np.bincount(below(97, *where), minlength=97)).pvalue > 1e-4
        x = uniform(*where)
        assert x.min() >= 0
        assert x.max() < 1
        assert stats.kstest(x, "uniform").pvalue > 1e-4
        for lag in (1, 2, 64):
            assert abs(np.corrcoef(x[:-lag], x[lag:])[0, 1]) < 5 / n**0.5
        for other in range(3):
            moved = [7, 3, 11]
            moved[axis] = grid
            moved[other] = moved[other] + 1
            assert abs(np.corrcoef(x, uniform(*moved))[0, 1]) < 5 / n**0.5
    halves = np.unpackbits(bits(1, grid).view(np.uint8)).reshape(n, 64).mean(0)
    assert np.abs(halves - 0.5).max() < 5 * 0.5 / n**0.5
    assert len(set(bits(grid[:300, None], grid[:300]).ravel().tolist())) == 90_000
    assert seed_of(1, 2) == seed_of(1, 2) != seed_of(2, 1)
    assert 0 <= seed_of(-1) < 2**63


def test_there_are_never_more_negatives_than_the_pool_has_items(tiny_corpus):
    pool = int(tiny_corpus.item_pool.sum())
    assert training(tiny_corpus, negatives=10**9).batch(0, 0).candidates.shape[2] == 1 + pool
    assert training(tiny_corpus, negatives=pool - 1).batch(0, 0).candidates.shape[2] == pool


# the search task, samples of users, pairs ----------------------------------------------------------------------------------


def test_search_rows_ask_their_query_and_see_what_came_before(tiny_corpus):
    c = tiny_corpus
    batches, found = training(c, task="search"), []
    at = np.flatnonzero(c.click_role == 1)
    wanted = {
        (int(c.search_row[q]), int(c.search_time[q]), int(c.click_item[i])): q
        for i, q in zip(at, np.searchsorted(c.click_offset, at, side="right") - 1, strict=True)
    }
    row_of = {int(user): row for row, user in enumerate(c.row_user)}
    for batch in epoch(batches):
        assert batch.task.all()
        assert batch.rec_seen.shape[1] == 1
        for b in range(len(batch.user)):
            key = (row_of[int(batch.user[b])], int(batch.target_time[b, 0]), int(batch.positive_item[b, 0]))
            q = wanted[key]
            found.append(key)
            words = c.query_word[c.query_offset[c.search_query[q]] : c.query_offset[c.search_query[q] + 1]][:3].tolist()
            assert [w for w in batch.target_query[b, 0].tolist() if w] == words
            first = c.search_offset[key[0]]
            before = [int(t) for t in c.search_time[first : c.search_offset[key[0] + 1]] if t < c.search_time[q]]
            assert batch.search_time[b][batch.searched[b]].tolist() == before[-SETTINGS.search_length :]
            assert int(batch.search_seen[b, 0]) == len(before[-SETTINGS.search_length :])
            assert (batch.rec_time[b][batch.rec[b] != 0] < c.search_time[q]).all()
    assert sorted(found) == sorted(wanted)
    assert len(found) > 50


def test_the_shares_of_the_search_task_run_out_with_the_recommendations(tiny_corpus):
    batches = StepBatches(training(tiny_corpus), training(tiny_corpus, task="search"))
    steps = batches.steps(0)
    sizes = [len(part.user) for step in range(steps) for part in batches.batches(0, step)[1:]]
    assert sum(sizes) == (tiny_corpus.click_role == 1).sum()
    assert max(sizes) - min(sizes) <= 1
    assert all(part.task.sum() == place * len(part.user) for place, part in enumerate(batches.batches(0, 0)))
    few = StepBatches(training(tiny_corpus), training(tiny_corpus, task="search", rows_kept=sample_rows(tiny_corpus, 1)))
    assert {len(few.batches(0, step)) for step in range(steps)} <= {1, 2}


def test_search_candidates_are_those_that_were_drawn(tiny_corpus):
    sets = candidates.load(tiny_corpus, "test", "search")
    batches = EvaluationBatches(tiny_corpus, SETTINGS, sets)
    assert len(batches.target) == (tiny_corpus.click_role == 3).sum() > 0
    for index, batch in batches:
        assert batch.check().task.all()
        assert batch.target_query.any()
        assert batch.positive_item[:, 0].tolist() == tiny_corpus.click_item[batches.target[index]].tolist()
        assert batch.candidates[:, 0].tolist() == sets.items(tiny_corpus, index).tolist()


def test_a_sample_of_users_is_the_same_for_every_model(tiny_corpus):
    c = tiny_corpus
    kept = sample_rows(c, 20)
    assert kept.sum() == 20
    assert (sample_rows(c, 30) >= kept).all()
    assert sample_rows(c, 10**9).sum() == len(np.unique(c.rec_row[c.targets("train")]))
    for packs in (True, False):
        users = {int(u) for batch in epoch(training(c, packs=packs, rows_kept=kept)) for u in batch.user}
        assert users == {int(u) for u in c.row_user[kept]}
    whole = candidates.load(c, "val")
    some = EvaluationBatches(c, SETTINGS, whole, rows_kept=kept)
    assert some.target.tolist() == [t for t in whole.target.tolist() if kept[c.rec_row[t]]]
    assert len(EvaluationBatches(c, SETTINGS, whole, 5, kept).target) == 5


@pytest.mark.parametrize("packs", [True, False])
def test_partners_end_with_the_same_item_and_belong_to_others(tiny_corpus, places, packs):
    batches = training(tiny_corpus, packs=packs, paired=True)
    several = 0
    for batch, windows in zip(epoch(batches), np.diff(batches._plan(0).begin), strict=True):
        last = {b: target for b, _, target in targets_of(batch, places)}  # the last of each row
        for b, target in last.items():
            assert shown_clicks(batch, b, int(batch.rec_seen[b].max()))[-1:] == visible_clicks(tiny_corpus, target)[-1:]
        ends = [int(tiny_corpus.rec_item[target]) for target in last.values()]
        half = int(windows)  # before them the epoch's own, after them their partners
        for partner, item in enumerate(ends[half:], half):
            several += 1
            assert item in ends[:half]
            own = [b for b in range(half) if ends[b] == item]
            assert any(batch.user[b] != batch.user[partner] for b in own)
    assert several > 20
    seen = {target for batch in epoch(batches) for _, _, target in targets_of(batch, places)}
    assert seen == set(tiny_corpus.targets("train").tolist())


@pytest.mark.parametrize("packs", [True, False])
def test_a_step_has_as_many_targets_as_another_and_rows_of_like_length(tiny_corpus, packs):
    batches = training(tiny_corpus, packs=packs, rows=32)
    for number in range(3):
        counts, rows = [], []
        for batch in epoch(batches, number):
            counts.append(int(batch.target_mask.sum()))
            rows.append(len(batch.user))
        assert sum(counts) == len(batches.target)
        assert max(counts) <= min(counts) + 2 * batches.width  # a window is never cut
        assert np.mean(rows) <= 32
        if packs:
            assert max(rows) > 1.5 * min(rows)  # long histories carry many targets, so fewer of them are a step
        else:
            assert max(rows) <= 32

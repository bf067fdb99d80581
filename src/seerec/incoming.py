"""Histories that come from outside (JSON) as the event arrays of a small corpus, so that one code path serves both.

A history is ``{"user_id": ..., "recommendations": [...], "searches": [...]}``, every part optional. A recommendation is an
item id or ``{"item_id": ..., "timestamp": ms}``, a search ``{"query": text, "clicked": [item ids], "timestamp": ms}``. Without
timestamps the order of a list is the order of its events.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seerec.artifact import Artifact
from seerec.batch import Batch
from seerec.config import BatchSettings
from seerec.data.corpus import UNKNOWN, Corpus
from seerec.data.histories import Arrays, Histories, Ints, expand
from seerec.data.text import Lexicon, encode
from seerec.errors import SeerecError

_EXAMPLE = (
    'A history looks like {"user_id": "7", "recommendations": ["42", {"item_id": "43", "timestamp": 1700000000000}], '
    '"searches": [{"query": "warm boots", "clicked": ["44"]}]}.'
)
_LARGEST = 2**63


@dataclass(frozen=True)
class Log:
    """P histories. Attributes besides these fields are the event arrays, named as in ``corpus.py``; search q has query q."""

    arrays: dict[str, NDArray[Any]]
    user_id: list[str | None]  # P
    ignored: list[list[str]]  # P     item ids that training never saw
    query: list[str]  # Q     texts of the searches
    rec_timed: NDArray[np.bool_]  # P     whether the clicks came with timestamps
    search_timed: NDArray[np.bool_]  # P

    def __getattr__(self, name: str) -> NDArray[Any]:
        try:
            return self.__dict__["arrays"][name]
        except KeyError:
            raise AttributeError(name) from None


class People:
    """Rows of a corpus or a log at the end of their histories, as batches without candidates."""

    def __init__(self, log: Arrays, settings: BatchSettings) -> None:
        self._histories = Histories(log, settings)
        self._log = log

    def batch(self, row: Ints) -> Batch:
        """These rows with one target each, which sees the whole (cut) history; its time is that of the latest event."""
        rec_end, search_end = (np.asarray(offset)[row + 1] for offset in (self._log.rec_offset, self._log.search_offset))
        bounds = self._histories.last(row, rec_end, search_end)
        latest = np.maximum(_last(self._log.rec_time, bounds[0], bounds[1]), _last(self._log.search_time, bounds[2], bounds[3]))
        none = np.zeros((len(row), 1), dtype=np.int64)
        return self._histories.batch(
            row, bounds, (bounds[1] - bounds[0])[:, None], (bounds[3] - bounds[2])[:, None], none[:, None], none,
            latest[:, None], none[:, 0],
        )  # fmt: skip

    def seen(self, row: Ints) -> tuple[Ints, Ints]:
        """(place in ``row``, item) of every item of these rows' clicks and searches, uncut."""
        log = self._log
        rec_offset, search_offset, click_offset = map(np.asarray, (log.rec_offset, log.search_offset, log.click_offset))
        rec_owner, rec_at = expand(rec_offset[row], rec_offset[row + 1])
        click_owner, click_at = expand(click_offset[search_offset[row]], click_offset[search_offset[row + 1]])
        items = [np.asarray(log.rec_item)[rec_at], np.asarray(log.click_item)[click_at]]
        return np.concatenate([rec_owner, click_owner]), np.concatenate(items).astype(np.int64)


def _last(time: NDArray[Any], lo: Ints, hi: Ints) -> Ints:
    """``time[hi - 1]`` where lo < hi, else 0."""
    return np.where(lo < hi, np.asarray(time)[hi - 1], 0) if len(time) else np.zeros_like(hi)


def rows_of(corpus: Corpus, users: Sequence[str | int]) -> Ints:
    """The rows of raw user ids.

    Raises
    ------
    SeerecError
        The corpus has no such user.
    """
    wanted = [_id(f"users[{place}]", user, "a user id") for place, user in enumerate(users)]
    found = pc.index_in(pa.array(wanted, pa.string()), value_set=corpus.table("rows")["user_id"])
    missing = found.is_null().to_numpy(zero_copy_only=False)
    if missing.any():
        raise SeerecError(
            f"The corpus {corpus.path} has no user {wanted[int(missing.argmax())]!r}.",
            'Pass this user\'s events as a history instead: {"recommendations": [...], "searches": [...]}.',
        )
    return found.to_numpy().astype(np.int64)


def log_of(corpus: Corpus, row: int) -> Log:
    """One row of a corpus as a log of its own."""
    rec = slice(*np.asarray(corpus.rec_offset)[row : row + 2])
    search = slice(*np.asarray(corpus.search_offset)[row : row + 2])
    clicks = np.asarray(corpus.click_offset)[search.start : search.stop + 1]
    query = np.asarray(corpus.search_query)[search]
    offset = np.asarray(corpus.query_offset)
    lo, hi = offset[query], offset[query + 1]
    arrays = {
        "row_user": np.asarray(corpus.row_user)[row : row + 1],
        "rec_offset": np.array([0, rec.stop - rec.start]),
        "search_offset": np.array([0, search.stop - search.start]),
        "rec_item": np.asarray(corpus.rec_item)[rec],
        "rec_time": np.asarray(corpus.rec_time)[rec],
        "search_time": np.asarray(corpus.search_time)[search],
        "search_query": np.arange(len(query)),
        "click_offset": clicks - clicks[0],
        "click_item": np.asarray(corpus.click_item)[clicks[0] : clicks[-1]],
        "query_offset": _offsets(hi - lo),
        "query_word": np.asarray(corpus.query_word)[expand(lo, hi)[1]],
    }
    texts = corpus.table("queries")["text"].take(pa.array(query)).to_pylist()
    name = corpus.table("rows")["user_id"][row].as_py()
    return Log(arrays, [name], [[]], [text or "" for text in texts], np.ones(1, bool), np.ones(1, bool))


def parse(histories: Any, loaded: Artifact) -> Log:
    """JSON histories as a log in the ids of an artifact.

    Items that training never saw drop out and are listed in ``ignored``; a search left without a word and without a click
    says nothing and drops out too, as in ``prepare``. Unknown words and users become id 1.

    Raises
    ------
    SeerecError
        A shape or type is wrong; the sentence names the position.
    """
    read = _Reader()
    for place, history in enumerate(_list("histories", histories)):
        read.history(f"histories[{place}]", history)
    rec_item = _numbers(read.rec_item, loaded.items["item_id"])
    click_item = _numbers(read.click_item, loaded.items["item_id"])
    lexicon = Lexicon()
    words = encode([pa.array(read.query, pa.string())], lexicon)
    known_word = _numbers(lexicon.words.to_pylist(), loaded.words["text"])
    word = np.where(known_word < 0, UNKNOWN, loaded.words["word"].to_numpy()[known_word] if len(loaded.words) else UNKNOWN)
    user = _numbers(read.user_id, loaded.users["user_id"])
    ids = loaded.users["user"].to_numpy()
    item = loaded.items["item"].to_numpy()
    # What is unknown leaves the flat lists; the counts per history and per search shrink with it.
    click_search = np.repeat(np.arange(len(read.query)), read.clicks)
    per_search = np.bincount(click_search[click_item >= 0], minlength=len(read.query))
    length = np.diff(words.offset)
    says = (length > 0) | (per_search > 0)
    search_row = np.repeat(np.arange(len(read.user_id)), read.searches)
    rec_row = np.repeat(np.arange(len(read.user_id)), read.recs)
    p = len(read.user_id)
    arrays = {
        "row_user": np.where(user < 0, UNKNOWN, ids[user] if len(ids) else UNKNOWN),
        "rec_offset": _offsets(np.bincount(rec_row[rec_item >= 0], minlength=p)),
        "search_offset": _offsets(np.bincount(search_row[says], minlength=p)),
        "rec_item": item[rec_item[rec_item >= 0]],
        "rec_time": np.array(read.rec_time, dtype=np.int64)[rec_item >= 0],
        "search_time": np.array(read.search_time, dtype=np.int64)[says],
        "search_query": np.arange(int(says.sum())),
        "click_offset": _offsets(per_search[says]),
        "click_item": item[click_item[click_item >= 0]],
        "query_offset": _offsets(length[says]),
        "query_word": word[words.code],
    }
    ignored: list[dict[str, None]] = [{} for _ in range(p)]
    for place in np.flatnonzero(rec_item < 0).tolist():
        ignored[rec_row[place]][read.rec_item[place]] = None
    for place in np.flatnonzero(click_item < 0).tolist():
        ignored[search_row[click_search[place]]][read.click_item[place]] = None
    texts = [read.query[place] for place in np.flatnonzero(says).tolist()]
    timed = np.array(read.rec_timed, dtype=bool), np.array(read.search_timed, dtype=bool)
    return Log(arrays, read.user_id, [list(names) for names in ignored], texts, *timed)


@dataclass
class _Reader:
    """Flat lists of what the histories hold, each event list in the order of its times."""

    user_id: list[str | None] = field(default_factory=list)
    recs: list[int] = field(default_factory=list)
    rec_item: list[str] = field(default_factory=list)
    rec_time: list[int] = field(default_factory=list)
    rec_timed: list[bool] = field(default_factory=list)
    searches: list[int] = field(default_factory=list)
    search_time: list[int] = field(default_factory=list)
    search_timed: list[bool] = field(default_factory=list)
    query: list[str] = field(default_factory=list)
    clicks: list[int] = field(default_factory=list)
    click_item: list[str] = field(default_factory=list)

    def history(self, at: str, history: Any) -> None:
        """Take one history."""
        given = _fields(at, history, ("user_id", "recommendations", "searches"))
        user = given.get("user_id")
        self.user_id.append(None if user is None else _id(f"{at}.user_id", user, "a user id"))
        recs = []
        for place, event in enumerate(_list(f"{at}.recommendations", given.get("recommendations"))):
            here = f"{at}.recommendations[{place}]"
            fields = _fields(here, event, ("item_id", "timestamp")) if isinstance(event, Mapping) else {"item_id": event}
            where = f"{here}.item_id" if isinstance(event, Mapping) else here
            recs.append((_time(here, fields), _id(where, fields.get("item_id"), "an item id")))
        searches = []
        for place, event in enumerate(_list(f"{at}.searches", given.get("searches"))):
            here = f"{at}.searches[{place}]"
            fields = _fields(here, event, ("query", "clicked", "timestamp"))
            clicked = _list(f"{here}.clicked", fields.get("clicked"))
            items = [_id(f"{here}.clicked[{n}]", item, "an item id") for n, item in enumerate(clicked)]
            searches.append((_time(here, fields), (_query(f"{here}.query", fields.get("query")), list(dict.fromkeys(items)))))
        timed, times, order = _in_order(f"{at}.recommendations", [time for time, _ in recs])
        self.rec_timed.append(timed)
        self.rec_time += times
        self.recs.append(len(recs))
        self.rec_item += [recs[place][1] for place in order]
        timed, times, order = _in_order(f"{at}.searches", [time for time, _ in searches])
        self.search_timed.append(timed)
        self.search_time += times
        self.searches.append(len(searches))
        for query, items in (searches[place][1] for place in order):
            self.query.append(query)
            self.clicks.append(len(items))
            self.click_item += items


def _in_order(at: str, given: list[int | None]) -> tuple[bool, list[int], list[int]]:
    """Whether there are timestamps, the times, and the order: by time, equal times and events without one as listed."""
    times = [time for time in given if time is not None]
    if not times:
        return False, list(range(len(given))), list(range(len(given)))
    if len(times) < len(given):
        raise SeerecError(f"Only some events of {at} have a timestamp.", "Give all of them one, or none.")
    return True, sorted(times), sorted(range(len(times)), key=times.__getitem__)


def _wrong(at: str, expected: str, found: Any) -> SeerecError:
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "nothing"}
    shown = kinds.get(type(found), repr(found)[:60])
    return SeerecError(f"{at} must be {expected}, not {shown}.", _EXAMPLE)


def _fields(at: str, value: Any, names: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(at, f"an object with {', '.join(names)}", value)
    for name in value:
        if name not in names:
            raise SeerecError(f"{at} has an unknown field {name!r}.", f"It may have {', '.join(names)}.")
    return value


def _list(at: str, value: Any) -> Sequence[Any]:
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise _wrong(at, "a list", value)
    return value


def _whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _text(at: str, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise SeerecError(f"{at} is not valid Unicode text.", "Write the JSON in UTF-8.") from error
    return value


def _id(at: str, value: Any, expected: str) -> str:
    if not _whole(value) and (not isinstance(value, str) or not value):
        raise _wrong(at, f"{expected}, as text or a whole number", value)
    return _text(at, str(value))


def _time(at: str, fields: Mapping[str, Any]) -> int | None:
    value = fields.get("timestamp")
    if value is not None and (not _whole(value) or not -_LARGEST <= value < _LARGEST):
        raise _wrong(f"{at}.timestamp", "a whole number of milliseconds since 1970", value)
    return None if value is None else int(value)


def _query(at: str, value: Any) -> str:
    """A text, nothing, or a list of word ids, which are joined by spaces as in a table of searches."""
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return " ".join(_id(f"{at}[{place}]", word, "a word id") for place, word in enumerate(value))
    if not isinstance(value, str):
        raise _wrong(at, "text", value)
    return _text(at, value)


def _numbers(names: Sequence[str | None], known: pa.ChunkedArray) -> Ints:
    """The row of each name in ``known``, -1 where it is not there."""
    found = pc.index_in(pa.array(names, pa.string()), value_set=known, skip_nulls=True)
    return pc.fill_null(found, -1).to_numpy().astype(np.int64)


def _offsets(counts: NDArray[Any]) -> Ints:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])

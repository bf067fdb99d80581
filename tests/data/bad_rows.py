"""What is wrong with logs, and what becomes of it: a table for `test_bad_input.py`.

A fate is None (accepted), a reason of quarantine, or, of whole files, words of the sentence that refuses them.
"""

import gzip
import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

NOON = 1_684_980_000_000
"""2023-05-25 10:00:00 in Beijing, when most rows of these logs happened."""
KUAISAR = {
    "recommendations": {
        "user_id": "7", "item_id": "11", "playing_time": "100.0", "duration_ms": "2000.0", "time": "2023-05-25 10:00:00",
        "timestamp": f"{NOON}.0", "click": "1", "forward": "0", "like": "0", "follow": "0", "search": "0",
        "search_item_related": "0",
    },
    "searches": {
        "user_id": "7", "search_session_id": "5", "search_session_time": "2023-05-25 10:00:00",
        "search_session_timestamp": f"{NOON}", "keyword": "[20, 34, 3]", "search_source": "USER_INPUT", "item_id": "11",
        "click_cnt": "1", "item_type": "VIDEO",
    },
    "items": {
        "item_id": "11", "caption": "[3, 4]", "author_id": "1", "item_type": "NORMAL", "upload_time": "2023-05-01",
        "upload_type": "x", "first_level_category_id": "1", "second_level_category_id": "2", "third_level_category_id": "3",
        "fourth_level_category_id": "4",
    },
    "users": {"user_id": "7", "search_active_level": "1", "rec_active_level": "2", "onehot_feat1": "0", "onehot_feat2": "5"},
}  # fmt: skip
TABLES = {
    "recommendations": {"user_id": "u", "item_id": "i", "timestamp": f"{NOON}", "clicked": "1", "request_id": ""},
    "searches": {"user_id": "u", "search_id": "s", "timestamp": f"{NOON}", "query": "red shoe", "item_id": "i", "clicked": "1"},
    "items": {"item_id": "i", "title": "A shoe"},
    "users": {"user_id": "u", "age": "30"},
}
"""A good row of each table of the two sources."""
FILES_OF = {
    "recommendations": "rec_inter.csv", "searches": "src_inter.csv", "items": "item_features.csv", "users": "user_features.csv",
}  # fmt: skip


class Case(NamedTuple):
    """Rows of one table: changed cells of a good row, or a whole line; and what becomes of each."""

    what: str
    table: str
    rows: list[Mapping[str, str] | str]
    fates: list[str | None]


NUL, BOM, RTL, ZERO_WIDTH = "\0", "\ufeff", "\u202e", "\u200b"
_MEGABYTE = "[" + ", ".join(str(word) for word in range(100_000, 231_072)) + "]"
_NO_NUMBERS = [
    "-1", "-0.5", "1.5", "1e-3", "abc", "nan", "NaN", "-nan", "inf", "-inf", "Infinity", "1e400", "9007199254740993",
    "99999999999999999999", "0x1F", "0b1", "1,000", "1 000", "１２", "١٢", "∞", "null", "NULL", "None", "\\N", "true", "7;8",
    "[7]", "'7'", "$7", "7%", "--7", "7-", "1.2.3", f"7{NUL}", NUL, f"{BOM}7", f"7{ZERO_WIDTH}", f"{RTL}7", "7\n8", "=7", "<7>",
    "DROP TABLE raw_recommendations", "😀", "é",
]  # fmt: skip
_NUMBERS = ["7.0", "007", " 7 ", "+7", "7e2", "0", "-0", "8999999999999999", "100000000001"]
_BLANK = ["", " ", "   "]

# cell, its fate in KuaiSAR's columns of times, its fate in the contract's
_TIMES: list[tuple[str, str | None, str | None]] = [
    *((cell, "time_missing", "time_missing") for cell in _BLANK),
    ("0", "time_out_of_range", None), ("-1", "time_out_of_range", "time_out_of_range"), ("1", "time_out_of_range", None),
    ("1684980000", "time_out_of_range", None), ("1684980000.0", "time_out_of_range", None),
    ("946684799999", "time_out_of_range", None), ("946684800000", None, None), ("4102444799999", None, None),
    ("4102444800000", "time_out_of_range", "time_out_of_range"), ("292278994", "time_out_of_range", None),
    *((cell, "time_out_of_range", "time_out_of_range") for cell in (
        "9223372036854775807", "9223372036854775808", "-9223372036854775808", "253402300800000", "1684980000000000",
        "1684980000000000000", "1e30", "-9e99",
    )),
    *((cell, "time_not_a_number", "time_not_a_number") for cell in (
        "nan", "NaN", "inf", "-Infinity", "1e400", f"{NOON}ms", "yesterday", "now", "epoch", "infinity", "null", "None", "true",
        "2023-13-01 00:00:00", "2023-02-30 00:00:00", "2023-05-22 25:00:00", "0000-00-00 00:00:00", "292278994-08-17 07:12:55",
        "22.05.2023 18:30:00", "05/22/2023 18:30:00", "2023年5月22日", "1,684,980,000,000", "１６８４９８０００００００",
        f"{NOON};{NOON}", NUL, f"{NOON}{NUL}", f"{BOM}{NOON}", f"[{NOON}]", "12:30", "Mon May 22 18:30:00 2023",
    )),
    (f"{NOON}.5", "time_not_whole", "time_not_whole"), ("0.25", "time_not_whole", "time_not_whole"),
    ("-1684980000000.5", "time_not_whole", "time_not_whole"),
    ("1970-01-01 00:00:00", "time_out_of_range", None), ("1999-12-31 23:59:59", "time_out_of_range", None),
    ("2100-01-01 08:00:00", "time_out_of_range", "time_out_of_range"), ("2023-05-22 18:30:00", None, None),
    (f"{NOON}", None, None), (f"{NOON}.0", None, None), ("1.68498e12", None, None), (f" {NOON} ", None, None),
]  # fmt: skip

# cell, its fate as KuaiSAR's click, as the contract's
_CLICKS: list[tuple[str, str | None, str | None]] = [
    *((cell, None, None) for cell in ("0", "1", "0.0", "1.0", " 1", "1e0")),
    *((cell, "clicked_unreadable", None) for cell in ("", "  ", "true", "False", "t")),
    *((cell, "clicked_unreadable", "clicked_unreadable") for cell in (
        "2", "-1", "0.5", "nan", "inf", "1e400", "perhaps", "null", "[1]", "1;0", "二", NUL, "１", "✓", "1,0",
    )),
]  # fmt: skip
_COUNTS: list[tuple[str, str | None]] = [
    *((cell, None) for cell in ("0", "1", "2", "35", "1.0", " 2 ")),
    *(
        (cell, "clicked_unreadable")
        for cell in ("", " ", "-1", "1.5", "nan", "inf", "one", "true", "0x1", "1e400", "[1]", NUL, "１")
    ),
]
_KEYWORDS: list[tuple[str, str | None]] = [
    *((cell, None) for cell in (
        "[20, 34, 3]", "[20]", "[]", "[ ]", "", "  ", "[0]", " [ 20 , 34 ] ", "[20,34]", "[20 34]", "[20.0, 34.0]", "[20]\n",
        "[99999999999999999999]", _MEGABYTE,
    )),
    *((cell, "query_not_a_list") for cell in (
        "[20, 34", "20, 34]", "20, 34", "20", "[20, 34]; 7", "x[20]", "[20]]", "[[20]]", "[20],[34]", "[a]", "[20, b]", "[2.5]",
        "[-3]", "[+3]", "[1e3]", "[nan]", "[inf]", "[None]", "[20,,34]", "[,]", "[20,]", "[...]", "[20 ... 34]", "(20, 34)",
        "{20, 34}", "{20: 34}", "['20']", '["20"]', "[0x14]", "[２０]", "[٢٠]", "[20، 34]", f"[20{NUL}]", NUL, f"{BOM}[20]",
        f"{RTL}[20]", f"[20{ZERO_WIDTH}]", "שלום", "مرحبا", "鞋子", "😀", "red shoe", "None", "nan", "null",
        "1_0", "[1_0]", "'[20]'", "[20;34]", "[20/34]", "\\[20\\]", "[__import__('os').system('true')]", "[open('x')]",
        "[1 if 1 else 2]", "[*range(9)]", "[x for x in (1,)]", "[20]+[34]", "x" * (1 << 20),
    )),
]  # fmt: skip
_SHREDS = [
    "7", "7,11", "7,11,100.0", "'7','11'", "," * 40, "7" + ",1" * 30_000, "7;11;100;2000;t;1684980000000;1;0;0;0;0;0",
    "7\t11\t100\t2000\tt\t1684980000000\t1\t0\t0\t0\t0\t0", "=======", "<<<<<<< HEAD", "# a remark", "-- 2023", "...",
    "(3 rows affected)", "Killed", '{"user_id": 7}', "<td>7</td>", "\x1a", NUL * 40, "   ", '""', "é", RTL,
]  # fmt: skip
"""Lines with fewer or more columns than any of these tables has, but for short ones."""


def _cell(what: str, table: str, column: str, cell: str, fate: str | None) -> Case:
    return Case(f"{what} {cell[:40]!r}", table, [{column: cell}], [fate])


def _ids(table: str, column: str, what: str, *, optional: bool = False) -> Iterator[Case]:
    for cell in _NUMBERS:
        yield _cell(what, table, column, cell, None)
    for cell in _BLANK:
        yield _cell(what, table, column, cell, None if optional else f"{what}_missing")
    for cell in _NO_NUMBERS:
        yield _cell(what, table, column, cell, f"{what}_not_a_number")


def kuaisar() -> Iterator[Case]:
    """Rows of KuaiSAR's files."""
    yield from _ids("recommendations", "user_id", "user")
    yield from _ids("recommendations", "item_id", "item")
    yield from _ids("searches", "user_id", "user")
    yield from _ids("searches", "search_session_id", "search")
    yield from _ids("searches", "item_id", "item", optional=True)
    for cell, fate, _ in _TIMES:
        yield _cell("time", "recommendations", "timestamp", cell, fate)
        yield _cell("time", "searches", "search_session_timestamp", cell, fate)
    for cell, fate, _ in _CLICKS:
        yield _cell("click", "recommendations", "click", cell, fate)
    for cell, fate in _COUNTS:
        yield _cell("click_cnt", "searches", "click_cnt", cell, fate)
    for cell, fate in _KEYWORDS:
        yield _cell("keyword", "searches", "keyword", cell, fate)
    for table in KUAISAR:
        for line in _SHREDS:
            yield Case(f"line {line[:40]!r}", table, [line], ["malformed_line"])
        header = ",".join(KUAISAR[table])
        yield Case("the header again", table, [header], [f"{'item' if table == 'items' else 'user'}_not_a_number"])
    yield from _together("search_session_timestamp", "keyword", "click_cnt", "[20]", "[34]")
    yield Case("an item that was shown twice", "searches", [{"click_cnt": "0"}, {"click_cnt": "1"}], [None, None])
    yield Case("counts of clicks that both mean yes", "searches", [{"click_cnt": "1"}, {"click_cnt": "2"}], [None, "duplicate"])
    yield Case("no word and no item", "searches", [{"keyword": "[]", "item_id": ""}], ["search_empty"])
    yield Case("nothing in it", "searches", [{"keyword": "", "item_id": "", "click_cnt": "0"}], ["search_empty"])
    yield Case("words alone", "searches", [{"item_id": ""}], [None])
    yield Case("an unknown type", "searches", [{"item_type": "COMMODITY", "search_source": ""}], [None])
    yield Case("handed out twice at once", "recommendations", [{}, {}, {"click": "0"}], [None, "duplicate", None])
    yield Case("handed out again later", "recommendations", [{}, {"timestamp": f"{NOON + 500_000_001}"}], [None, None])
    unread = {"playing_time": "nan", "duration_ms": "-1", "like": "x", "time": "", "search": NUL}
    yield Case("junk beside what is read", "recommendations", [unread], [None])
    yield Case("a click long before any search", "recommendations", [{"timestamp": "1600000000000"}], [None])
    yield Case("a search long after all", "searches", [{"search_session_timestamp": "1900000000000"}], [None])
    for cell, fate in _KEYWORDS:
        yield _cell("caption", "items", "caption", cell, fate and "caption_not_a_list")
    for cell in (*_BLANK, *_NO_NUMBERS):
        fate = "missing" if cell in _BLANK else "not_a_number"
        yield _cell("item", "items", "item_id", cell, f"item_{fate}")
        yield _cell("user", "users", "user_id", cell, f"user_{fate}")
    yield Case(
        "an item described twice", "items", [{"item_id": "800"}, {"item_id": "800.0", "caption": "[9]"}], [None, "item_duplicate"]
    )
    yield Case("a user described twice", "users", [{"user_id": "800"}, {"user_id": " 800"}], [None, "user_duplicate"])
    for cell in ("-124", "nan", "", "1e99", NUL, RTL):
        yield _cell("category", "items", "second_level_category_id", cell, None)
        yield _cell("feature", "users", "onehot_feat1", cell, None)


def tables() -> Iterator[Case]:
    """Rows of files of the event contract, whose ids and queries are any text."""
    for table, column, what in (
        ("recommendations", "user_id", "user"), ("recommendations", "item_id", "item"), ("searches", "user_id", "user"),
    ):  # fmt: skip
        for cell in _BLANK:
            yield _cell(what, table, column, cell, f"{what}_missing")
        for cell in (*_NO_NUMBERS, *_NUMBERS):
            yield _cell(what, table, column, cell, "id_not_text" if NUL in cell else None)
    for cell in (*_BLANK, *_NO_NUMBERS):
        yield _cell("item of a search", "searches", "item_id", cell, "id_not_text" if NUL in cell else None)
    for cell, _, fate in _TIMES:
        yield _cell("time", "recommendations", "timestamp", cell, fate)
        yield _cell("time", "searches", "timestamp", cell, fate)
    for cell, _, fate in _CLICKS:
        yield _cell("clicked", "recommendations", "clicked", cell, fate)
        yield _cell("clicked", "searches", "clicked", cell, fate)
    for cell, _ in _KEYWORDS:
        alone = None if any(c.isalnum() for c in cell) else "search_empty"
        yield _cell("query", "searches", "query", cell, None)
        yield Case(f"query without item {cell[:40]!r}", "searches", [{"query": cell, "item_id": ""}], [alone])
    for table in TABLES:
        for line in _SHREDS:
            if line.count(",") + 1 != len(TABLES[table]):
                yield Case(f"line {line[:40]!r}", table, [line], ["malformed_line"])
    yield from _together("timestamp", "query", "clicked", "red", "blue")
    yield Case("a query that went missing", "searches", [{}, {"query": "", "item_id": "j"}], [None, "search_inconsistent"])
    yield Case("handed out twice at once", "recommendations", [{}, {}, {"clicked": "0"}], [None, "duplicate", None])
    yield Case("handed out by another request", "recommendations", [{}, {"request_id": "r"}], [None, None])
    yield Case("an item described twice", "items", [{"item_id": "j"}, {"item_id": "j", "title": "x"}], [None, "item_duplicate"])
    yield Case("a user described twice", "users", [{"user_id": "v"}, {"user_id": "v"}], [None, "user_duplicate"])
    yield Case("an item without id", "items", [{"item_id": ""}, {"item_id": f"k{NUL}"}], ["item_missing", "id_not_text"])
    yield Case("a user without id", "users", [{"user_id": " "}, {"user_id": f"k{NUL}"}], ["user_missing", "id_not_text"])


def _together(time: str, query: str, clicked: str, one: str, other: str) -> Iterator[Case]:
    """Rows of one search; the names of its columns, and two queries."""
    later, item = f"{NOON + 7_000_000_001}", {"item_id": "12"}
    for what, changed in (("time", {time: later}), ("query", {query: other}), ("time and query", {time: later, query: other})):
        yield Case(f"a session whose rows disagree on its {what}", "searches", [{query: one}, {query: one, **item, **changed}],
                   [None, "search_inconsistent"])  # fmt: skip
    second, third = {time: later, "item_id": "12"}, {time: later, "item_id": "13"}
    yield Case("a session whose later rows disagree with its first", "searches", [{}, second, third],
               [None, "search_inconsistent", "search_inconsistent"])  # fmt: skip
    yield Case("a session whose first row is refused", "searches", [{time: ""}, {query: one}, {query: one, **item}],
               ["time_missing", None, None])  # fmt: skip
    yield Case("the same number of another user", "searches", [{}, {"user_id": "8", time: later, query: other}], [None, None])
    yield Case("the same row twice", "searches", [{}, {}, {}], [None, "duplicate", "duplicate"])
    yield Case("a second item", "searches", [{}, {**item, clicked: "0"}], [None, None])


# -- whole files ----------------------------------------------------------------------------------------------------------


class File(NamedTuple):
    """What is done to the bytes of a good file of 20 rows; and what becomes of it.

    ``fate``: words of the refusal, or the lines that are quarantined with their reasons. ``suffix``: another name's end.
    """

    what: str
    change: Callable[[bytes], bytes]
    fate: str | dict[int, str]
    suffix: str = "csv"
    lines: int = 0
    """Rows that the file has more."""


def _lines(content: bytes) -> list[bytes]:
    return content.split(b"\n")[:-1]


def _join(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def _with(place: int, *more: bytes) -> Callable[[bytes], bytes]:
    """Lines put in before line ``place`` (the header being 1)."""
    return lambda content: _join([*_lines(content)[: place - 1], *more, *_lines(content)[place - 1 :]])


def _cut(share: float, less: int = 0) -> Callable[[bytes], bytes]:
    def cut(content: bytes) -> bytes:
        packed = gzip.compress(content, mtime=0)
        return packed[: round(len(packed) * share) - less]

    return cut


def _zipped(content: bytes) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as packed:
        packed.writestr("rec_inter.csv", content)
    return held.getvalue()


def _parquet(content: bytes) -> bytes:
    held = io.BytesIO()
    pq.write_table(pa.table({"user_id": [1] * 500, "text": [content.decode()] * 500}), held)
    return held.getvalue()


def files() -> Iterator[File]:
    """Damage to the recommendations' file that any source meets. All cells but those named are good."""
    yield File("as it should be", lambda c: c, {})
    yield File("nothing in it", lambda _: b"", "is empty")
    yield File("one line end", lambda _: b"\n", "does not start with a header line")
    yield File("blanks", lambda _: b"   \n  \n", "does not start with a header line")
    yield File("a blank line on top", lambda c: b"\n" + c, "does not start with a header line")
    yield File("the header alone", lambda c: _join(_lines(c)[:1]), "header but no readable rows")
    yield File("a header that does not end", lambda c: _lines(c)[0], "header but no readable rows")
    yield File("no header", lambda c: _join(_lines(c)[1:]), "no column|names the column 0 twice")
    yield File("a remark on top", lambda c: b"# exported 2023\n" + c, "no column|no readable rows")
    yield File("a separator on top", lambda c: b"sep=,\n" + c, "no column|no readable rows")
    yield File(
        "a page of the web", lambda _: b"<!DOCTYPE html>\n<html><body>Not found</body></html>\n", "no column|no readable rows"
    )
    yield File("a message", lambda _: b"curl: (22) The requested URL returned error: 404\n", "no column|no readable rows")
    yield File("a column twice", lambda c: c.replace(b"item_id", b"user_id", 1), "names the column user_id twice")
    yield File("a column twice in other letters", lambda c: c.replace(b"item_id", b"USER_ID", 1), "twice")
    yield File("a column twice but for blanks", lambda c: c.replace(b"item_id", b" user_id ", 1), "twice")
    yield File("a header of 2 MB", lambda c: b"x" * (2 << 20) + b"," + c, "does not start with a header line")
    yield File("a header without its quote's end", lambda c: b'"' + c, "no column|no readable rows")
    yield File("UTF-16 with its mark", lambda c: c.decode().encode("utf-16"), "is UTF-16, not UTF-8")
    yield File("UTF-16LE", lambda c: c.decode().encode("utf-16-le"), "is UTF-16LE, not UTF-8")
    yield File("UTF-16BE", lambda c: c.decode().encode("utf-16-be"), "is UTF-16BE, not UTF-8")
    yield File("UTF-32", lambda c: c.decode().encode("utf-32"), "not UTF-8")
    yield File("zeros", lambda _: bytes(4096), "not UTF-8|not a table")
    yield File("random bytes", lambda _: bytes((i * 193 + i // 7) % 256 for i in range(4096)), "not UTF-8|not a table")
    yield File("a line in Latin-1", _with(5, b"caf\xe9" + b",1" * 40), r"is not UTF-8 text \(line 5\)")
    yield File("a line in GBK", _with(9, "快手".encode("gbk")), r"is not UTF-8 text \(line 9\)")
    mixed = "é".encode(), "é".encode("latin-1"), "鞋".encode("utf-16-le")
    yield File("three encodings", _with(4, *mixed), r"is not UTF-8 text \(line 5\)")
    yield File("half a surrogate", _with(6, b"\xed\xa0\x80"), r"is not UTF-8 text \(line 6\)")
    yield File("a letter spelt too long", _with(6, b"\xc0\xaf"), r"is not UTF-8 text \(line 6\)")
    yield File("a letter cut in two at the end", lambda c: c + "é".encode()[:1], r"is not UTF-8 text \(line 22\)")
    yield File("a BOM", lambda c: b"\xef\xbb\xbf" + c, {})
    yield File("a BOM and CRLF", lambda c: b"\xef\xbb\xbf" + c.replace(b"\n", b"\r\n"), {})
    yield File("CRLF", lambda c: c.replace(b"\n", b"\r\n"), {})
    yield File("CR alone", lambda c: c.replace(b"\n", b"\r"), {})
    yield File("CRLF in one half", lambda c: c[: len(c) // 2].replace(b"\n", b"\r\n") + c[len(c) // 2 :], {})
    yield File("no last line end", lambda c: c[:-1], {})
    yield File("blank lines at the end", lambda c: c + b"\n\n\r\n", {})
    yield File("blank lines between", _with(4, b"", b""), {})
    bad = b"", b"bad", b"", b"", b"worse"
    yield File("blank lines and bad ones", _with(4, *bad), dict.fromkeys((5, 8), "malformed_line"), lines=2)
    stray = b'7,"7" and more' + b",1" * 40
    for line in (2, 4, 20):
        yield File(f"a stray quote on line {line}", _with(line, stray), {line: "malformed_line"}, lines=1)
    yield File("a line of blanks", _with(4, b"    "), {4: "malformed_line"}, lines=1)
    yield File("the last line cut", lambda c: c[: len(c) - 12], {21: "malformed_line"})
    yield File("zeros at the end", lambda c: c + bytes(512), {22: "malformed_line"}, lines=1)
    yield File("the end of a DOS file", lambda c: c + b"\x1a", {22: "malformed_line"}, lines=1)
    marks = b"<<<<<<< HEAD", b"=======", b">>>>>>> theirs"
    yield File("marks of a conflict", _with(8, *marks), dict.fromkeys((8, 9, 10), "malformed_line"), lines=3)
    yield File("a line of 300,000 columns", _with(3, b"7" + b",1" * 300_000), {3: "malformed_line"}, lines=1)
    yield File("a line of 3 MB", _with(3, b"7" * (3 << 20)), {3: "malformed_line"}, lines=1)
    yield File("a quote that is never closed", _with(21, b'"7'), {21: "malformed_line"}, lines=1)
    none = "no readable rows: line 2 does not split"
    yield File("a comma at the end of every line", lambda c: _join([_lines(c)[0], *(line + b"," for line in _lines(c)[1:])]), {})
    yield File("a column more in every line", lambda c: _join([_lines(c)[0], *(line + b",7" for line in _lines(c)[1:])]), none)
    yield File("a column less in every line", lambda c: _join([_lines(c)[0], *(b"7" for line in _lines(c)[1:])]), none)
    yield File("semicolons", lambda c: c.replace(b",", b";"), {})
    yield File("tabs", lambda c: c.replace(b",", b"\t"), {})
    yield File("bars", lambda c: c.replace(b",", b"|"), {})
    yield File("blanks around names", lambda c: c.replace(b",", b" , ", 3), {})
    yield File("names in capitals", lambda c: _join([_lines(c)[0].upper(), *_lines(c)[1:]]), {})
    yield File("names with types", lambda c: _join([_lines(c)[0].replace(b",", b":token,"), *_lines(c)[1:]]), {})
    yield File("names in quotes", lambda c: _join([b'"' + _lines(c)[0].replace(b",", b'","') + b'"', *_lines(c)[1:]]), {})
    yield File("a column too many, everywhere", lambda c: _join([line + b"," for line in _lines(c)]), {})
    yield File("an unknown column in Hebrew", lambda c: _join([line + ",שם".encode() for line in _lines(c)]), {})
    yield File("a column named line", lambda c: c.replace(b"\n", b",99\n").replace(b",99\n", b",line\n", 1), {})
    yield File("gzip under its name", gzip.compress, {}, "csv.gz")
    yield File("gzip in two parts", lambda c: gzip.compress(c[:100]) + gzip.compress(c[100:]), {}, "csv.gz")
    yield File("gzip with a BOM", lambda c: gzip.compress(b"\xef\xbb\xbf" + c), {}, "csv.gz")
    for less in (1, 4, 8, 9, 20):
        yield File(f"gzip {less} bytes short", _cut(1, less), "annot (be )?read", "csv.gz")
    for share in (0.9, 0.5, 0.1):
        yield File(f"gzip cut after {share:.0%}", _cut(share), "annot (be )?read", "csv.gz")
    yield File("nothing under the name of gzip", lambda _: b"", "is empty", "csv.gz")
    yield File("text under the name of gzip", lambda c: c, "annot (be )?read", "csv.gz")
    yield File("gzip under the name of text", gzip.compress, "not UTF-8|not a table")
    yield File("zip under the name of text", _zipped, "not UTF-8|not a table")
    yield File("Parquet cut short", lambda c: _parquet(c)[:900], "cannot be read")
    yield File("text that begins like Parquet", lambda c: b"PAR1" + c, "cannot be read")
    yield File("JSON", lambda _: json.dumps([{"user_id": 1}]).encode(), "not a table of delimited text")
    yield File("JSON lines", lambda _: b'{"user_id": 1}\n{"user_id": 2}\n', "not a table of delimited text")
    yield File("a picture", lambda _: b"\x89PNG\r\n\x1a\n" + bytes(64), "not UTF-8|not a table")
    yield File("a database", lambda _: b"SQLite format 3\0" + bytes(64), "not UTF-8|not a table")

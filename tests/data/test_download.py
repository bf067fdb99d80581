"""Downloads from a publisher on loopback, who drops connections, is busy, lies and redirects."""

import hashlib
import json
import random
import resource
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections import defaultdict
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.error import URLError

import pytest
from rich.console import Console

from seerec.data import download as module
from seerec.data import web
from seerec.data.download import DATASETS, PUBLISHERS, download
from seerec.errors import DiskError, SeerecError
from seerec.progress import BYTES, Bar, Progress

SIZE = 300_001
ARCHIVE = random.Random(0).randbytes(SIZE)
PLACE = "/files/KuaiSAR.zip/content"
NEW, OLD = "/api/records/8181109", "/api/records/8031220"
TREE = "/api/datasets/THUIR/Qilin/tree/main"
FOLDERS = ("search_train", "search_test", "recommendation_train", "recommendation_test", "notes", "user_feat")


class Answers(BaseHTTPRequestHandler):
    """Answers as the publisher's script says, and else as a good server does."""

    def do_GET(self):
        publisher = self.server.publisher
        path = self.path.partition("?")[0]
        publisher.requests.append((self.path, dict(self.headers)))
        script = publisher.script[path]
        step = script.pop(0) if len(script) > 1 or (script and not script[0].get("always")) else (script or [{}])[0]
        content, headers = publisher.pages.get(self.path) or publisher.pages.get(path) or (None, {})
        if step.get("during"):
            step["during"]()
        if "status" in step or content is None:
            self.send_response(step.get("status", 404))
            for name, value in {"Content-Length": "0", **step.get("headers", {})}.items():
                self.send_header(name, value)
            self.end_headers()
            return
        self.give(step, step.get("content", content), {**headers, **step.get("headers", {})})

    def give(self, step, content, headers):
        asked, tag = self.headers.get("Range"), headers.get("ETag")
        start, whole = 0, len(content)
        fresh = self.headers.get("If-Range") in (None, tag)
        if asked and fresh and not step.get("ignores_range"):
            start = step.get("start", int(asked.removeprefix("bytes=").removesuffix("-")))
            if start >= whole:
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{step.get('claims', whole)}")
        else:
            self.send_response(200)
        body = content[start:]
        if not step.get("chunked"):
            self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: step.get("drop_after", len(body))])
        if step.get("then"):
            step["then"]()
        if step.get("reset"):
            self.wfile.flush()
            time.sleep(0.05)  # so that what was sent arrives before the reset
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def log_message(self, *_):
        pass


class Publisher(ThreadingHTTPServer):
    """Both publishers on one port: ``pages`` are path to (content, headers), ``script`` path to the next answers."""

    daemon_threads = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.publisher = self
        self.pages, self.script, self.requests = {}, defaultdict(list), []
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.base = {"zenodo": self.url, "huggingface": self.url}

    def handle_error(self, *_):
        pass  # a client that hung up

    def has_archive(self, content=ARCHIVE, key="KuaiSAR.zip", record=NEW, place=PLACE, **changed):
        """A Zenodo record with an archive."""
        entry = {
            "key": key,
            "size": len(content),
            "checksum": f"md5:{hashlib.md5(content).hexdigest()}",
            "links": {"self": self.url + place},
            **changed,
        }
        other = {"key": "readme.md", "size": 3, "checksum": "md5:" + "0" * 32, "links": {"self": f"{self.url}/readme.md"}}
        self.pages[record] = (json.dumps({"id": 1, "files": [other, entry]}).encode(), {"Content-Type": "application/json"})
        self.pages[place] = (content, {"ETag": f'"{entry["checksum"]}"'})

    def has_tree(self, files, extra=(), per_page=3):
        """A Hugging Face tree over several pages."""
        listed = [{"type": "directory", "oid": "0", "size": 0, "path": folder} for folder in FOLDERS]
        for path, content in files.items():
            lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
            listed.append({"type": "file", "oid": "0" * 40, "size": len(content), "lfs": lfs, "path": path})
            self.pages[f"/datasets/THUIR/Qilin/resolve/main/{path}"] = (content, {})
        listed += extra
        starts = list(range(0, len(listed), per_page))
        for number, start in enumerate(starts):
            address = f"{TREE}?recursive=true" + (f"&cursor=c{number}%3D" if number else "")
            follows = f'<{self.url}{TREE}?recursive=true&cursor=c{number + 1}%3D>; rel="next"'
            headers = {"Link": follows} if start != starts[-1] else {}
            self.pages[address] = (json.dumps(listed[start : start + per_page]).encode(), headers)

    def asked(self, path=PLACE):
        """Headers of the requests for a path."""
        return [headers for found, headers in self.requests if found.partition("?")[0] == path]


@pytest.fixture
def publisher(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    server = Publisher()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """The seconds that would have been waited."""
    waited = []
    monkeypatch.setattr(web, "sleep", waited.append)
    return waited


def fetch(publisher, out, name="kuaisar-small", **changed):
    return download(name, out, accepted=True, base=publisher.base, **changed)


def refused(publisher, out, match, name="kuaisar-small", **changed):
    with pytest.raises(SeerecError, match=match) as found:
        fetch(publisher, out, name, **changed)
    assert found.value.fix.endswith(".")
    return found.value


class Noted(Progress):
    """Keeps what the bars were told."""

    def __init__(self):
        super().__init__(shown=False)
        self.tasks = []

    @contextmanager
    def task(self, label, total, unit, done=0):
        told = SimpleNamespace(label=label, total=total, unit=unit, done=done, notes=[])
        self.tasks.append(told)
        bar = Bar(None, 0, unit)
        bar.advance = lambda count, **_: setattr(told, "done", told.done + count)
        bar.note = told.notes.append
        yield bar


def qilin():
    names = {f"{folder}/train-00000-of-00001.parquet": folder.encode() * 50 for folder in FOLDERS}
    return {**names, "notes/train-00001-of-00002.parquet": b"more notes"}


# -- what is downloaded -------------------------------------------------------------------------------------------------


def test_an_archive_arrives_whole_and_a_second_run_is_offline(publisher, tmp_path):
    publisher.has_archive()
    found = fetch(publisher, tmp_path / "raw" / "kuaisar")
    target = tmp_path / "raw" / "kuaisar" / "KuaiSAR.zip"
    assert target.read_bytes() == ARCHIVE
    assert found.files == (target,)
    assert (found.size, found.new) == (SIZE, 1)
    assert sorted(path.name for path in target.parent.iterdir()) == ["KuaiSAR.zip", "downloads.json"]
    kept = json.loads((target.parent / "downloads.json").read_text())["kuaisar-small"]
    entry = kept["files"]["KuaiSAR.zip"]
    assert entry.pop("date") <= datetime.now(UTC).isoformat()
    assert entry == {"url": publisher.url + PLACE, "size": SIZE, "checksum": f"md5:{hashlib.md5(ARCHIVE).hexdigest()}"}
    assert kept["licence"] == "CC BY-NC-SA 4.0"

    publisher.requests.clear()
    again = fetch(publisher, target.parent)
    assert (again.files, again.new) == (found.files, 0)
    assert publisher.requests == []
    assert again.report() == {
        "dataset": "kuaisar-small", "folder": str(target.parent), "files": ["KuaiSAR.zip"], "bytes": SIZE, "new": 0
    }  # fmt: skip


@pytest.mark.parametrize(("name", "key"), [("kuaisar-small", "KuaiSAR.zip"), ("kuaisar-large", "KuaiSAR_v2.zip")])
def test_the_newest_record_that_has_the_archive_gives_it(publisher, tmp_path, name, key):
    publisher.has_archive(b"new", key="another.zip", record=NEW, place="/files/another")
    publisher.has_archive(b"old", key=key, record=OLD, place="/files/old")
    assert fetch(publisher, tmp_path / "a", name).files[0].read_bytes() == b"old"
    publisher.has_archive(b"new", key=key, record=NEW, place="/files/new")
    assert fetch(publisher, tmp_path / "b", name).files[0].read_bytes() == b"new"
    del publisher.pages[NEW]
    assert fetch(publisher, tmp_path / "c", name).files[0].read_bytes() == b"old"
    del publisher.pages[OLD]
    refused(publisher, tmp_path / "d", f"no {key} in record 8181109 or 8031220", name)


def test_qilin_is_six_folders_of_a_paged_tree_without_images(publisher, tmp_path):
    images = {"type": "file", "size": 9, "lfs": {"oid": "0" * 64}, "path": "image/part-0.zip"}
    answers = {"type": "file", "size": 9, "lfs": {"oid": "0" * 64}, "path": "dqa/train-00000-of-00001.parquet"}
    card = {"type": "file", "size": 9, "oid": "1" * 40, "path": "README.md"}
    publisher.has_tree(qilin(), extra=[images, answers, card])
    found = fetch(publisher, tmp_path, "qilin")
    assert {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in found.files} == qilin()
    assert len(publisher.asked(TREE)) > 3
    assert {path.name for path in tmp_path.iterdir()} == {*FOLDERS, "downloads.json"}

    lost = tmp_path / "notes" / "train-00001-of-00002.parquet"
    lost.unlink()
    publisher.requests.clear()
    assert fetch(publisher, tmp_path, "qilin").new == 1
    assert lost.is_file()
    assert [path for path, _ in publisher.requests if "/resolve/" in path] == [
        "/datasets/THUIR/Qilin/resolve/main/notes/train-00001-of-00002.parquet"
    ]


def test_several_data_sets_may_share_a_folder(publisher, tmp_path):
    publisher.has_archive(b"small", record=OLD)
    publisher.has_archive(b"large", key="KuaiSAR_v2.zip", place="/files/large")
    fetch(publisher, tmp_path, "kuaisar-small")
    fetch(publisher, tmp_path, "kuaisar-large")
    publisher.requests.clear()
    assert fetch(publisher, tmp_path, "kuaisar-small").files[0].read_bytes() == b"small"
    assert fetch(publisher, tmp_path, "kuaisar-large").files[0].read_bytes() == b"large"
    assert publisher.requests == []


def test_an_empty_file_is_a_file(publisher, tmp_path):
    publisher.has_archive(b"")
    assert fetch(publisher, tmp_path).files[0].read_bytes() == b""


@pytest.mark.parametrize("name", DATASETS)
def test_nothing_happens_before_the_licence_is_accepted(publisher, tmp_path, name):
    with pytest.raises(SeerecError) as found:
        download(name, tmp_path / "out", accepted=False, base=publisher.base)
    for part in (DATASETS[name].title, DATASETS[name].licence, DATASETS[name].licence_url, "--accept-licence"):
        assert part in str(found.value)
    assert publisher.requests == []
    assert not (tmp_path / "out").exists()


def test_an_unknown_name_is_refused_with_the_known_ones(publisher, tmp_path):
    assert "kuaisar-small, kuaisar-large, qilin" in str(refused(publisher, tmp_path, "no data set netflix", "netflix"))


def test_every_data_set_names_https_and_a_publisher():
    for dataset in DATASETS.values():
        assert dataset.home.startswith("https://")
        assert dataset.licence_url.startswith("https://")
        assert PUBLISHERS[dataset.publisher].startswith("https://")


# -- interruptions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True])
def test_a_dropped_connection_goes_on_where_it_stopped(publisher, tmp_path, pauses, reset):
    publisher.has_archive()
    publisher.script[PLACE] = [{"drop_after": 100_000, "reset": reset}, {"drop_after": 7, "reset": reset}]
    assert fetch(publisher, tmp_path).files[0].read_bytes() == ARCHIVE
    first, second, third = publisher.asked()
    tag = f'"md5:{hashlib.md5(ARCHIVE).hexdigest()}"'
    assert "Range" not in first
    assert (second["Range"], second["If-Range"]) == ("bytes=100000-", tag)
    assert third["Range"] == "bytes=100007-"
    assert pauses == [1.0, 1.0]


def test_every_new_byte_starts_the_count_again(publisher, tmp_path):
    publisher.has_archive()
    publisher.script[PLACE] = [{"drop_after": 10_000}] * 25
    assert fetch(publisher, tmp_path).files[0].read_bytes() == ARCHIVE
    assert len(publisher.asked()) == 26


def test_a_server_that_stays_away_ends_the_run_and_the_next_run_goes_on(publisher, tmp_path, pauses):
    publisher.has_archive()
    publisher.script[PLACE] = [{"drop_after": 120_000}, {"status": 503, "always": True}]
    refused(publisher, tmp_path, "answers 503 Service Unavailable, 8 times in a row")
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0]
    assert (tmp_path / "KuaiSAR.zip.part").read_bytes() == ARCHIVE[:120_000]
    assert not (tmp_path / "KuaiSAR.zip").exists()
    publisher.script.clear()
    publisher.requests.clear()
    assert fetch(publisher, tmp_path).files[0].read_bytes() == ARCHIVE
    assert [headers["Range"] for headers in publisher.asked()] == ["bytes=120000-"]


def test_a_server_that_never_gets_further_is_given_up(publisher, tmp_path):
    publisher.has_archive()
    publisher.script[PLACE] = [{"drop_after": 1000, "ignores_range": True, "always": True}]
    refused(publisher, tmp_path, "8 times in a row")
    assert len(publisher.asked()) == 8


def test_an_interrupt_keeps_what_arrived(publisher, tmp_path):
    class Interrupted(Progress):
        @contextmanager
        def task(self, *_, **__):
            bar = Bar(None, 0, "")
            bar.note = lambda _: (_ for _ in ()).throw(KeyboardInterrupt)
            yield bar

    publisher.has_archive()
    publisher.script[PLACE] = [{"drop_after": 50_000}]
    with pytest.raises(KeyboardInterrupt):
        fetch(publisher, tmp_path, progress=Interrupted(shown=False))
    assert (tmp_path / "KuaiSAR.zip.part").read_bytes() == ARCHIVE[:50_000]
    assert fetch(publisher, tmp_path).new == 1


def test_a_killed_download_leaves_no_lock_and_goes_on(publisher, tmp_path):
    publisher.has_archive()
    killed = threading.Event()
    publisher.script[PLACE] = [{"drop_after": 200_000, "then": lambda: killed.wait(30)}]
    code = "import sys; from pathlib import Path; from seerec.data.download import download; "
    code += "download('kuaisar-small', Path(sys.argv[1]), accepted=True, base={'zenodo': sys.argv[2]})"
    part = tmp_path / "KuaiSAR.zip.part"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path), publisher.url]) as child:
        try:
            deadline = time.monotonic() + 30
            while not (part.is_file() and part.stat().st_size > 100_000) and time.monotonic() < deadline:
                time.sleep(0.01)
            refused(publisher, tmp_path, "Another download is running in")
        finally:
            child.kill()
            killed.set()
    have = part.stat().st_size
    assert have > 100_000
    assert fetch(publisher, tmp_path).files[0].read_bytes() == ARCHIVE
    assert publisher.asked()[-1]["Range"] == f"bytes={have}-"


def test_a_server_is_waited_for_as_long_as_it_asks(publisher, tmp_path, pauses):
    publisher.has_archive()
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    waits = [{"Retry-After": "17"}, {"Retry-After": date}, {"Retry-After": "soon"}, {}]
    publisher.script[PLACE] = [{"status": 429, "headers": wait} for wait in waits]
    assert fetch(publisher, tmp_path).files[0].read_bytes() == ARCHIVE
    assert pauses[0] == 17
    assert 95 < pauses[1] <= 100
    assert pauses[2:] == [4, 8]


def test_a_server_that_asks_for_hours_ends_the_run(publisher, tmp_path, pauses):
    publisher.has_archive()
    publisher.script[PLACE] = [{"status": 429, "headers": {"Retry-After": "7200"}}]
    refused(publisher, tmp_path, "asks to wait 120 minutes")
    assert pauses == []


def test_the_list_is_asked_for_again_too_but_not_as_often(publisher, tmp_path, pauses):
    publisher.has_archive()
    publisher.script[NEW] = [{"status": 502}, {"drop_after": 20}, {"content": b"<html>"}]
    assert fetch(publisher, tmp_path / "a").new == 1
    assert pauses == [1.0, 2.0, 4.0]
    publisher.script[NEW] = [{"status": 503, "always": True}]
    refused(publisher, tmp_path / "b", "503 Service Unavailable, 4 times")


def test_a_publisher_out_of_reach_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(SeerecError, match=r"127\.0\.0\.1 cannot be reached .*refused.*4 times"):
        download("kuaisar-small", tmp_path, accepted=True, base={"zenodo": f"http://127.0.0.1:{port}"})


# -- ranges -------------------------------------------------------------------------------------------------------------


def test_a_server_that_ignores_ranges_starts_again(publisher, tmp_path):
    publisher.has_archive()
    publisher.script[PLACE] = [{"drop_after": 100_000}, {"ignores_range": True}]
    assert fetch(publisher, tmp_path).files[0].read_bytes() == ARCHIVE


def test_a_changed_tag_starts_again(publisher, tmp_path):
    publisher.has_archive()
    publisher.script[PLACE] = [{"drop_after": 100_000, "headers": {"ETag": '"other"'}}]
    assert fetch(publisher, tmp_path).files[0].read_bytes() == ARCHIVE
    assert [headers.get("If-Range") for headers in publisher.asked()] == [None, '"other"']


def test_a_weak_tag_is_not_asked_for(publisher, tmp_path):
    publisher.has_archive()
    publisher.script[PLACE] = [{"drop_after": 100_000, "headers": {"ETag": 'W/"weak"'}}]
    assert fetch(publisher, tmp_path).files[0].read_bytes() == ARCHIVE
    assert [(headers.get("Range"), headers.get("If-Range")) for headers in publisher.asked()][1] == ("bytes=100000-", None)


def test_a_range_that_cannot_be_satisfied_starts_again(publisher, tmp_path):
    publisher.has_archive()
    publisher.script[PLACE] = [{"drop_after": 100_000}, {"status": 416}, {"status": 416}]
    assert fetch(publisher, tmp_path).files[0].read_bytes() == ARCHIVE
    assert [headers.get("Range") for headers in publisher.asked()] == [None, "bytes=100000-", None, None]


@pytest.mark.parametrize("wrong", [{"start": 5}, {"claims": 7}])
def test_another_range_than_asked_for_starts_again(publisher, tmp_path, wrong):
    publisher.has_archive()
    publisher.script[PLACE] = [{"drop_after": 100_000}, wrong]
    noted = Noted()
    assert fetch(publisher, tmp_path, progress=noted).files[0].read_bytes() == ARCHIVE
    assert "answers another range than asked for" in noted.tasks[-1].notes[1]


def test_a_page_in_place_of_the_file_is_never_written(publisher, tmp_path):
    publisher.has_archive()
    publisher.script[PLACE] = [{"drop_after": 100_000}] + [{"content": b"<html>log in", "ignores_range": True}] * 8
    refused(publisher, tmp_path, f"offers 12 bytes in place of the published {SIZE}")
    assert (tmp_path / "KuaiSAR.zip.part").read_bytes() == ARCHIVE[:100_000]


def test_a_body_without_length_is_read_to_the_published_size(publisher, tmp_path):
    publisher.has_archive()
    publisher.script[PLACE] = [{"chunked": True, "drop_after": 5}, {"chunked": True, "content": ARCHIVE + b"and more"}]
    assert fetch(publisher, tmp_path).files[0].read_bytes() == ARCHIVE


@pytest.mark.parametrize("size", [SIZE, SIZE + 1])
def test_a_part_of_full_length_needs_no_bytes_and_a_longer_one_starts_again(publisher, tmp_path, size):
    publisher.has_archive()
    publisher.script[PLACE] = [{"drop_after": 10}, {"status": 404}]
    refused(publisher, tmp_path, "404 Not Found")
    (tmp_path / "KuaiSAR.zip.part").write_bytes((ARCHIVE + b"x")[:size])
    publisher.requests.clear()
    assert fetch(publisher, tmp_path).files[0].read_bytes() == ARCHIVE
    assert [headers.get("Range") for headers in publisher.asked()] == ([] if size == SIZE else [None])


# -- checksums ----------------------------------------------------------------------------------------------------------


def test_a_wrong_checksum_is_brought_once_more(publisher, tmp_path):
    publisher.has_archive()
    publisher.script[PLACE] = [{"content": b"!" + ARCHIVE[1:]}]
    assert fetch(publisher, tmp_path).files[0].read_bytes() == ARCHIVE
    assert len(publisher.asked()) == 2


def test_a_wrong_checksum_twice_is_an_error_and_leaves_nothing(publisher, tmp_path):
    publisher.has_archive()
    publisher.script[PLACE] = [{"content": b"!" + ARCHIVE[1:], "always": True}]
    refused(publisher, tmp_path, "KuaiSAR.zip arrived twice without its published checksum")
    assert len(publisher.asked()) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["downloads.json"]


def test_a_damaged_file_and_a_damaged_part_are_brought_again(publisher, tmp_path):
    publisher.has_archive()
    target = tmp_path / "KuaiSAR.zip"
    fetch(publisher, tmp_path)
    target.write_bytes(ARCHIVE[:-1] + b"!")
    (tmp_path / "KuaiSAR.zip.part").write_bytes(b"!" * 1000)
    assert fetch(publisher, tmp_path).new == 1
    assert target.read_bytes() == ARCHIVE


def test_a_file_that_was_brought_by_hand_is_recognised(publisher, tmp_path):
    publisher.has_archive()
    (tmp_path / "KuaiSAR.zip").write_bytes(ARCHIVE)
    assert fetch(publisher, tmp_path).new == 0
    assert publisher.asked() == []
    publisher.requests.clear()
    assert fetch(publisher, tmp_path).new == 0
    assert publisher.requests == []


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"kuaisar-small": {"files": {"../x": {}}}}', b'{"kuaisar-small": 3}'])
def test_a_damaged_record_is_made_anew(publisher, tmp_path, content):
    publisher.has_archive()
    fetch(publisher, tmp_path)
    (tmp_path / "downloads.json").write_bytes(content)
    publisher.requests.clear()
    assert fetch(publisher, tmp_path).new == 0
    assert publisher.asked() == []
    assert "KuaiSAR.zip" in json.loads((tmp_path / "downloads.json").read_text())["kuaisar-small"]["files"]


def test_a_changed_publication_never_mixes_with_the_old_one(publisher, tmp_path):
    publisher.has_tree(qilin())
    fetch(publisher, tmp_path, "qilin")
    (tmp_path / "notes" / "train-00001-of-00002.parquet").unlink()
    publisher.has_tree({**qilin(), "user_feat/train-00000-of-00001.parquet": b"changed"})
    refused(publisher, tmp_path, "Qilin was changed by its publisher after .*user_feat", "qilin")


def test_the_part_of_a_changed_file_is_not_continued(publisher, tmp_path):
    publisher.has_archive()
    publisher.script[PLACE] = [{"drop_after": 100_000}, {"status": 403}]
    refused(publisher, tmp_path, "403 Forbidden")
    publisher.has_archive(b"changed" * 50_000)
    publisher.requests.clear()
    assert fetch(publisher, tmp_path).files[0].read_bytes() == b"changed" * 50_000
    assert "Range" not in publisher.asked()[0]


# -- addresses ----------------------------------------------------------------------------------------------------------


def test_redirects_are_followed_and_the_range_goes_along(publisher, tmp_path):
    publisher.has_archive()
    publisher.pages["/cdn/archive"] = publisher.pages[PLACE]
    publisher.script[PLACE] = [{"status": 302, "headers": {"Location": "/cdn/archive?signature=1"}, "always": True}]
    publisher.script["/cdn/archive"] = [{"drop_after": 100_000}]
    assert fetch(publisher, tmp_path).files[0].read_bytes() == ARCHIVE
    assert [headers.get("Range") for headers in publisher.asked("/cdn/archive")] == [None, "bytes=100000-"]


@pytest.mark.parametrize("place", ["http://example.org/x", "ftp://127.0.0.1/x", "http://127.0.0.1.example.org/x"])
def test_a_redirect_away_from_https_is_refused(publisher, tmp_path, place):
    publisher.has_archive()
    publisher.script[PLACE] = [{"status": 302, "headers": {"Location": place}}]
    refused(publisher, tmp_path, "leads to .*, which is not https")


@pytest.mark.parametrize("place", ["http://example.org/x", "file:///etc/hostname", "//nowhere", "x", 7, None])
def test_a_list_that_leads_elsewhere_is_refused(publisher, tmp_path, place):
    publisher.has_archive(links={"self": place})
    refused(publisher, tmp_path, "not https|does not list files as it used to")


def test_a_certificate_that_does_not_hold_is_not_waited_for(tmp_path, pauses, monkeypatch):
    wrong = ssl.SSLCertVerificationError(1, "certificate verify failed")
    wrong.verify_message = "certificate has expired"

    def fail(*_, **__):
        raise URLError(wrong)

    monkeypatch.setattr(web, "build_opener", lambda _: SimpleNamespace(open=fail))
    with pytest.raises(SeerecError, match=r"certificate of zenodo\.org does not hold: certificate has expired"):
        download("kuaisar-small", tmp_path, accepted=True)
    assert pauses == []


@pytest.mark.parametrize(
    ("url", "origin", "allowed"),
    [
        ("https://example.org/x", None, True),
        ("https://example.org/x", "http://127.0.0.1/", True),
        ("http://[::1]:8000/x", None, True),
        ("http://localhost/x", "https://example.org/", False),
        ("https:///x", None, False),
        ("HTTP://EXAMPLE.ORG", None, False),
    ],
)
def test_only_https_and_loopback_that_began_on_loopback(url, origin, allowed):
    if allowed:
        web.require_https(url, origin)
    else:
        with pytest.raises(SeerecError, match="not https"):
            web.require_https(url, origin)


@pytest.mark.parametrize(
    "path", ["notes/../../x.parquet", "notes//x.parquet", "notes/\\x.parquet", "notes/a b.parquet", "notes/.x.parquet"]
)
def test_a_path_that_could_leave_the_folder_is_refused(publisher, tmp_path, path):
    entry = {"type": "file", "size": 1, "lfs": {"oid": "0" * 64}, "path": path}
    publisher.has_tree(qilin(), extra=[entry])
    refused(publisher, tmp_path / "out", "does not list files as it used to", "qilin")
    assert [found.name for found in tmp_path.rglob("*")] == ["out"]


@pytest.mark.parametrize("changed", [{"size": "9"}, {"size": -1}, {"size": True}, {"checksum": "crc:1"}, {"checksum": None}])
def test_a_list_in_another_form_is_refused(publisher, tmp_path, changed):
    publisher.has_archive(**changed)
    refused(publisher, tmp_path, "does not list files as it used to")


def test_trees_in_another_form_are_refused(publisher, tmp_path):
    files = qilin()
    publisher.has_tree({path: content for path, content in files.items() if not path.startswith("notes/")})
    refused(publisher, tmp_path / "a", "no Parquet files in notes", "qilin")
    plain = {"type": "file", "size": 1, "oid": "0" * 40, "path": "notes/small.parquet"}
    publisher.has_tree(files, extra=[plain])
    refused(publisher, tmp_path / "b", "KeyError: 'lfs'", "qilin")
    first = f"{TREE}?recursive=true"
    publisher.pages[first] = (publisher.pages[first][0], {"Link": f'<{first}>; rel="next"'})
    refused(publisher, tmp_path / "c", "pages go in a circle", "qilin")


# -- this machine -------------------------------------------------------------------------------------------------------


def test_two_downloads_into_one_folder_are_refused(publisher, tmp_path):
    publisher.has_archive()
    second = []

    def another():
        with pytest.raises(SeerecError, match="Another download is running in") as found:
            fetch(publisher, tmp_path)
        second.append(found.value.fix)

    publisher.script[PLACE] = [{"during": another}]
    assert fetch(publisher, tmp_path).new == 1
    assert second == ["Wait for it, or choose another --out."]


def test_a_disk_without_room_is_refused_first(publisher, tmp_path, monkeypatch):
    publisher.has_archive()
    publisher.script[PLACE] = [{"drop_after": 100_000}, {"status": 403}]
    refused(publisher, tmp_path, "403")
    publisher.requests.clear()
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=SIZE - 100_001))
    assert isinstance(refused(publisher, tmp_path, r"needs 0\.0 GB more, and .* has 0\.0 GB"), DiskError)
    assert publisher.asked() == []
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=SIZE - 100_000))
    assert fetch(publisher, tmp_path).new == 1


def test_a_disk_that_fills_up_keeps_what_arrived(publisher, tmp_path):
    publisher.has_archive()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
    try:
        assert isinstance(refused(publisher, tmp_path, r"Cannot write .*KuaiSAR\.zip\.part"), DiskError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert 0 < (tmp_path / "KuaiSAR.zip.part").stat().st_size <= 150_000
    publisher.requests.clear()
    assert fetch(publisher, tmp_path).files[0].read_bytes() == ARCHIVE
    assert "Range" in publisher.asked()[0]


def test_a_place_that_cannot_be_written_is_named(publisher, tmp_path, monkeypatch):
    publisher.has_archive()
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        assert isinstance(refused(publisher, place, "is a file, not a folder"), DiskError)

    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("seerec.atomic.tempfile.mkstemp", read_only)
    assert isinstance(refused(publisher, tmp_path / "out", "Read-only file system"), DiskError)
    assert publisher.asked() == []


def test_a_complete_download_may_lie_on_a_read_only_disk(publisher, tmp_path, monkeypatch):
    publisher.has_archive()
    fetch(publisher, tmp_path)

    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("seerec.atomic.tempfile.mkstemp", read_only)
    assert fetch(publisher, tmp_path).new == 0


# -- the bar ------------------------------------------------------------------------------------------------------------


def test_the_bar_counts_every_byte_once(publisher, tmp_path):
    publisher.has_archive()
    publisher.script[PLACE] = [
        {"drop_after": 100_000}, {"status": 416}, {"drop_after": 50_000}, {"ignores_range": True, "content": b"!" + ARCHIVE[1:]}
    ]  # fmt: skip
    noted = Noted()
    fetch(publisher, tmp_path, progress=noted)
    bar = noted.tasks[-1]
    assert (bar.label, bar.total, bar.done, bar.unit) == ("kuaisar-small", SIZE, SIZE, BYTES)
    assert "trying again in 1 s" in bar.notes[0]
    assert any("wrong checksum; once more from zero" in note for note in bar.notes)
    again = Noted()
    fetch(publisher, tmp_path, progress=again)
    assert [(bar.label, bar.total, bar.done) for bar in again.tasks] == [("checking what is here", SIZE, SIZE)]


def test_a_resumed_bar_begins_at_what_is_here(publisher, tmp_path):
    publisher.has_archive()
    publisher.script[PLACE] = [{"drop_after": 100_000}, {"status": 403}]
    refused(publisher, tmp_path, "403")
    noted = Noted()
    publisher.script[PLACE] = [{"during": lambda: began.append(noted.tasks[-1].done)}]
    began = []
    fetch(publisher, tmp_path, progress=noted)
    assert began == [100_000]


def test_bytes_are_shown_in_their_own_unit(monkeypatch, capsys):
    monkeypatch.setattr("seerec.progress.Console", lambda **_: Console(stderr=True, force_terminal=True, width=200))
    with Progress(shown=True).task("file", total=5_000_000, unit=BYTES, done=1_000_000) as bar:
        bar.advance(2_500_000)
        bar.advance(-500_000)
        bar.note("waiting [for] it")
    shown = capsys.readouterr().err
    assert "3.0/5.0 MB" in shown
    assert "waiting [for] it" in shown

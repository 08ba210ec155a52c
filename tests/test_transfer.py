"""Downloads from a server on this machine: broken off, resumed, wrong, too long, unreachable, no room."""

import hashlib
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from web import serve

from detect_prune import transfer
from detect_prune.errors import DetectPruneError
from detect_prune.transfer import RemoteFile, digest_of, fetch

CONTENT = random.Random(0).randbytes(300_000)
SIZE = len(CONTENT)
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(transfer, "PAUSE", 0.001)
    monkeypatch.setattr(transfer, "_BLOCK", 10_000)
    with serve() as site:
        site.files["/x"] = CONTENT
        yield site


def remote(site, *paths, size=SIZE, digest=SHA256):
    return RemoteFile("x", tuple(f"{site.url}{path}" for path in paths or ("/x",)), size, digest)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("size", [len(CONTENT), None])
@pytest.mark.parametrize("digest", [SHA256, f"md5:{hashlib.md5(CONTENT).hexdigest()}", None])
def test_a_file_arrives_whole_and_alone(site, tmp_path, size, digest):
    told = []
    fetch(remote(site, size=size, digest=digest), tmp_path / "new" / "x", told.append)
    assert (tmp_path / "new" / "x").read_bytes() == CONTENT and names(tmp_path / "new") == ["x"]
    assert told[0] == 0 and told[-1] == len(CONTENT) and told == sorted(told) and len(told) > 3
    assert site.asked == [("/x", None)]


def test_broken_connections_are_taken_up_where_they_broke(site, tmp_path):
    site.break_after = [70_000, 90_000, 50_000]
    fetch(remote(site), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT and names(tmp_path) == ["x"]
    assert [wanted for _, wanted in site.asked] == [None, "bytes=70000-", "bytes=160000-", "bytes=210000-"]


def test_what_an_earlier_try_left_is_kept_and_gone_on_with(site, tmp_path):
    site.break_after = [70_000] + [0] * transfer.ATTEMPTS
    with pytest.raises(DetectPruneError, match=r"breaks again and again.*70,000 bytes are kept in x\.part"):
        fetch(remote(site), tmp_path / "x")
    assert names(tmp_path) == ["x.part"] and (tmp_path / "x.part").read_bytes() == CONTENT[:70_000]
    site.asked.clear()
    told = []
    fetch(remote(site), tmp_path / "x", told.append)
    assert site.asked == [("/x", "bytes=70000-")] and told[0] == 70_000
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_a_kill_loses_nothing_that_had_arrived(site, tmp_path):
    class Killed(BaseException):
        pass

    def kill(size):
        if size > 100_000:
            raise Killed

    with pytest.raises(Killed):
        fetch(remote(site), tmp_path / "x", kill)
    kept = (tmp_path / "x.part").read_bytes()
    assert len(kept) > 100_000 and CONTENT.startswith(kept) and not (tmp_path / "x").exists()


def test_a_part_that_is_all_needs_no_server(tmp_path):
    (tmp_path / "x.part").write_bytes(CONTENT)
    fetch(RemoteFile("x", ("http://127.0.0.1:9/x",), len(CONTENT), SHA256), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT


@pytest.mark.parametrize("part", [b"another file " * 100, CONTENT + b"more", b"x" * len(CONTENT)])
@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_part_of_another_file_is_thrown_away(site, tmp_path, part, size):
    (tmp_path / "x.part").write_bytes(part)
    fetch(remote(site, size=size), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT and names(tmp_path) == ["x"]


@pytest.mark.parametrize("lengths", [True, False])
def test_a_server_without_ranges_is_asked_from_the_start(site, tmp_path, lengths):
    site.ranges, site.lengths = False, lengths
    site.break_after = [70_000]
    fetch(remote(site), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT and len(site.asked) == 2


def test_a_range_from_elsewhere_is_not_put_behind_what_is_there(site, tmp_path):
    site.from_start, site.break_after = True, [70_000]
    fetch(remote(site, digest=None), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT and len(site.asked) == 2


@pytest.mark.parametrize(
    "served, said",
    [
        (b"y" * len(CONTENT), "has sha256 [0-9a-f]{64}; [0-9a-f]{64} was expected"),
        (CONTENT[:-1], "offers 299,999 bytes; 300,000 were expected"),
        (CONTENT + b"more", "offers 300,004 bytes; 300,000 were expected"),
    ],
)
def test_another_file_is_refused_and_leaves_nothing(site, tmp_path, served, said):
    site.files["/x"] = served
    with pytest.raises(DetectPruneError, match=rf"/x: can't be downloaded \(http.*: {said}\)$"):
        fetch(remote(site), tmp_path / "x")
    assert not names(tmp_path)


def test_an_endless_answer_is_ended(site, tmp_path):
    site.files["/x"], site.lengths = CONTENT * 5, False
    with pytest.raises(DetectPruneError, match="sends more than the 300,000 bytes"):
        fetch(remote(site), tmp_path / "x")
    assert (tmp_path / "x.part").stat().st_size < 2 * len(CONTENT)
    site.files["/x"] = CONTENT
    fetch(remote(site), tmp_path / "x")


def test_a_web_page_is_not_the_file(site, tmp_path):
    site.kind = "text/html"
    with pytest.raises(DetectPruneError, match="web page"):
        fetch(remote(site, size=None), tmp_path / "x")
    assert not names(tmp_path)


def test_places_are_tried_in_turn(site, tmp_path):
    site.files["/wrong"] = b"y" * len(CONTENT)
    fetch(remote(site, "/nowhere", "/wrong", "/x"), tmp_path / "x")
    assert [path for path, _ in site.asked] == ["/nowhere", "/wrong", "/x"]
    with pytest.raises(DetectPruneError, match=r"/nowhere: HTTP 404 Not Found; .*/wrong: has sha256"):
        fetch(remote(site, "/nowhere", "/wrong"), tmp_path / "y")


def test_no_network_is_said_in_one_sentence(tmp_path):
    file = RemoteFile("x", ("http://nowhere.invalid/x", "http://127.0.0.1:9/x"), 1, None)
    with pytest.raises(
        DetectPruneError, match=r"/x: can't be downloaded \(.*\), perhaps because there is no network here$"
    ) as caught:
        fetch(file, tmp_path / "x")
    assert "\n" not in str(caught.value) and not names(tmp_path)


@pytest.mark.parametrize("length", ["many", "-5", "1e3", "9" * 5000, "", "\u00b2"])
def test_a_garbled_length_is_no_length(site, tmp_path, length):
    site.lengths = length
    fetch(remote(site), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "url", ["x", "gopher:x", "http://", "http://a:b/x", "http://a b/x", "http://[x/x", "http:///x"]
)
def test_what_is_no_address_is_said(site, tmp_path, url):
    with pytest.raises(DetectPruneError, match=r"/x: can't be downloaded \(") as caught:
        fetch(RemoteFile("x", (url,), SIZE, SHA256), tmp_path / "x")
    assert "\n" not in str(caught.value)
    fetch(RemoteFile("x", (url, f"{site.url}/x"), SIZE, SHA256), tmp_path / "x")


def test_a_folder_in_the_place_of_the_part(site, tmp_path):
    (tmp_path / "x.part").mkdir()
    with pytest.raises(DetectPruneError, match=r"x\.part: this is no file"):
        fetch(remote(site), tmp_path / "x")
    assert not site.asked and names(tmp_path) == ["x.part"]


def test_room_on_the_disk_is_asked_for_first(site, tmp_path):
    with pytest.raises(DetectPruneError, match=r"the disk has \d+ MB free, .* 10+ MB for this download"):
        fetch(remote(site, size=10**21), tmp_path / "x")
    assert not site.asked


def test_a_disk_that_fills_up_is_said(site, tmp_path, monkeypatch):
    class Full:
        def __init__(self, path, mode):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def write(self, block):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(transfer, "_open", Full)
    with pytest.raises(DetectPruneError, match=r"x\.part: can't be written: No space left on device"):
        fetch(remote(site), tmp_path / "x")


def test_digests(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert digest_of(tmp_path / "x", "md5") == "900150983cd24fb0d6963f7d28e17f72"
    assert digest_of(tmp_path / "x").startswith("ba7816bf8f01cfea")
    file = RemoteFile("x", (), 3, "sha1:a9993e364706816aba3e25717850c26c9cd0d89d")
    assert file.problem(tmp_path / "x") is None
    (tmp_path / "x").write_bytes(b"abcd")
    assert file.problem(tmp_path / "x") == "has 4 bytes; 3 were expected"


def test_two_processes_do_not_fetch_one_file_at_once(site, tmp_path, capsys):
    fcntl = pytest.importorskip("fcntl")
    other = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(fetch, remote(site), tmp_path / "x")
        while "waiting for another process" not in capsys.readouterr().out:
            assert not waiting.done()
            time.sleep(0.01)
        (tmp_path / "x").write_bytes(CONTENT)
        os.close(other)
        waiting.result(timeout=20)
    assert site.asked == [] and names(tmp_path) == ["x"]


def test_a_folder_in_which_nothing_arrives_goes_again(site, tmp_path):
    site.files.clear()
    with pytest.raises(DetectPruneError, match="can't be downloaded"):
        fetch(remote(site), tmp_path / "new" / "x")
    assert names(tmp_path) == []


def test_servers_that_refuse_urllibs_name_hear_another(site, tmp_path, monkeypatch):
    asked, urlopen = [], transfer.urllib.request.urlopen

    def watched(request, **options):
        asked.append(request)
        return urlopen(request, **options)

    monkeypatch.setattr(transfer.urllib.request, "urlopen", watched)
    fetch(remote(site), tmp_path / "x")
    assert [request.get_header("User-agent") for request in asked] == ["detect-prune"]


def test_where_one_of_several_places_answers_there_is_a_network(site, tmp_path):
    file = RemoteFile("x", ("http://127.0.0.1:1/x", f"{site.url}/none"), SIZE, SHA256)
    with pytest.raises(DetectPruneError, match="HTTP 404") as caught:
        fetch(file, tmp_path / "x")
    assert "no network here" not in str(caught.value)

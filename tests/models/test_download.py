"""Downloads from a loopback server that misbehaves on request."""

import errno
import hashlib
import http.client
import io
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pytest_onnxdet.core import progress
from pytest_onnxdet.core.progress import Progress
from pytest_onnxdet.models.download import DownloadError, download, named_hash

CONTENT = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(CONTENT).hexdigest()[:8]
NAME = f"net_1x-{DIGEST}.pth"


class Files:
    """What the server does, and what it was asked.

    Attributes:
        cuts: after how many bytes to hang up, one for each coming request; None: not at all.
        ranges: the Range header of every request.
    """

    def __init__(self) -> None:
        self.content = CONTENT
        self.cuts: list[int | None] = []
        self.codes: list[int] = []
        self.ranges: list[str | None] = []
        self.resumes = True
        self.delay_s = 0.0
        self.url = ""
        self.redirect = ""


@pytest.fixture
def files() -> Iterator[Files]:
    state = Files()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.ranges.append(asked)
            if state.codes:
                self.send_error(state.codes.pop(0))
                return
            if state.redirect:
                self.send_response(302)
                self.send_header("Location", state.redirect)
                self.end_headers()
                state.redirect = ""
                return
            if not self.path.endswith(".pth"):
                self.send_error(404)
                return
            start = 0
            if asked and state.resumes:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if start >= len(state.content):
                    self.send_error(416)
                    return
            body = state.content[start:]
            self.send_response(206 if start else 200)
            if start:
                end = len(state.content)
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            cut = state.cuts.pop(0) if state.cuts else None
            for at in range(0, len(body[:cut]), 1 << 16):
                if state.delay_s:
                    time.sleep(state.delay_s)
                try:
                    self.wfile.write(body[:cut][at : at + (1 << 16)])
                except ConnectionError:
                    return
            if cut is not None:
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/v2/{NAME}"
    yield state
    server.shutdown()
    server.server_close()


def test_the_hash_in_a_name() -> None:
    assert named_hash("retinanet_r50_fpn_1x_coco_20200130-c2398f9e.pth") == "c2398f9e"
    assert named_hash("latest.pth") is None


def test_a_file_is_fetched_once(files: Files, tmp_path: Path) -> None:
    place = download(files.url, tmp_path / "new" / "folder")
    assert place == tmp_path / "new" / "folder" / NAME
    assert place.read_bytes() == CONTENT
    assert download(files.url, tmp_path / "new" / "folder") == place
    assert files.ranges == [None]
    assert not list(place.parent.glob("*.part"))


def test_a_cut_connection_is_resumed(files: Files, tmp_path: Path) -> None:
    files.cuts = [300_000, 200_000]
    assert download(files.url, tmp_path, pause=0).read_bytes() == CONTENT
    assert files.ranges == [None, "bytes=300000-", "bytes=500000-"]


def test_a_later_call_resumes_too(files: Files, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:1000])
    assert download(files.url, tmp_path).read_bytes() == CONTENT
    assert files.ranges == ["bytes=1000-"]


def test_a_server_that_cannot_resume_sends_all_again(files: Files, tmp_path: Path) -> None:
    files.resumes, files.cuts = False, [300_000]
    assert download(files.url, tmp_path, pause=0).read_bytes() == CONTENT
    assert files.ranges == [None, "bytes=300000-"]


def test_a_remnant_of_another_file_is_started_over(files: Files, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(b"x" * 1000)
    assert download(files.url, tmp_path).read_bytes() == CONTENT
    (tmp_path / NAME).unlink()
    (tmp_path / f"{NAME}.part").write_bytes(b"x" * (len(CONTENT) + 5))  # answered by 416
    assert download(files.url, tmp_path).read_bytes() == CONTENT


def test_a_damaged_file_in_place_is_fetched_again(files: Files, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(CONTENT[:-1])
    assert download(files.url, tmp_path).read_bytes() == CONTENT


def test_a_wrong_hash_is_refused_and_nothing_stays(files: Files, tmp_path: Path) -> None:
    files.content = CONTENT[:-1] + b"?"
    with pytest.raises(DownloadError, match=rf"begins [0-9a-f]{{8}}, not {DIGEST}") as caught:
        download(files.url, tmp_path)
    assert files.url in str(caught.value) and "--onnxdet-checkpoints" in str(caught.value)
    assert not (tmp_path / NAME).exists() and not list(tmp_path.glob("*.part"))


def test_not_found_is_told_at_once(files: Files, tmp_path: Path) -> None:
    url = files.url.replace(NAME, "gone.bin")
    with pytest.raises(DownloadError, match=r"gone\.bin: the server answers 404") as caught:
        download(url, tmp_path)
    assert "`pytest --onnxdet --onnxdet-checkpoints DIR`" in str(caught.value)
    assert "`onnxdet export CONFIG FILE`" in str(caught.value)
    assert len(files.ranges) == 1


def test_a_busy_server_is_asked_again(files: Files, tmp_path: Path) -> None:
    files.codes = [503, 429]
    assert download(files.url, tmp_path, pause=0).read_bytes() == CONTENT


def test_a_server_that_is_always_cut_short_is_given_up(files: Files, tmp_path: Path) -> None:
    files.cuts = [1000, *[0] * 9]
    with pytest.raises(DownloadError, match=r"given up after 3 .*goes on at 1000 bytes"):
        download(files.url, tmp_path, attempts=3, pause=0)
    assert (tmp_path / f"{NAME}.part").stat().st_size == 1000
    assert not (tmp_path / NAME).exists()


def test_a_server_that_never_gets_further_is_given_up(files: Files, tmp_path: Path) -> None:
    """It cannot resume, and cuts now here, now there: more than last time is not more than ever."""
    files.resumes = False
    files.cuts = [300_000, *[100_000, 200_000] * 20]
    with pytest.raises(DownloadError, match="given up after 4 attempts without progress"):
        download(files.url, tmp_path, attempts=4, pause=0)
    assert len(files.ranges) == 5


def test_trying_again_goes_on_where_it_was_given_up(files: Files, tmp_path: Path) -> None:
    files.cuts = [1000, 0, 0]
    with pytest.raises(DownloadError, match="try again, which goes on at 1000 bytes"):
        download(files.url, tmp_path, attempts=2, pause=0)
    assert download(files.url, tmp_path, pause=0).read_bytes() == CONTENT
    assert files.ranges == [None, *["bytes=1000-"] * 3]


def test_what_was_put_in_place_by_other_means_is_taken(files: Files, tmp_path: Path) -> None:
    files.codes = [404]
    with pytest.raises(DownloadError, match="fetch it by other means and put it at"):
        download(files.url, tmp_path)
    (tmp_path / NAME).write_bytes(CONTENT)
    assert download(files.url, tmp_path) == tmp_path / NAME
    assert len(files.ranges) == 1


@pytest.mark.parametrize(
    "error",
    [ssl.SSLError(1, "bad record mac"), OSError(errno.EHOSTUNREACH, "No route to host")],
)
def test_a_connection_that_fails_in_any_way_is_tried_again(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    honest, calls = http.client.HTTPResponse.read, []

    def read(self: Any, *amount: Any) -> bytes:
        calls.append(amount)
        if len(calls) == 2:
            raise error
        return honest(self, *amount)

    monkeypatch.setattr(http.client.HTTPResponse, "read", read)
    assert download(files.url, tmp_path, pause=0).read_bytes() == CONTENT
    assert files.ranges == [None, f"bytes={1 << 18}-"]


def test_a_connection_that_always_fails_is_not_the_folders_fault(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: Any) -> bytes:
        raise ssl.SSLError(1, "bad record mac")

    monkeypatch.setattr(http.client.HTTPResponse, "read", read)
    with pytest.raises(
        DownloadError, match=r"the connection broke: SSLError.*bad record"
    ) as caught:
        download(files.url, tmp_path, attempts=2, pause=0)
    assert "cannot be written" not in str(caught.value)


def test_a_full_disk_is(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DownloadError, match=r"cannot be written to .*: No space left on device"):
        download(files.url, tmp_path, pause=0)
    assert len(files.ranges) == 1


@pytest.mark.parametrize(
    "url", ["http://example.org/a.pth", "ftp://127.0.0.1/a.pth", "file:///a.pth", "a.pth"]
)
def test_only_https_is_fetched_from_other_machines(url: str, tmp_path: Path) -> None:
    """What others can change on the way is checked by 32 bits of a hash, or by nothing."""
    with pytest.raises(DownloadError, match="only https is fetched, and http from this machine"):
        download(url, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_server_is_followed_to_https_alone(files: Files, tmp_path: Path) -> None:
    files.redirect = files.url
    assert download(files.url, tmp_path).read_bytes() == CONTENT
    (tmp_path / NAME).unlink()
    files.redirect = f"http://example.org/{NAME}"
    with pytest.raises(DownloadError, match=rf"http://example\.org/{NAME}: only https is fetched"):
        download(files.url, tmp_path)


def test_nobody_answers(files: Files, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1:1/.*no connection"):
        download(f"http://127.0.0.1:1/{NAME}", tmp_path, attempts=2, pause=0)


@pytest.fixture
def dead() -> str:
    """Where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY"])
def test_a_proxy_that_does_not_answer_is_named(
    files: Files, dead: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for other in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, f"http://me:secret@{dead}")
    with pytest.raises(DownloadError) as caught:
        download(files.url, tmp_path, attempts=2, pause=0.0)
    text = str(caught.value)
    assert text.startswith(f"{files.url}: given up after 2 attempts"), text
    assert f"by the proxy http://{dead} (http_proxy; correct it, or name the host" in text
    assert "secret" not in text and len(text.splitlines()) == 1 and not files.ranges
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert download(files.url, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("proxy", ["http://", "http://[", "http://host:port", "socks5://a:1"])
def test_what_is_no_proxy_is_named(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    for other in ("HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(DownloadError, match=f"by the proxy {re.escape(proxy)} "):
        download(files.url, tmp_path, attempts=1, pause=0.0)


def test_a_proxy_that_refuses_is_named(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(other, raising=False)
    proxy = files.url.partition("/v2")[0]
    monkeypatch.setenv("http_proxy", proxy)
    files.codes = [407]
    with pytest.raises(DownloadError, match=f"answers 407 .* by the proxy {re.escape(proxy)} "):
        download("http://localhost/x.pth", tmp_path)


@pytest.mark.parametrize("url", ["https://[::1/x.pth", "https://host:port/x.pth", "https:///x.pth"])
def test_what_is_no_address(url: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=re.escape(url)):
        download(url, tmp_path, attempts=1, pause=0.0)


def test_slow_is_not_broken_and_shows_progress(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files.delay_s = 0.02
    assert download(files.url, tmp_path, timeout=5).read_bytes() == CONTENT
    lines = [line for line in capsys.readouterr().err.splitlines() if NAME in line]
    assert len(lines) >= 2 and "100%" in lines[-1] and "1.02M/1.02M" in lines[-1]


def test_a_stalled_connection_ends(files: Files, tmp_path: Path) -> None:
    files.delay_s = 1.0
    with pytest.raises(DownloadError, match=r"no data for 0\.1 s"):
        download(files.url, tmp_path, timeout=0.1, attempts=2, pause=0)


def test_a_folder_that_cannot_be_written(files: Files, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match="cannot be written to"):
        download(files.url, tmp_path / "file" / "folder")


def test_a_folder_that_only_another_user_may_write_to(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root, which may do all, the lock refuses instead; what lies there is taken."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with pytest.raises(DownloadError) as caught:
        download(files.url, tmp_path)
    text = str(caught.value)
    assert text.startswith(files.url) and "cannot be used (Permission denied)" in text
    assert f"put it at {tmp_path / NAME}" in text and not files.ranges
    (tmp_path / NAME).write_bytes(CONTENT)
    tmp_path.chmod(0o555)
    assert download(files.url, tmp_path) == tmp_path / NAME
    assert not files.ranges


def test_the_time_left_counts_only_what_came_now(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    with Progress("net", 100_000_000, "B", stream) as line:
        line.start(80_000_000)
        now[0] += 10
        line.at(90_000_000)
    assert stream.getvalue().splitlines()[-1] == "net:  90% 90.0M/100M [00:10<00:10, 1.00MB/s]"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_there_is_one_line_that_ends_at_last() -> None:
    stream, threads = Terminal(), threading.active_count()
    with Progress("net", None, "B", stream) as line:
        line.total = 100_000_000
        line.start(80_000_000)
        line.at(90_000_000)
        line.at(85_000_000)  # a server that sends all again
        line.at(100_000_000)
        assert threading.active_count() == threads
    assert stream.getvalue().count("\n") == 1
    assert "net: 100%" in stream.getvalue().splitlines()[-1].split("\r")[-1]
    assert "100M/100M" in stream.getvalue()


def test_elsewhere_a_whole_run_is_ten_lines() -> None:
    stream = io.StringIO()
    with Progress("test", 200, "images", stream) as line:
        for _ in range(200):
            line.advance()
    lines = stream.getvalue().splitlines()
    assert [text.split("%")[0][-3:] for text in lines[1:]] == [f"{10 * n:>3}" for n in range(1, 11)]
    assert "200/200" in lines[-1] and "images/s" in lines[-1]
    with Progress("unknown", None, "images", stream) as line:
        line.advance()
    assert len(stream.getvalue().splitlines()) == len(lines)


def test_tqdm_is_loaded_with_the_first_progress_only() -> None:
    code = "import sys, pytest_onnxdet.core.progress; assert 'tqdm' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_download_starts_to_count_where_it_goes_on(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, started = Progress.start, []

    def start(self: Progress, done: int) -> None:
        started.append(done)
        honest(self, done)

    monkeypatch.setattr(Progress, "start", start)
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:1000])
    files.cuts = [300_000]
    download(files.url, tmp_path, pause=0)
    assert started == [1000, 301_000]


def test_progress_is_seen_where_stderr_is_captured(
    files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    undo = progress.show_uncaptured()  # to what the process calls stderr now
    aside = os.dup(2)
    try:
        with (tmp_path / "captured").open("w") as file:
            os.dup2(file.fileno(), 2)  # from here on pytest keeps what a test writes
            download(files.url, tmp_path)
    finally:
        os.dup2(aside, 2)
        os.close(aside)
        undo()
    seen = capfd.readouterr().err
    assert NAME in seen and "100%" in seen
    assert not (tmp_path / "captured").read_text()
    with Progress("after", 1, "images") as line:
        line.advance()
    assert "after: 100% 1/1" in capfd.readouterr().err


def test_without_stderr_nothing_is_uncaptured(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(_: int) -> int:
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(progress.os, "dup", closed)
    progress.show_uncaptured()()

"""Fetches checkpoints: resumed where a connection breaks, checked by name, in place or not at all.

OpenMMLab names a checkpoint after its content: ``…-c2398f9e.pth`` has a SHA-256 that begins with
``c2398f9e``. What arrives is written beside its place (``.part``), verified against that hash and
renamed, so that a file of the final name is always whole. Of several processes that want the same
file one fetches it and the others wait.

``torch.hub.download_url_to_file`` does the hash and the renaming, but it neither resumes nor tries
again, and waits forever for a server that stalls; pooch does not resume either.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from pytest_onnxdet.core.downloads import note_download
from pytest_onnxdet.core.locks import StoreError, locked
from pytest_onnxdet.core.paths import user_cache
from pytest_onnxdet.core.progress import Progress

TIMEOUT_S = 30.0  # without a byte
ATTEMPTS = 4  # in a row that bring nothing
PAUSE_S = 1.0  # before the second attempt; doubled before each further one
_CHUNK = 1 << 18
_HASH = re.compile(r"-([0-9a-f]{8})\.[A-Za-z]+$")
_PASSWORD = re.compile(r"[^/@]*@")
_HOPELESS = range(400, 500)  # what asking again does not change
_TRY_AGAIN = (408, 425, 429)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class DownloadError(Exception):
    """A file cannot be fetched; the message names the URL and what to do instead."""


class _Broken(Exception):
    """An attempt ended before the file did."""


def default_folder() -> Path:
    """``checkpoints`` below ``$XDG_CACHE_HOME/pytest-onnxdet`` or ``~/.cache/pytest-onnxdet``."""
    return user_cache() / "checkpoints"


def named_hash(name: str) -> str | None:
    """The eight hexadecimal digits in a checkpoint's file name, None where there are none."""
    match = _HASH.search(name)
    return match[1] if match else None


def download(
    url: str,
    folder: Path,
    *,
    timeout: float = TIMEOUT_S,
    attempts: int = ATTEMPTS,
    pause: float = PAUSE_S,
) -> Path:
    """The file behind ``url`` in ``folder``, fetched unless it is there.

    What has failed is tried again by the next call, which goes on where this one stopped. A suite
    remembers that a checkpoint could not be had, so that not each test waits for all attempts.

    Args:
        url: https, or http of this machine; the last part of its path becomes the file's name.
        folder: made where it is missing.
        timeout: seconds without a byte after which an attempt ends.
        attempts: how many attempts in a row may bring nothing.
        pause: seconds before the second attempt, doubled before each further one.

    Raises:
        DownloadError: it cannot be had, or is not what its name says.
    """
    try:
        place = folder / urllib.parse.urlsplit(url).path.rstrip("/").rsplit("/", 1)[-1]
    except ValueError as error:
        raise DownloadError(f"{url}: is no address: {error}: correct it") from error
    _require_https(url, place)
    try:
        # A file of that name is whole, and may lie in a folder that only others may write to.
        if place.is_file() and _faults(place, place.name) is None:
            return place
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / f"{place.name}.lock"):
            if place.is_file() and _faults(place, place.name) is None:
                return place
            part = folder / f"{place.name}.part"
            note_download(part)
            _fetch(url, part, place, timeout, attempts, pause)
            os.replace(part, place)
            note_download(place)
    except StoreError as error:
        raise DownloadError(f"{url}: {error}; or {_elsewhere(place)}") from error
    except OSError as error:
        raise DownloadError(
            f"{url}: cannot be written to {folder}: {error.strerror or error}: {_elsewhere(place)}"
        ) from error
    return place


def _require_https(url: str, place: Path) -> None:
    """Raises DownloadError for what somebody on the way could change."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" and (parts.scheme != "http" or parts.hostname not in _LOOPBACK):
        raise DownloadError(
            f"{url}: only https is fetched, and http from this machine: {_elsewhere(place)}"
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a server to https alone."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def redirect_request(
        self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, url: str
    ) -> Any:
        _require_https(url, self._place)
        return super().redirect_request(req, fp, code, msg, headers, url)


def _fetch(url: str, part: Path, place: Path, timeout: float, attempts: int, pause: float) -> None:
    """Fill ``part`` with the whole, verified file."""
    # Progress counts from the furthest byte: a server that cannot resume starts from nothing.
    fruitless, furthest, wait = 0, 0, pause
    restarted = False
    with Progress(place.name, None, "B") as progress:
        while True:
            before = part.stat().st_size if part.is_file() else 0
            furthest = max(furthest, before)
            try:
                _attempt(url, part, timeout, progress)
            except _Broken as error:
                now = part.stat().st_size if part.is_file() else 0
                fruitless = 0 if now > furthest else fruitless + 1
                if fruitless >= attempts:
                    raise DownloadError(
                        f"{url}: given up after {attempts} attempts without progress "
                        f"({error}){_by_proxy(url)}: try again, which goes on at {now} bytes, or "
                        f"{_elsewhere(place)}"
                    ) from error
                if fruitless:
                    time.sleep(wait)
                    wait *= 2
                continue
            fault = _faults(part, place.name)
            if fault is None:
                return
            part.unlink()
            furthest = 0
            if before and not restarted:  # what lay there was of another file: once from the start
                restarted = True
                continue
            raise DownloadError(
                f"{url}: what arrived is not the file of that name: {fault}: {_elsewhere(place)}"
            )


def _attempt(url: str, part: Path, timeout: float, progress: Progress) -> None:
    """One connection: appends to ``part`` what is missing.

    Raises:
        _Broken: another attempt may help.
        DownloadError: none will.
    """
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "pytest-onnxdet"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    response = _open(request, timeout, url, part)
    if response is None:
        return
    with response:
        have = _start(response, have)
        length = response.headers.get("Content-Length")
        end = None if length is None else have + int(length)
        progress.total = end
        with part.open("ab" if have else "wb") as file:
            progress.start(have)
            while chunk := _read(response, timeout):
                file.write(chunk)
                have += len(chunk)
                progress.at(have)
    if end is not None and have < end:
        raise _Broken(f"the connection broke at {have} of {end} bytes")


def _open(request: urllib.request.Request, timeout: float, url: str, part: Path) -> Any:
    """The server's answer; None where it says that there is nothing behind what is here."""
    try:
        return urllib.request.build_opener(_Redirects(part)).open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416 and request.has_header("Range"):  # see if what is here is whole
            return None
        if error.code in _HOPELESS and error.code not in _TRY_AGAIN:
            raise DownloadError(
                f"{url}: the server answers {error.code} {error.reason}{_by_proxy(url)}: "
                f"{_elsewhere(part)}"
            ) from error
        raise _Broken(f"the server answers {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _Broken(f"no connection: {error.reason}") from error
    except ValueError as error:  # of http.client, too, about what is no host or port
        raise DownloadError(
            f"{url}: cannot be asked for ({error}){_by_proxy(url)}: correct it, or "
            f"{_elsewhere(part)}"
        ) from error
    except (http.client.HTTPException, OSError) as error:
        raise _broken(error, timeout) from error


def _read(response: Any, timeout: float) -> bytes:
    """The next bytes. What fails here is the connection, and not the file they are for."""
    try:
        data: bytes = response.read(_CHUNK)
    except (http.client.HTTPException, OSError) as error:
        raise _broken(error, timeout) from error
    return data


def _broken(error: Exception, timeout: float) -> _Broken:
    if isinstance(error, TimeoutError):
        return _Broken(f"no data for {timeout:g} s")
    return _Broken(f"the connection broke: {type(error).__name__}: {error}".removesuffix(": "))


def _start(response: Any, have: int) -> int:
    """The byte at which the server's answer begins: it may send the whole file again."""
    if have and response.status == 206:
        sent = str(response.headers.get("Content-Range", ""))
        if sent.startswith(f"bytes {have}-"):
            return have
        raise DownloadError(
            f"{response.url}: was asked for what follows byte {have} and sent '{sent}'"
        )
    return 0


def _faults(file: Path, name: str) -> str | None:
    """Why a file is not the one of that name; None where it is, or the name does not say."""
    wanted = named_hash(name)
    if wanted is None:
        return None
    with file.open("rb") as stream:
        got = hashlib.file_digest(stream, "sha256").hexdigest()
    return None if got.startswith(wanted) else f"its SHA-256 begins {got[:8]}, not {wanted}"


def _by_proxy(url: str) -> str:
    """The proxy that is asked for a URL, without its password; empty where none is."""
    parts = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy or urllib.request.proxy_bypass(parts.hostname or ""):
        return ""
    name = f"{parts.scheme}_proxy"
    return (
        f" by the proxy {_PASSWORD.sub('', proxy)} ({name}; correct it, or name the host in "
        "no_proxy)"
    )


def _elsewhere(place: Path) -> str:
    place = place.with_name(place.name.removesuffix(".part"))
    return (
        f"fetch it by other means and put it at {place}, or say where it is: "
        "`pytest --onnxdet --onnxdet-checkpoints DIR`, `onnxdet export CONFIG FILE`"
    )

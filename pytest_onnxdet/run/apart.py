"""Functions in processes of their own that do not each import PyTorch and mmdet.

The processes are forked off a server that has imported both and has done nothing else: one leaves
nothing behind for the next, and can die alone.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

#: One thread each: several run at a time, and a process with threads cannot be forked.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
_STARTING = threading.Lock()


class ProcessEnded(Exception):
    """A process ended before its function did; the message says how, and what it printed last."""


def call_apart(function: Callable[..., T], *arguments: Any, timeout: float) -> T:
    """Calls a function in a process of its own; what it prints is not shown.

    Args:
        function: of a module, as pickle finds it.
        arguments: for it, and the result: what pickle takes.
        timeout: seconds after which the process is killed.

    Raises:
        TimeoutError: it took longer.
        ProcessEnded: the process was killed, crashed, or the function raised.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest_onnxdet.run.preloaded"])
    with tempfile.TemporaryDirectory() as folder:
        printed = Path(folder) / "printed"
        receiver, sender = context.Pipe(duplex=False)
        _start_server()
        with receiver:
            process = context.Process(target=_call, args=(sender, printed, function, arguments))
            process.start()
            sender.close()
            try:
                if not receiver.poll(timeout):
                    raise TimeoutError(f"took longer than {timeout:g} s")
                return receiver.recv()
            except EOFError:
                process.join()
                last = (_lines(printed) or ["no message"])[-1]
                raise ProcessEnded(f"its process ended with {process.exitcode}: {last}") from None
            finally:
                process.kill()
                process.join()


def _start_server() -> None:
    """Starts the server, with :data:`_ENVIRONMENT`, unless it runs already."""
    with _STARTING:  # os.environ is every thread's
        before = {name: os.environ.get(name) for name in _ENVIRONMENT}
        os.environ.update(_ENVIRONMENT)
        try:
            forkserver.ensure_running()
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def _call(
    sender: Connection, printed: Path, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    with printed.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sender.send(function(*arguments))


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    return [line for line in text.splitlines() if line.strip()]

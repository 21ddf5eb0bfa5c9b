"""The ``onnxdet`` command."""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import NoReturn

from pytest_onnxdet import __version__
from pytest_onnxdet.commands.common import USAGE, expected_errors, printable
from pytest_onnxdet.core.notes import notes_printed

_SHOWN = 200  # letters of a name that is too long
COMMANDS = {
    "export": "write a detector as an ONNX file, and verify it against PyTorch",
    "test": "run an exported detector on a data set, and evaluate it",
    "coverage": "try which detectors can be verified, and say why others cannot",
    "cache": "show what the cache holds, and prune it by age or size",
}


class _Parser(argparse.ArgumentParser):
    """Says a mistake in one line, as the commands do."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands. Imports nothing heavy, so that ``--help`` is quick."""
    parser = _Parser(
        prog="onnxdet",
        description="MMDetection 2.x detectors on ONNX Runtime and TensorRT: export and test. "
        "`pytest --onnxdet` verifies them.",
    )
    parser.add_argument("--version", action="version", version=f"onnxdet {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        module = importlib.import_module(f"pytest_onnxdet.commands.{name}")
        command = commands.add_parser(
            name, help=text, description=(module.__doc__ or text).split("\n")[0], allow_abbrev=False
        )
        module.add_arguments(command)
        command.add_argument(
            "--traceback", action="store_true", help="show where in the code an error comes from"
        )
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the words after ``onnxdet``; None: those of the process.

    Returns:
        The exit code: 0; 1 where results differ; 2 where what was asked for cannot be done.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a locale may lack a character of a message
            stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # --cfg-options imports mmcv while it is parsed
        args = make_parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            # mmcv, mmdet and torch announce their own futures; what concerns a user is printed.
            if not args.traceback:
                warnings.simplefilter("ignore")
            with notes_printed(), _ended_in_order():
                return int(args.run(args))
    except BrokenPipeError:  # who reads the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except KeyboardInterrupt:
        print("onnxdet: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if args.traceback:
            raise
        known = isinstance(error, (ImportError, OSError, *expected_errors()))
        text = str(error) if known else f"unforeseen {type(error).__name__}: {error}"
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            text = _too_long(args, str(error.filename))
        hint = "" if known else "\n(--traceback shows where; please report it)"
        print(f"onnxdet {args.command}: error: {printable(text)}{hint}", file=sys.stderr)
        return USAGE


def _too_long(args: argparse.Namespace, name: str) -> str:
    """What is said of a name that no file can have: which argument it is of, and how it begins."""
    shown = f"{name[:_SHOWN]}..." if len(name) > _SHOWN else name
    for key, value in vars(args).items():
        if isinstance(value, str) and len(value) > _SHOWN and value in name:
            # Arguments that go by their place are in capitals in the usage.
            place = key in ("config", "model", "checkpoint")
            option = key.upper() if place else f"--{key.replace('_', '-')}"
            return f"{option}: {shown}: a name too long for a file: give a shorter one"
    return f"{shown}: a name too long for a file: give a shorter one"


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _as_any_process() -> None:
    """A forked worker clears no files: SIGTERM ends it as its pool expects, without a word."""
    if signal.getsignal(signal.SIGTERM) is _interrupt:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


os.register_at_fork(after_in_child=_as_any_process)


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """For the duration of the block, SIGTERM is an interruption, so that files are cleared."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())

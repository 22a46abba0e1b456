"""`tsdsr <command>`. A command's module is imported when it is called, so that help is fast."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from tsdsr import __version__
from tsdsr.errors import UserError


@dataclass(frozen=True)
class Command:
    """A module with `add_arguments(parser)` and `run(args) -> int`, and its help text."""

    module: str
    summary: str


COMMANDS: dict[str, Command] = {
    "upscale": Command("tsdsr.commands.upscale", "enlarge pictures with a student"),
    "demo": Command("tsdsr.commands.demo", "enlarge photographs on a local page in the browser"),
    "export": Command("tsdsr.commands.export", "write a student in one of four other forms"),
    "doctor": Command("tsdsr.commands.doctor", "check this installation and machine"),
    "score": Command("tsdsr.commands.score", "score a folder of images"),
    "weights": Command("tsdsr.commands.weights", "list, fetch, check and import the weights of metrics and losses"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        its exit status; 2 for a mistake on the command line or in the input, 130 when interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    _replace_closed_streams()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    if not words or words[0] not in COMMANDS:
        return _overview(words)
    command = COMMANDS[words[0]]
    module = importlib.import_module(command.module)
    parser = argparse.ArgumentParser(prog=f"tsdsr {words[0]}", description=f"{command.summary}.".capitalize())
    module.add_arguments(parser)
    args = parser.parse_args(words[1:])
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that unfinished files are removed
        if signal.getsignal(number) != signal.SIG_IGN:  # keep nohup's setting
            signal.signal(number, _interrupt)
    try:
        status = int(module.run(args))
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of the output, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the flush at exit does not fail
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _replace_closed_streams() -> None:
    """Replace closed standard streams by the null device. Otherwise a file opened later could get the descriptor, and
    libraries would print into it, or Python would print errors to standard output."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _overview(words: list[str]) -> int:
    """Print the help, the version, or an error of the command line."""
    parser = argparse.ArgumentParser(
        prog="tsdsr",
        description="One-step diffusion super-resolution.",
        epilog="`tsdsr COMMAND --help` describes a command's options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tsdsr {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.summary)
    parser.parse_args(words)
    return 2

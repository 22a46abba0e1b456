"""`tsdsr <command>`. A command's module is imported when it is called, so that help answers at once."""

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
    """A module with `add_arguments(parser)` and `run(args) -> int`, and its line of help."""

    module: str
    summary: str


COMMANDS: dict[str, Command] = {
    "upscale": Command("tsdsr.commands.upscale", "enlarge pictures with a student"),
    "demo": Command("tsdsr.commands.demo", "enlarge photographs on a page in the browser, on this computer"),
    "export": Command("tsdsr.commands.export", "write a student in one of four other forms"),
    "doctor": Command("tsdsr.commands.doctor", "check that this installation and machine can do the work"),
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
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # on import it reports a missing optional kernel
    if not words or words[0] not in COMMANDS:
        return _overview(words)
    command = COMMANDS[words[0]]
    module = importlib.import_module(command.module)
    parser = argparse.ArgumentParser(prog=f"tsdsr {words[0]}", description=f"{command.summary}.".capitalize())
    module.add_arguments(parser)
    args = parser.parse_args(words[1:])
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that files in the making are removed
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup sets it
            signal.signal(number, _interrupt)
    try:
        status = int(module.run(args))
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the last flush, at exit, must not fail again
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _replace_closed_streams() -> None:
    """Where whoever called has closed a standard stream, nothing takes its place: neither a file that is opened later,
    into which libraries would print, nor standard output, to which Python prints what has no stream for errors."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _overview(words: list[str]) -> int:
    """Help, the version, or what is wrong with the command line."""
    parser = argparse.ArgumentParser(
        prog="tsdsr",
        description="One-step diffusion super-resolution.",
        epilog="`tsdsr COMMAND --help` says what a command takes.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tsdsr {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.summary)
    parser.parse_args(words)
    return 2

"""`tsdsr weights list | fetch | check | import DIR`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tsdsr.errors import UserError
from tsdsr.weights.registry import WEIGHTS
from tsdsr.weights.search import check_folders, find, missing, places
from tsdsr.weights.store import fetch, import_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's actions on `parser`."""
    actions = parser.add_subparsers(dest="action", required=True)
    for name, summary in {
        "list": "list every file: whether it is present, its location or search path, its source and its use",
        "check": "compare the digests of the files; exit status 1 if one is absent or damaged",
        "fetch": "download absent files into torch.hub's folder",
    }.items():
        action = actions.add_parser(name, help=summary, description=summary)
        action.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(WEIGHTS)}")
        action.add_argument("--dir", action="append", default=[], help="a folder to search first (may be repeated)")
    action = actions.add_parser("import", help="copy files from a folder, for machines without a network")
    action.add_argument("folder", metavar="DIR")


def run(args: argparse.Namespace) -> int:
    """Run the chosen action.

    Returns:
        0, or 1 if a file is absent, damaged or could not be fetched.

    Raises:
        UserError: a name is unknown, or a folder cannot be used.
    """
    if args.action == "import":
        return _import(args.folder)
    unknown = [name for name in args.names if name not in WEIGHTS]
    if unknown:
        raise UserError(f"unknown weights {', '.join(unknown)}; known: {', '.join(WEIGHTS)}")
    check_folders(args.dir)
    action = {"list": _list, "check": _check, "fetch": _fetch}[args.action]
    return action(args.names or list(WEIGHTS), args.dir)


def _list(names: list[str], folders: list[str]) -> int:
    for name in names:
        weight, found = WEIGHTS[name], find(name, folders)
        state = "absent" if found is None else ("here" if found.intact else "damaged")
        known = "sha256" if weight.digest_is_whole else "sha256, first 8 digits"
        _say(f"{name}: {state}")
        _say(f"    for     {', '.join(weight.used_for)}")
        if found is None:
            for place, path in places(weight, folders):
                _say(f"    looked  {path} ({place})")
        else:
            _say(f"    found   {found.path} ({found.place})")
        _say(f"    source  {weight.url}")
        _say(f"    {known} {weight.sha256}")
    return 0


def _check(names: list[str], folders: list[str]) -> int:
    status = 0
    for name in names:
        reason = missing(name, folders)
        _say(f"{name}: ok" if reason is None else reason)
        status |= reason is not None
    return int(status)


def _fetch(names: list[str], folders: list[str]) -> int:
    status = 0
    for name in names:
        if missing(name, folders) is None:
            _say(f"{name}: already here")
            continue
        try:
            _say(f"{name}: fetched to {fetch(name)}")
        except UserError as error:
            _say(str(error))
            status = 1
    return status


def _import(folder: str) -> int:
    if not Path(folder).is_dir():
        raise UserError(f"{folder}: no such folder; give the folder with the downloaded weights")
    status, imported = 0, False
    for name in WEIGHTS:
        try:
            path = import_file(name, folder)
        except UserError as error:
            _say(str(error))
            status = 1
            continue
        if path is not None:
            _say(f"{name}: copied to {path}")
            imported = True
    if not imported and not status:
        wanted = ", ".join(weight.filename for weight in WEIGHTS.values())
        raise UserError(f"{folder}: contains none of the wanted files: {wanted}")
    return status


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")

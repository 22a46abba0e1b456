"""What every stage's `__main__` does: read --params, log to stderr, and turn a user's mistake into one line."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable

from pipeline import storage
from tsdsr.config import Params
from tsdsr.errors import UserError


def parser(description: str | None) -> argparse.ArgumentParser:
    """An argument parser with the options that every stage has."""
    summary = (description or "").strip().splitlines()[0]
    result = argparse.ArgumentParser(description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    result.add_argument("--params", default="params.yaml", help="the experiment's params file")
    return result


def run(main: Callable[[], None]) -> None:
    """Call a stage's main; a user's mistake becomes one line on stderr and exit status 2."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s")
    try:
        with storage.workplace():
            main()
    except (UserError, FileNotFoundError, PermissionError) as error:
        sys.exit(_fail(error))


def load_params(description: str | None) -> Params:
    """For stages with no option but --params."""
    return Params.load(parser(description).parse_args().params)


def _fail(error: Exception) -> int:
    sys.stderr.write(f"error: {error}\n")
    return 2

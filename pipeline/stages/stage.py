"""The `__main__` of every stage: read --params, log to stderr, and report a user's mistake in one line.

Exit status: 0 done; 1 a partial result, or a bug (with a traceback); 2 a user's mistake or a full disk or memory, named
in a line on stderr; 75 and 130 interrupted, see `pipeline.process.interruption`.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pipeline.cluster import runtime, storage
from pipeline.process import interruption
from pipeline.tracking import runs
from tsdsr import files
from tsdsr.config import Params
from tsdsr.errors import UserError

LAST_ERROR = Path(".tsdsr/error")


def parser(description: str | None) -> argparse.ArgumentParser:
    """An argument parser with the options that every stage has."""
    summary = (description or "").strip().splitlines()[0]
    result = argparse.ArgumentParser(description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    result.add_argument("--params", default="params.yaml", help="the experiment's params file")
    return result


def run(main: Callable[[], None]) -> None:
    """Call a stage's main; report user errors and interruptions in one line on stderr and by the exit status."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s")
    _quiet_fonts()
    try:
        with interruption.raising(), storage.workplace():
            main()
            runs.log_outputs()
        interruption.ignored()
    except interruption.Interrupted as interrupted:
        sys.stderr.write(f"{interrupted}\n")
        raise
    except (UserError, FileNotFoundError, PermissionError) as error:
        sys.exit(_fail(error))
    except Exception as error:
        cause = _shortage(error)
        if cause is None:
            raise
        sys.exit(_fail(cause))


def _quiet_fonts() -> None:
    """Drop matplotlib's lines about fonts at its first use on a machine."""
    fonts = logging.getLogger("matplotlib.font_manager")
    fonts.setLevel(logging.WARNING)
    fonts.addFilter(lambda record: "building the font cache" not in record.getMessage())


def load_params(description: str | None) -> Params:
    """For stages with no option but --params."""
    return Params.load(parser(description).parse_args().params)


def _shortage(error: Exception) -> str | None:
    """A message about the resource that ran out, if the error means that; otherwise None."""
    if files.is_no_space(error):
        return files.no_space(getattr(error, "filename", None) or Path.cwd() / "")
    return runtime.shortage(error)


def _fail(error: Exception | str) -> int:
    """Print the error, and keep it for `make repro`, which repeats it below DVC's own message."""
    sys.stderr.write(f"error: {error}\n")
    with suppress(OSError):
        LAST_ERROR.parent.mkdir(exist_ok=True)
        LAST_ERROR.write_text(f"error: {error}\n", encoding="utf-8")
    return 2

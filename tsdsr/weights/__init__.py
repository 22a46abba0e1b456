"""Published weights of metrics and losses: their registry, search and download."""

from tsdsr.weights.registry import WEIGHTS, Weight
from tsdsr.weights.search import Found, check_folders, find, missing, places
from tsdsr.weights.store import fetch, import_file

__all__ = [
    "WEIGHTS",
    "Found",
    "Weight",
    "check_folders",
    "fetch",
    "find",
    "import_file",
    "missing",
    "places",
]

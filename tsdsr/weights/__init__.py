"""Published weights of metrics and losses: their registry, search and download."""

from tsdsr.weights.registry import WEIGHTS, Weight
from tsdsr.weights.search import check_folders, find, missing
from tsdsr.weights.store import fetch

__all__ = ["WEIGHTS", "Weight", "check_folders", "fetch", "find", "missing"]

"""The exception for user errors: entry points print its message in one line and exit with status 2."""

from __future__ import annotations


class UserError(ValueError):
    """Invalid input. The message states the fault, where it is, and what to do."""

"""The one exception that is a message for people: entry points print it as a line and exit with status 2."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input. The message says what was wrong, where, and what to do."""

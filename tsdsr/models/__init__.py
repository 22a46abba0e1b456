"""Teacher, student and their adapters. Nothing here knows of a loss."""

from tsdsr import compat

compat.apply()

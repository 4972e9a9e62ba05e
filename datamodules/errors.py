"""Errors of data and of the options that describe it."""

from modules.errors import UserError


class DataError(UserError, ValueError):
    """Something in the data, or in the options that describe it, that a run cannot go on with.

    The message names the bad value, where it came from and what to do next.
    """

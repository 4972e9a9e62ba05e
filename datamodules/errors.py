"""Errors that end a run with a sentence for its user instead of a traceback."""


class DataError(ValueError):
    """Something in the data, or in the options that describe it, that a run cannot go on with.

    The message names the bad value, where it came from and what to do next.
    """

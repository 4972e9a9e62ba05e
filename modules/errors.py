"""Errors that end a command with a sentence for its user instead of a traceback."""


class UserError(Exception):
    """What a user can mend; the message names the bad value, where it came from and what to do next."""


class ModelError(UserError, ValueError):
    """A model directory, hub id, backbone or captioner that cannot be used."""


class CheckpointError(UserError, ValueError):
    """A checkpoint that cannot be read, or does not say what is needed."""


class UnusableImageError(ValueError):
    """An image that an extractor or a perturbation cannot take; the run goes on without it, and keeps the reason."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]

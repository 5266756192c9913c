"""The one exception for what a user can mend: a wrong option, a missing file, a damaged checkpoint, a diverged run."""


class BrsweepError(ValueError):
    """What is wrong, where, and what to do, in one line.

    The commands print the message alone and exit with code 1. Any other exception is a fault of the program and keeps
    its traceback.
    """

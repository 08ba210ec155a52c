"""The one exception that a user's input can raise."""

from pathlib import Path


class DetectPruneError(Exception):
    """A sentence for the person at the keyboard: what is wrong, where, and what was expected.

    The command line prints it without a traceback and exits with status 2. Everything else that
    escapes is a bug of ours and keeps its traceback.

    Args:
        message: one sentence that says what was found and what was expected.
        file: the file that is meant, if any.
        line: the line of that file, counted from 1.
    """

    def __init__(self, message: str, *, file: str | Path | None = None, line: int | None = None):
        self.file = None if file is None else Path(file)
        self.line = line
        place = "" if file is None else f"{file}: " if line is None else f"{file}:{line}: "
        super().__init__(place + message)


class Notice(UserWarning):
    """A sentence for the person at the keyboard that ends nothing. The command line prints it as such."""

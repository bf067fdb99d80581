"""The errors a user sees: each names the cause and the fix."""


class SeerecError(Exception):
    """A problem the user can act on.

    Parameters
    ----------
    cause
        One sentence: what is wrong, with the file, column or value at fault.
    fix
        One sentence: what to do about it.
    """

    def __init__(self, cause: str, fix: str) -> None:
        super().__init__(f"{cause} {fix}")
        self.cause = cause
        self.fix = fix


class DiskError(SeerecError):
    """Something could not be written."""

"""The exception for mistakes a user can mend, and the kind of it that costs no more than some metrics; and what is
raised for a value that lacks by a mistake of ours."""

from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
    """A wrong input. The message is one line: what, where, the legal values, what to do.

    Stages print it without a traceback and exit with code 2 (see `lethe.stage.cli.run`).
    """


class NotThere(UserError):
    """A weight file that some metrics need is absent: they are left out, and the text is the reason that is given."""


def needed(value: T | None, what: str) -> T:
    """A value that may lack elsewhere, but not here, since an earlier check has refused it; `what` names it.

    Raises ValueError if it lacks all the same: a mistake of the caller's, not of a user's.
    """
    if value is None:
        raise ValueError(f"there is no {what}")
    return value

"""The exception for mistakes a user can mend, and the kind of it that costs no more than some metrics."""


class UserError(Exception):
    """A wrong input. The message is one line: what, where, the legal values, what to do.

    Stages print it without a traceback and exit with code 2 (see `lethe.stage.cli.run`).
    """


class NotThere(UserError):
    """A weight file that some metrics need is absent: they are left out, and the text is the reason that is given."""

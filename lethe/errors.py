"""The one exception for mistakes a user can mend."""


class UserError(Exception):
    """A wrong input. The message is one line: what, where, the legal values, what to do.

    Stages print it without a traceback and exit with code 2 (see `lethe.cli.run`).
    """

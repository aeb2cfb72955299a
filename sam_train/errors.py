"""The one exception whose message is the whole answer."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend.

    The message is one line: what is wrong, where, and the way out. The command line prints it
    without a traceback and exits with status 2; in python it is raised like any other exception.
    """

"""Errors meant for the user: one line that says what was given, what was expected, what to do.

The command line prints the message without a traceback and ends with the class's exit code;
any other exception is a bug of ours and keeps its traceback.
"""

from __future__ import annotations


class PosterEdgeError(Exception):
    """Base of all user errors; exit code 1: a run-time failure."""

    exit_code = 1


class InputError(PosterEdgeError):
    """A file or a stream that was given cannot be read or holds something else; exit code 1."""


class UsageError(PosterEdgeError):
    """The options contradict each other or name something unknown; exit code 2."""

    exit_code = 2


class GateError(PosterEdgeError):
    """An accuracy gate failed; exit code 3."""

    exit_code = 3


class UnavailableError(PosterEdgeError):
    """The environment, a model or an engine does not fit what was asked for; exit code 4."""

    exit_code = 4

"""What an exit code means; the same for every command."""

from __future__ import annotations

OK = 0
PROBLEMS = 1  # refused: settings, rules, the broker, an unknown word
USAGE = 2  # the command line itself is wrong
UNBALANCED = 3  # run --until-end: the ledger does not balance
ENDED_EARLY = 4  # run --until-end: ended before everything was done (flood guard, stopped)
CANCELLED = 5  # a second signal cancelled the drain; what was unfinished is read again
BUG = 70  # a mistake of ours, with its place on stderr
INTERRUPTED = 130  # Ctrl-C ended a command that is not `run`

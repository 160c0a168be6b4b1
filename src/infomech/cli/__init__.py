"""The command line: parse, call, print. Torch is imported only once a command runs, so that help answers at once."""

from . import report, choose, score, embed, losses, study  # in the order of the help  # isort: skip
from .app import app, main

__all__ = ["app", "choose", "embed", "losses", "main", "report", "score", "study"]

"""Reading and writing embeddings, pairs, labels and texts: every format told apart by content, one policy for text.

A file that cannot be used is refused with one line that says which file, what was found in it, and what to do.
Pickles are refused, inside other formats too: loading one runs whatever code its author put there.
"""

from .arrays import FORMATS, read_embeddings, write_embeddings
from .pairs import as_labels, read_labels, read_pairs
from .rows import as_pairs, as_rows
from .tables import read_table
from .text import read_lines, read_text

__all__ = [
    "FORMATS",
    "as_labels",
    "as_pairs",
    "as_rows",
    "read_embeddings",
    "read_labels",
    "read_lines",
    "read_pairs",
    "read_table",
    "read_text",
    "write_embeddings",
]

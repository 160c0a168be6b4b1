"""The sections of a report, in the order of the page. One file each: its words, rows, chart, figure and comparison."""

from ..section import Section
from .budget import BUDGET
from .curves import CURVES
from .gap import GAP
from .geometry import GEOMETRY
from .information import INFORMATION
from .retrieval import RETRIEVAL
from .score import SCORE
from .similarity import SIMILARITY
from .spread import SPREAD

SECTIONS: tuple[Section, ...] = (INFORMATION, BUDGET, GAP, SIMILARITY, SPREAD, CURVES, RETRIEVAL, SCORE, GEOMETRY)

__all__ = ["SECTIONS"]

"""Reports: HTML, JSON, Markdown, LaTeX and figures; the only place that draws a diagnosis.

`Report` wraps a diagnosis, writes it to a folder and reads it back; `compare` puts several side by side. What stands in
a report is made by its `sections`, one module each; pages, texts and figures are loops over them.
"""

from .compare import Comparison, compare
from .ranking import Ranking, rank
from .report import Report, diagnose
from .schema import SCHEMA_VERSION, read_report_json
from .shared import SharedInformation, shared_information
from .shrunk import Shrunk, shrink

__all__ = [
    "SCHEMA_VERSION",
    "Comparison",
    "Ranking",
    "Report",
    "SharedInformation",
    "Shrunk",
    "compare",
    "diagnose",
    "rank",
    "read_report_json",
    "shared_information",
    "shrink",
]

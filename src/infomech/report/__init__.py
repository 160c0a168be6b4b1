"""Reports: HTML, JSON, Markdown, LaTeX and figures; the only place that draws a diagnosis.

`Report` wraps a diagnosis and writes it to a folder; `compare` reads such folders back and puts them side by side.
"""

from .comparison import Comparison, compare
from .report import Report, diagnose
from .schema import SCHEMA_VERSION, read_report_json

__all__ = ["SCHEMA_VERSION", "Comparison", "Report", "compare", "diagnose", "read_report_json"]

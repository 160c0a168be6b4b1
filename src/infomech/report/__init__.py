"""Reports: HTML, JSON, Markdown, LaTeX and figures; the only place that draws a diagnosis."""

from .report import Report
from .schema import SCHEMA_VERSION, read_report_json

__all__ = ["SCHEMA_VERSION", "Report", "read_report_json"]

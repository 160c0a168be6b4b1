"""Markdown and LaTeX."""
def report_markdown(view, figures): return ""
def report_tex(view): return ""

"""Reports: HTML, JSON, Markdown, LaTeX and figures; the only place that draws a diagnosis."""

"""Embedding extraction: paired data through the encoders of a model, into shards on disk, resumable at any moment."""

from .devices import resolve_device
from .extract import Extraction, ExtractOptions, extract
from .sources import Columns, ListedImages, Source, open_coco, open_source

__all__ = [
    "Columns",
    "ExtractOptions",
    "Extraction",
    "ListedImages",
    "Source",
    "extract",
    "open_coco",
    "open_source",
    "resolve_device",
]

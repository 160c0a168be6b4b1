"""Embedding extraction: paired data through the encoders of a model, into shards on disk, resumable at any moment."""

from ..io.devices import resolve_device
from .extract import Extraction, ExtractOptions, extract
from .opening import Columns, open_coco, open_source
from .sources import ListedImages, Source

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

"""Losses as other libraries call them. None of those libraries is needed to import this; names load when used."""

from .._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)

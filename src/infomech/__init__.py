"""infomech: what a contrastive loss is made of, how large the modality gap is, and how to close it.

The public names stand in ``__init__.pyi``; each is loaded when it is first used, so that the command line answers
before torch is imported.
"""

from ._lazy import lazy_names

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)

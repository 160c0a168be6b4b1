"""Laws of representations: closed-form families."""

from .von_mises_fisher import VonMisesFisher

__all__ = ["VonMisesFisher"]

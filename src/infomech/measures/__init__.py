"""Laws of representations: paired samples, densities on quadrature nodes, and closed-form families."""

from .density import *
from .paired import *
from .von_mises_fisher import *

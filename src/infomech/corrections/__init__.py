"""Fit/transform corrections of the gap after training (C2), each scored before and after on groups it has not seen."""

from .base import Correction as Correction
from .one_sided import *
from .scoring import *
from .shifts import *
from .transports import *

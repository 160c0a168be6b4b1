from . import corrections as corrections
from . import energies as energies
from . import equilibria as equilibria
from . import geometry as geometry
from . import integrations as integrations
from . import io as io
from . import losses as losses
from . import measures as measures
from . import scores as scores
from ._checks import InfomechError as InfomechError
from ._checks import InputError as InputError
from .diagnosis import EnergyBudget as EnergyBudget
from .diagnosis import Estimate as Estimate
from .diagnosis import decompose as decompose
from .diagnosis import gap as gap
from .geometry import RBF as RBF
from .geometry import Cosine as Cosine
from .geometry import FlatTorus as FlatTorus
from .geometry import Sphere as Sphere
from .geometry import log_kernel_volume as log_kernel_volume
from .measures import VonMisesFisher as VonMisesFisher
from .report import Report as Report
from .report import compare as compare
from .report import diagnose as diagnose
from .report import rank as rank
from .report import shared_information as shared_information

__version__: str

"""Public names of the package, for editors and type checkers; at run time ``__init__.py`` imports them on first use."""

from randomwalk import denoisers as denoisers
from randomwalk import operators as operators
from randomwalk import samplers as samplers
from randomwalk.denoisers.checkpoints import load_denoiser as load_denoiser
from randomwalk.denoisers.checkpoints import save_denoiser as save_denoiser
from randomwalk.denoisers.denoiser import Denoiser as Denoiser
from randomwalk.denoisers.mixture import GaussianMixture as GaussianMixture
from randomwalk.denoisers.wrap import wrap as wrap
from randomwalk.errors import InputError as InputError
from randomwalk.errors import RunError as RunError
from randomwalk.operators import Measurement as Measurement
from randomwalk.operators import Operator as Operator
from randomwalk.operators import kernels as kernels
from randomwalk.operators.noise import GaussianNoise as GaussianNoise
from randomwalk.samplers import likelihood as likelihood
from randomwalk.samplers import schedules as schedules
from randomwalk.samplers.walk import walk as walk
from score_sde import sdes as sdes

__version__: str

"""Physics objects of the library deepinv as our operators, and ours as deepinv's (``pip install deepinv``).

    operator = from_deepinv(deepinv.physics.BlurFFT((3, 64, 64), filter), image_shape=(3, 64, 64))
    physics = to_deepinv(operators.make("compressed_sensing", image_shape=(3, 64, 64)))

Nothing is rescaled: operators act on pixels in [-1, 1] here, including those that come from deepinv, while deepinv's
own models take [0, 1]. Noise is not converted: `operators.noise` here, ``noise_model`` there.

Source: Tachella et al. 2025, arXiv 2505.20160.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from randomwalk.errors import InputError
from randomwalk.lookup import optional_library
from randomwalk.operators import Operator


def _deepinv_physics() -> Any:
    return optional_library("deepinv.physics", "deepinv", "the adapter")


class PhysicsOperator(Operator):
    """A deepinv physics object as an operator, see :func:`from_deepinv`."""

    def __init__(self, physics: Any, image_shape: Sequence[int]) -> None:
        super().__init__(image_shape)
        library = _deepinv_physics()
        if not isinstance(physics, library.Physics):
            raise InputError(f"from_deepinv: found {type(physics).__name__}; expected a deepinv.physics.Physics")
        self.linear = isinstance(physics, library.LinearPhysics)
        self.decomposed = isinstance(physics, library.DecomposablePhysics)
        self.physics = physics
        if not isinstance(y := physics.A(self._blank()), Tensor):
            raise InputError(f"from_deepinv: {type(physics).__name__} measures a {type(y).__name__}, not one tensor")

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.physics.A(x)
        return y

    def adjoint(self, y: Tensor) -> Tensor:
        if not self.linear:
            return super().adjoint(y)
        x: Tensor = self.physics.A_adjoint(y)
        return x

    @property
    def has_spectral(self) -> bool:
        return self.decomposed

    def spectral(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if not self.decomposed:
            return super().spectral(f, x)
        # A = U diag(s) V^T: f(A^T A) = f(0) I + V (f(|s|^2) - f(0)) V^T
        squared = torch.as_tensor(self.physics.mask, device=x.device).abs().double() ** 2
        at_zero = f(squared.new_zeros(()))
        change = (f(squared) - at_zero).to(x.dtype)
        return at_zero.to(x.dtype) * x + self.physics.V(change * self.physics.V_adjoint(x))


def from_deepinv(physics: Any, image_shape: Sequence[int]) -> Operator:
    """A deepinv physics object as an operator, without its noise.

    It is linear if it is a ``LinearPhysics``, and has a spectral decomposition if it is a ``DecomposablePhysics``; the
    rest is by conjugate gradients, and ``Dense.of`` makes a matrix of it for small images. The mask or kernel of the
    physics is shared by all images of a batch.

    Args:
        physics: a ``deepinv.physics.Physics`` whose measurement is one tensor.
        image_shape: ``(C, H, W)``.

    Raises:
        InputError: deepinv is missing, or the object is not a physics.
    """
    return PhysicsOperator(physics, image_shape)


def to_deepinv(operator: Operator, **settings: Any) -> Any:
    """An operator as a deepinv ``LinearPhysics``, or ``Physics`` if it is not linear.

    The adjoint, pseudo-inverse and proximal map are those of the operator.

    Args:
        operator: the operator.
        settings: keywords of the physics, such as ``noise_model``.

    Raises:
        InputError: deepinv is missing.
    """
    library = _deepinv_physics()
    base: Any = library.LinearPhysics if operator.linear else library.Physics

    class OperatorPhysics(base):
        def __init__(self) -> None:
            super().__init__(**settings)
            self.operator = operator

        def A(self, x: Tensor, **_: Any) -> Tensor:  # noqa: N802
            y: Tensor = self.operator(x)
            return y

    if not operator.linear:
        return OperatorPhysics()
    settings["img_size"] = operator.image_shape

    class LinearOperatorPhysics(OperatorPhysics):
        def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:  # noqa: N802
            return self.operator.adjoint(y)

        def A_dagger(self, y: Tensor, **_: Any) -> Tensor:  # noqa: N802
            return self.operator.pinv(y)

        def prox_l2(self, z: Tensor | float, y: Tensor, gamma: Tensor | float, **_: Any) -> Tensor:
            """``argmin_x gamma/2 ||A x - y||^2 + 1/2 ||x - z||^2``."""
            if not isinstance(z, Tensor):
                z = torch.full_like(self.operator.adjoint(y), z or 0.0)
            return self.operator.proximal(z, y, float(gamma) ** -0.5, 1.0)

    return LinearOperatorPhysics()

"""Physics objects of the library deepinv as our operators, and ours as deepinv's (``pip install deepinv``).

    operator = from_deepinv(deepinv.physics.BlurFFT((3, 64, 64), filter), image_shape=(3, 64, 64))
    physics = to_deepinv(operators.make("compressed_sensing", image_shape=(3, 64, 64)))

Nothing is rescaled: operators act on pixels in [-1, 1] here, including those that come from deepinv, while deepinv's
own models take [0, 1]. Noise is not converted: `operators.noise` here, ``noise_model`` there.

Source: Tachella et al. 2025, arXiv 2505.20160.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from randomwalk.errors import InputError
from randomwalk.lookup import optional_library
from randomwalk.operators.operator import Operator
from randomwalk.operators.solve import conjugate_gradients
from randomwalk.rng import Stream, seed_torch, torch_generator
from score_sde.devices import exact_type

EXACT = 1e-4
"""Largest error of an inner product with the adjoint, relative to the norms, in float32."""
OBJECTS = frozenset({"device", "dtype", "rng", "noise_model", "sensor_model", "solver"})
"""Arguments of the library's classes that are not for settings."""


def _deepinv_physics() -> Any:
    return optional_library("deepinv.physics", "deepinv", "the adapter")


class PhysicsOperator(Operator):
    """A deepinv physics object as an operator, see :func:`from_deepinv`."""

    def __init__(self, physics: Any, image_shape: Sequence[int]) -> None:
        library = _deepinv_physics()
        if not isinstance(physics, library.Physics):
            raise InputError(f"from_deepinv: found {type(physics).__name__}; expected a deepinv.physics.Physics")
        if len(image_shape) != 3:
            raise InputError(
                f"from_deepinv: {type(physics).__name__} on images of shape {tuple(image_shape)}: only images of "
                "channels, height and width are sampled here, not sequences or volumes"
            )
        super().__init__(image_shape)
        self.linear = isinstance(physics, library.LinearPhysics)
        self.decomposed = isinstance(physics, library.DecomposablePhysics)
        self.physics = physics
        try:
            with torch.no_grad():
                self.parts = _Parts.of(y := physics.A(self._blank()))
                self.parts_axis = -1 if self.parts.kind is None and self.parts.complex[0] else None
                self._rows_together = self._takes_batches(y)
                self._adjoint_is_exact = self.linear
                if self.linear and not self._has_exact_adjoint():
                    self._adjoint_is_exact = False
                    if not self._has_exact_adjoint():
                        raise ValueError(
                            "neither A_adjoint nor automatic differentiation gives the adjoint of A; for Tomography "
                            "use adjoint_via_backprop=True"
                        )
        except Exception as error:  # the library's classes raise anything for a shape that they do not take
            raise InputError(
                f"from_deepinv: {type(physics).__name__} does not measure an image of shape {self.image_shape} "
                f"({(str(error).strip().splitlines() or [type(error).__name__])[0][:300]})"
            ) from error

    def _takes_batches(self, y: Any) -> bool:
        """Whether it measures two images at a time; a class with a state for each image may not."""
        try:
            two = self.parts.joined(self.physics.A(self._blank().expand(2, *self.image_shape).clone()))
        except (RuntimeError, ValueError, IndexError):
            return False
        return two.shape == (2, *self.parts.joined(y).shape[1:])

    def _has_exact_adjoint(self) -> bool:
        """Whether ``<A x, y> = <x, A^T y>``; some of the library's adjoints are approximate."""
        made = torch_generator(0, Stream.ADJOINT)
        blank = self._blank()
        x = torch.randn(blank.shape, generator=made).to(blank)
        measured = self(x).detach()
        direction = torch.randn(measured.shape, generator=made).to(measured)
        back = self.adjoint(direction)
        if not isinstance(back, Tensor) or back.shape != x.shape or back.is_complex():
            return False
        ours, theirs = (measured * direction).sum(), (x * back).sum()
        return bool((ours - theirs).abs() <= EXACT * measured.norm() * direction.norm())

    def _blank(self) -> Tensor:
        """Zeros of the physics' own type, on its own device."""
        like = next(_tensors(self.physics), torch.empty(0))
        return torch.zeros((1, *self.image_shape), dtype=like.real.dtype, device=like.device)

    def _exact_blank(self) -> Tensor:
        return self._blank()

    def _by_rows(self, function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        own = rows.to(self._blank().dtype)
        made = function(own) if self._rows_together else torch.cat([function(row) for row in own.split(1)])
        return made.to(rows.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self._by_rows(lambda rows: self.parts.joined(self.physics.A(rows)), x)

    def adjoint(self, y: Tensor) -> Tensor:
        if not self._adjoint_is_exact:
            return super().adjoint(y)
        return self._by_rows(lambda rows: self.physics.A_adjoint(self.parts.split(rows)), y)

    @property
    def has_spectral(self) -> bool:
        return self.decomposed and self._adjoint_is_exact and self._rows_together

    def spectral(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if not self.has_spectral:
            return super().spectral(f, x)
        # A = U diag(s) V^T: f(A^T A) = f(0) I + V (f(|s|^2) - f(0)) V^T
        mask, own = torch.as_tensor(self.physics.mask, device=x.device), self._blank().dtype
        squared = mask.abs().to(exact_type(x.device)) ** 2
        at_zero = f(squared.new_zeros(()))
        change = (f(squared) - at_zero).to(own)
        moved: Tensor = self.physics.V(change * self.physics.V_adjoint(x.to(own)))
        return at_zero.to(x.dtype) * x + moved.to(x.dtype)


def _tensors(physics: Any) -> Iterator[Tensor]:
    """The floating and complex tensors of a physics object: buffers, parameters, and attributes of it and its parts."""
    for module in physics.modules():
        held = chain(module.buffers(recurse=False), module.parameters(recurse=False), vars(module).values())
        yield from (t for t in held if isinstance(t, Tensor) and (t.is_floating_point() or t.is_complex()))


@dataclass(frozen=True)
class _Parts:
    """Form of a measurement: real tensors are taken as they are; complex ones as pairs of real numbers, in a last
    dimension; several tensors as one row of numbers.

    Args:
        shapes: of each tensor, without the batch.
        dtypes: of each tensor.
        kind: of the list of tensors; None for a single one.
    """

    shapes: tuple[torch.Size, ...]
    complex: tuple[bool, ...]
    kind: Any

    @classmethod
    def of(cls, y: Any) -> _Parts:
        parts = [y] if isinstance(y, Tensor) else list(y)
        if not all(isinstance(part, Tensor) for part in parts):
            raise ValueError(f"it measures a {type(y).__name__}, not tensors")
        kind = None if isinstance(y, Tensor) else type(y)
        return cls(tuple(p.shape[1:] for p in parts), tuple(p.is_complex() for p in parts), kind)

    def joined(self, y: Any) -> Tensor:
        """The measurement as one real tensor."""
        real = [torch.view_as_real(part) if part.is_complex() else part for part in ([y] if self.kind is None else y)]
        return real[0] if self.kind is None else torch.cat([part.flatten(1) for part in real], 1)

    def split(self, y: Tensor) -> Any:
        """The measurement as the physics have it."""
        if self.kind is None:
            return torch.view_as_complex(y.contiguous()) if self.complex[0] else y
        sizes = [shape.numel() * (1 + pair) for shape, pair in zip(self.shapes, self.complex, strict=True)]
        parts = []
        for row, shape, pair in zip(y.split(sizes, 1), self.shapes, self.complex, strict=True):
            whole = row.reshape(-1, *shape, 2) if pair else row.reshape(-1, *shape)
            parts.append(torch.view_as_complex(whole.contiguous()) if pair else whole)
        return self.kind(parts)


def from_deepinv(physics: Any, image_shape: Sequence[int]) -> Operator:
    """A deepinv physics object as an operator, without its noise.

    It is linear if it is a ``LinearPhysics``, and has a spectral decomposition if it is a ``DecomposablePhysics``; the
    rest is by conjugate gradients, and ``Dense.of`` makes a matrix of it for small images. The mask or kernel of the
    physics is shared by all images of a batch. It computes in its own floating type and on its own device. An adjoint
    of the library that is only approximate is replaced by that of automatic differentiation.

    Complex measurements become pairs of real numbers, each with the standard deviation of the noise; lists of tensors
    (stacked physics, pansharpening) become one row of numbers. `split` of the operator's ``parts`` is the way back.

    Args:
        physics: a ``deepinv.physics.Physics`` of images ``[B, C, H, W]``.
        image_shape: ``(C, H, W)``.

    Raises:
        InputError: deepinv is missing, or the object is not a physics, or does not measure such images.
    """
    return PhysicsOperator(physics, image_shape)


def make_deepinv(image_shape: Sequence[int], physics: str, arguments: Mapping[str, Any]) -> Operator:
    """A linear physics of the library by its name, see :class:`randomwalk.config.operators.DeepinvSettings`.

    Raises:
        InputError: deepinv is missing, has no such class, or the class does not take the arguments or the images.
    """
    library = _deepinv_physics()
    linear = {
        name: made
        for name, made in vars(library).items()
        if inspect.isclass(made) and issubclass(made, library.LinearPhysics)
    }
    if physics not in linear:
        near = difflib.get_close_matches(physics, linear, n=3)
        said = f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(sorted(linear))}"
        raise InputError(f"deepinv: physics: found {physics!r}, which is no linear physics of deepinv; {said}")
    parameters = inspect.signature(linear[physics]).parameters.values()
    allowed = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    allowed = [name for name in allowed if name not in OBJECTS]
    if unknown := sorted(set(arguments) - set(allowed)):
        raise InputError(
            f"deepinv: arguments: {physics} takes no {', '.join(unknown)} here; allowed: {', '.join(allowed) or 'none'}"
        )
    sizes = {"img_size": tuple(image_shape), "img_width": image_shape[-1]}
    given = {name: size for name, size in sizes.items() if name in allowed}
    given |= {name: _argument(value) for name, value in arguments.items()}
    try:
        with torch.random.fork_rng(devices=[]):
            seed_torch(torch.device("cpu"), 0, Stream.PHYSICS)
            made = linear[physics](**given)
    except Exception as error:  # the library's classes raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise InputError(f"deepinv: arguments: {physics} refuses {_shown(given)} ({reason})") from error
    return from_deepinv(made, image_shape)


def _argument(value: Any) -> Any:
    """A list as a tuple, lists of lists as a tensor, and anything else as it is."""
    if not isinstance(value, list):
        return value
    try:
        return torch.tensor(value, dtype=torch.float32) if value and isinstance(value[0], list) else tuple(value)
    except (TypeError, ValueError) as error:
        raise InputError("deepinv: arguments: lists of lists must be numbers, and as long as one another") from error


def _shown(given: Mapping[str, Any]) -> str:
    """Arguments in a message."""
    return ", ".join(f"{name}={str(value)[:60]}" for name, value in given.items()) or "no arguments"


def to_deepinv(operator: Operator, **settings: Any) -> Any:
    """An operator as a deepinv ``LinearPhysics``, or ``Physics`` if it is not linear.

    The adjoint, pseudo-inverse and proximal map are those of the operator; where the last two are found by conjugate
    gradients, these end after the physics' ``max_iter``.

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
            if self.operator.has_spectral or type(self.operator).pinv is not Operator.pinv:
                return self.operator.pinv(y)
            return conjugate_gradients(
                lambda x: self.operator.adjoint(self.operator(x)), self.operator.adjoint(y), enough=self.max_iter
            )

        def prox_l2(self, z: Tensor | float, y: Tensor, gamma: Tensor | float, **_: Any) -> Tensor:
            """``argmin_x gamma/2 ||A x - y||^2 + 1/2 ||x - z||^2``."""
            if not isinstance(z, Tensor):
                z = torch.full_like(self.operator.adjoint(y), z or 0.0)
            return self.operator.proximal(z, y, float(gamma) ** -0.5, 1.0, iterations=self.max_iter)

    return LinearOperatorPhysics()

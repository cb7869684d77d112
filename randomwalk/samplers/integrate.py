"""Adaptive integration of an ordinary differential equation by torchdiffeq, with a tolerance for each image."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from randomwalk.errors import RunError
from randomwalk.lookup import optional_library
from score_sde.devices import on_device

MAX_STEPS = 10_000
"""Limit of the solver's steps, far more than a smooth flow takes."""


def worst_rms(error: Tensor) -> Tensor:
    """Maximum over the images ``[B, ...]`` of the root mean square of each."""
    return error.flatten(1).square().mean(1).sqrt().max()


def integrate(
    rate: Callable[[Tensor, Tensor], Tensor],
    start: Tensor,
    times: Tensor,
    where: str,
    *,
    method: str,
    rtol: float,
    atol: float,
    norm: Callable[[Tensor], Tensor] | None = None,
    first_step: Tensor | None = None,
) -> Tensor:
    """States of ``dz/dt = rate(t, z)`` at ``times``, ``[T, *start.shape]``.

    The last step ends at the last time. States at times between are interpolated.

    Args:
        rate: right-hand side; its method ``callback_step(t, z, step)``, if any, is called before each step.
        start: z at the first time, ``[B, ...]``.
        times: ascending, float64 ``[T]``.
        where: beginning of the error message.
        method: of torchdiffeq, with adaptive steps.
        rtol, atol: a step is accepted if the norm of ``error / (atol + rtol |z|)`` is at most 1.
        norm: `worst_rms` by default, so that every image meets the tolerance.
        first_step: chosen by the solver by default.

    Raises:
        RunError: no step meets the tolerance.
    """
    torchdiffeq = optional_library("torchdiffeq", "ode", "adaptive integration")
    # Without step_t the solver would step past the end and interpolate: to levels that the denoiser may not know.
    times = on_device(times, start.device)
    options = {
        "norm": norm or worst_rms, "step_t": times[-1:], "first_step": first_step, "max_num_steps": MAX_STEPS,
        "dtype": times.dtype,
    }  # fmt: skip
    try:
        states: Tensor = torchdiffeq.odeint(rate, start, times, rtol=rtol, atol=atol, method=method, options=options)
    except AssertionError as error:  # raised by torchdiffeq when steps shrink to nothing, and for NaN
        raise RunError(
            f"{where}: the solver gave up ({str(error)[:200]}): raise rtol and atol (now {rtol:g} and {atol:g}), or "
            "check the network"
        ) from error
    return states

"""benchmarks/posterior_mixture.py: the exact samples of its problem, its distances, its settings, one small run."""

from __future__ import annotations

import math

import posterior_mixture
import pytest
import torch
import yaml
from support.mixture_problem import SLICES, make_problem, sliced

from randomwalk import InputError
from randomwalk.config.samplers import POSTERIOR_NAMES


@pytest.mark.parametrize(("d", "m"), [(8, 1), (8, 4), (80, 2)])
def test_exact_samples_are_of_the_posterior(d: int, m: int) -> None:
    problem = make_problem(d, m, 3)
    exact = problem.prior.posterior(problem.operator, problem.y, problem.noise.std)
    torch.testing.assert_close(problem.weights, exact.log_weights.exp())
    num = 20_000
    x = problem.exact(num, 1)
    assert problem.weight_error(x) < 25 * 5 * 0.5 / math.sqrt(num) / 2
    shares = exact.log_weights.exp()
    mean = shares @ exact.means
    centred = exact.means - mean
    covariance = torch.einsum("k,kij->ij", shares, exact.covariances()) + (shares * centred.T) @ centred
    whiten = torch.linalg.inv(torch.linalg.cholesky(covariance))
    z = (x - mean) @ whiten.T
    assert (z.mean(0).abs() < 5 / math.sqrt(num)).all()
    products = torch.einsum("ni,nj->nij", z[:, :8], z[:, :8])
    error = (products.mean(0) - torch.eye(8)).abs()
    assert (error < 5 * products.std(0) / math.sqrt(num)).all()


def test_same_seed_same_problem() -> None:
    assert torch.equal(make_problem(8, 2, 5).y, make_problem(8, 2, 5).y)
    assert not torch.equal(make_problem(8, 2, 5).y, make_problem(8, 2, 6).y)


def test_sliced_distances_are_those_of_the_library() -> None:
    ot = pytest.importorskip("ot")
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(50, 6, generator=draws, dtype=torch.float64)
    y = 2 + 3 * torch.randn(50, 6, generator=draws, dtype=torch.float64)
    directions = torch.randn(6, SLICES, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    directions = (directions / directions.norm(dim=0)).numpy()
    expected = [ot.sliced_wasserstein_distance(x.numpy(), y.numpy(), projections=directions, p=p) for p in (1, 2)]
    assert sliced(x, y, seed=4) == pytest.approx(expected, rel=1e-9)


def test_every_sampler_is_tuned_with_the_same_care() -> None:
    assert {name.split(",")[0] for name in posterior_mixture.CANDIDATES} == set(POSTERIOR_NAMES) - {"posterior_mean"}
    assert {len(candidates) for candidates in posterior_mixture.CANDIDATES.values()} == {6}
    for chosen in yaml.safe_load(posterior_mixture.SETTINGS.read_text("utf-8")).values():
        assert chosen.keys() == posterior_mixture.CANDIDATES.keys()
        for name, settings in chosen.items():
            assert settings in posterior_mixture.CANDIDATES[name]


def test_a_small_run() -> None:
    """Twenty levels of the exact sampler are near the floor, five of the walk are not."""
    smc = {"schedule": "karras", "num_steps": 20, "probes": 1}
    walk = {"schedule": "karras", "num_steps": 5, "step_scale": 0.5}
    methods = {posterior_mixture.FLOOR: {}, "tweedie_smc": smc, "random_walk": walk}
    jobs = [posterior_mixture.job_of(name, settings, 8, 2, [7], 200) for name, settings in methods.items()]
    floor, ours, walked = (posterior_mixture.do(job)[0] for job in jobs)
    assert floor["sliced_w1"] < 1.0 and ours["sliced_w1"] < 1.5 and walked["sliced_w1"] > 2.0
    assert (ours["evaluations"], ours["vjps"]) == (21, 21 * 4)
    with pytest.raises(InputError, match="--samplers: nobody"):
        posterior_mixture.main(posterior_mixture.options().parse_args(["--samplers", "nobody"]))

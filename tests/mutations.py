"""Edits of the mathematics that the tests must notice, for `mutate.py`: a table that grows with the library.

Each is a mistake that somebody might make: a dropped factor, the next level for this one, a sum for a mean, a sign, a
bound that is open where it is closed, a clamp that is forgotten, a norm over the whole batch. Its text occurs once in
its file, which `test_mutations.py` checks. An edit that changes nothing that matters has a note that says why.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    """Replacement of a text in a file.

    Attributes:
        file: relative to the root of the project.
        old, new: the texts.
        note: why the edit changes nothing, if it does not.
    """

    file: str
    old: str
    new: str
    note: str = ""

    def __str__(self) -> str:
        old, new = (" ".join(text.split()) for text in (self.old, self.new))
        return f"{self.file}: {old}  ->  {new or '(nothing)'}"


_TABLE: dict[str, list[tuple[str, str] | tuple[str, str, str]]] = {
    # --- samplers -----------------------------------------------------------------------------------------------------
    "randomwalk/samplers/walk.py": [
        ("math.sqrt(2 * temperature) * self", "math.sqrt(temperature) * self"),
        ("math.sqrt(2 * temperature) * (tau", "math.sqrt(temperature) * (tau"),
        ("math.sqrt(2 * temperature / self.scale)", "math.sqrt(temperature / self.scale)"),
        ("math.sqrt(2 * temperature / self.scale)", "math.sqrt(2 * temperature)"),
        ("r, g = self.sigma / math.sqrt(self.prior_weight)", "r, g = self.sigma * math.sqrt(self.prior_weight)"),
        ("alpha=g * r)", "alpha=g * self.sigma)"),
        ("y + g * self.eta * draw", "y + self.eta * draw"),
        ("x + self.scale * g * r * draw(x)", "x + g * r * draw(x)"),
        ('g > 0 and self.noise != "white"', "g > 0"),
        (
            "self.prior_weight / self.sigma**2 + eigenvalues / self.eta**2",
            "self.prior_weight / self.sigma**2 + eigenvalues / self.eta",
        ),
        ("self._gain(eigenvalues).sqrt()", "self._gain(eigenvalues)"),
        ("else drift + measurement.score(x)", "else drift + 2 * measurement.score(x)"),
        ("drift = drift + measurement.score(x)", "drift = drift + 2 * measurement.score(x)"),
        ("(tau**0.5 * draw(x))", "(tau * draw(x))"),
        ("torch.promote_types(x.dtype, torch.float32)", "x.dtype"),
        ("v = v + math.sqrt(2) * root(drift)", "v = v + root(drift)"),
        ("v = v + math.sqrt(2) * root(drift)", "v = math.sqrt(2) * root(drift)"),
        ("math.sqrt(temperature * (1 - momentum**2))", "math.sqrt(temperature * (1 - momentum))"),
        ("math.sqrt(temperature * (1 - momentum**2))", "math.sqrt(2 * temperature * (1 - momentum**2))"),
        ("root(v.add_(renewed)).div_(math.sqrt(2))", "root(v.add_(renewed)).div_(2)"),
        ("root(v.add_(renewed)).div_(math.sqrt(2))", "root(renewed).mul_(math.sqrt(2))"),
        ("v = math.sqrt(temperature) * draw(x)", "v = draw(x)"),
        ("return tau.drift(x, score, measurement), tau.sqrt", "return tau.drift(x, score, None), tau.sqrt"),
        ("lambda u: tau**0.5 * u", "lambda u: tau * u"),
        ("return x + self.scale * self.sigma**2 * score", "return x + self.sigma**2 * score"),
        ("self.operator.spectral(self._gain, g) / 2", "g / 2"),
        ("self.operator.spectral(self._gain, g) / 2", "self.operator.spectral(self._gain, score) / 2"),
        ("self.sigma**2 * self.operator.spectral(self._gain, along)", "self.sigma**2 * along"),
        ("(self.sigma / self.FRACTION) ** 2 * eigenvalues", "self.sigma**2 * eigenvalues"),
    ],
    "randomwalk/samplers/walks.py": [
        ("math.exp(-self.FRICTION / len(s))", "math.exp(-self.FRICTION)"),
        ("[momentum] * (len(s) - 1) + [0.0]", "[momentum] * len(s)"),
        ("PriorStep(measurement.operator, last, 1 / 2)", "PriorStep(measurement.operator, last, 1)"),
        (
            "PosteriorFlow(measurement.operator, last, measurement.std)",
            "PriorStep(measurement.operator, last, 1 / 2)",
        ),
        ("steps[-1] = last**2 / 2\n", "steps[-1] = last**2\n"),
        ("temperatures[-1] = 0\n", "temperatures[0] = 0\n"),
        (
            "torch.linspace(self.initial_temperature, self.final_temperature,",
            "torch.linspace(self.final_temperature, self.initial_temperature,",
        ),
        ("longest = measurement.noise.stable_std**2 /", "longest = measurement.noise.std**2 /"),
        ("steps = [min(c * sigma**2, longest)", "steps = [max(c * sigma**2, longest)"),
        ("steps = [min(c * sigma**2, longest)", "steps = [min(c * sigma, longest)"),
        ("(self.kappa * s.roll(-1)) ** 2 - ((1 - c) * s) ** 2", "(self.kappa * s.roll(-1)) ** 2"),
        ("temperatures = weights * drawn.clamp_min(0)", "temperatures = drawn.clamp_min(0)"),
        ("s.roll(-1)", "s"),
        ("sigma = max(self.LAST * plan.sigmas[-1], denoiser.", "sigma = max(plan.sigmas[-1], denoiser."),
        (
            "return self.step_scale * sigma**2, torch.ones_like(sigma)",
            "return 2 * self.step_scale * sigma**2, torch.ones_like(sigma)",
        ),
        ("torch.where(sigma_next > 0, 0.5, 0.0).to(sigma)", "torch.full_like(sigma, 0.5)"),
        ("sigma_next**2 / (2 * sigma**2)", "sigma_next**2 / sigma**2"),
        ("alpha = (1 + sigma_next**2) / (1 + sigma**2)", "alpha = sigma_next**2 / sigma**2"),
        ("torch.where(sigma_next > 0, alpha / 2, 0.0)", "alpha / 2"),
        ("variance = self.eta**2 * sigma_next**2 *", "variance = self.eta * sigma_next**2 *"),
        ("sigma * (sigma_next**2 - variance).sqrt()", "sigma * sigma_next"),
        ("return (sigma**2 - sigma_next**2) / 2, torch", "return sigma**2 - sigma_next**2, torch"),
        ("squared if squared > 1.25 else 1.0", "1.0"),
        ("squared = operator.norm() ** 2", "squared = operator.norm()"),
    ],
    "randomwalk/samplers/heun.py": [
        ("churns = self.s_min <= sigma <= (", "churns = self.s_min <= sigma < ("),
        ("churns = self.s_min <= sigma <= (", "churns = self.s_min < sigma <= ("),
        ("math.sqrt(2) - 1)", "math.sqrt(2))"),
        ("min(self.s_churn / num_levels,", "min(self.s_churn / (num_levels - 1),"),
        ("math.sqrt(r**2 - sigma**2)", "(r - sigma)"),
        ("self.s_noise * math", "math"),
        ("(d + slope(e, sigma_next)) / 2", "slope(e, sigma_next)"),
        ("return 2 * num_levels - 1", "return 2 * num_levels"),
        ("highest = max(levels, key=lambda sigma: self.raised(sigma, len(levels)))", "highest = max(levels)"),
    ],
    "randomwalk/samplers/dpm_solver.py": [
        ("(2 * math.log(sigma_prev / sigma))", "math.log(sigma_prev / sigma)"),
        ("phis(sigma, sigma_next)[0] * (D_next - D)", "phis(sigma, sigma_next)[1] * (D_next - D)"),
        ("return phi_2, 1 - 2 * phi_2 / h", "return phi_2, 1 - phi_2 / h"),
        ("phi_3 / (1 + h) * half_second", "phi_3 * half_second"),
        ("phi_3 / (1 + h) * half_second", "phi_3 / 2 * half_second"),
        ("if len(older) == 1:\n                x = corrected", "if len(older) == 3:\n                x = corrected"),
        ("polynomial(before, older", "polynomial(x, older"),
        ("[*older[1:], (sigma, D)]", "[(sigma, D)]"),
        ("*older[: self.solver_order - 1]]", "*older[:1]]"),
        ("integral = 1 - i * integral / h", "integral = 1 - integral / h"),
        ("integrals = [(1 - sigma_next / sigma) / 2]", "integrals = [1 - sigma_next / sigma]"),
        ("(near + r_q * half_second)", "(near - r_q * half_second)"),
        ("if previous is None or sigma_next == 0:", "if previous is None:"),
        (
            "older = [(sigma, D), *older[:1]]",
            "older = [(sigma, D), *older]",
            "only the first two are read: the others would only take memory",
        ),
    ],
    "randomwalk/samplers/ode.py": [
        ("return c * (self.denoise(z / c, sigma) - c * z)", "return c * (self.denoise(z / c, sigma) - z)"),
        ("x = z[-1] / _scale(sigma_next)", "x = z[-1] / _scale(sigma)"),
        (
            "sigma = max(math.exp(-float(time)), self.lowest)",
            "sigma = math.exp(-float(time))",
            "torchdiffeq asks for the rate just before the end of a step, which is above the lowest level",
        ),
    ],
    "randomwalk/samplers/integrate.py": [
        ("error.flatten(1).square().mean(1).sqrt().max()", "error.square().mean().sqrt()"),
        ('"step_t": times[-1:], ', ""),
        ('        "dtype": times.dtype,\n', ""),
    ],
    "randomwalk/samplers/predictor_corrector.py": [
        ("return problem.denoiser.score(z / a, sigma) / a", "return problem.denoiser.score(z / a, sigma)"),
        ("x = z / float(below.a)", "x = z / float(level.a)"),
        ("z = float(table.a[0]) * x", "z = x"),
        ("step.mean if last or not step.std", "step.mean if not step.std"),
        ("below = Level.clean() if last else table[k + 1]", "below = Level.clean() if last else table[k]"),
    ],
    "randomwalk/samplers/schedules.py": [
        ("for sigma in (float(sigmas[0]), float(sigmas[-1])):", "for sigma in (float(sigmas[0]),):"),
        ("h = (end - torch.sigmoid(3 / t0 * u)) / (end - 0.5)", "h = (end - torch.sigmoid(u / t0)) / (end - 0.5)"),
        ("(1 - u) * math.atan(sigma_max) + u * math.atan(sigma_min)", "(1 - u) * sigma_max + u * sigma_min"),
        ("rho: float = 7.0", "rho: float = 5.0"),
        ("return sigma_max * (sigma_min / sigma_max) ** u", "return sigma_max * (sigma_min / sigma_max) ** (u**2)"),
        ("sigmas = interpolate(snap(sigmas, table), table)", "sigmas = sigmas.clone()"),
        (".clamp(low, high)  # rounding", "  # rounding"),
        ("return sde.sigma((1 - u) * start + u * end)", "return sde.std((1 - u) * start + u * end)"),
        ("> _SAME_TABLE:", "> 1:"),
    ],
    "randomwalk/samplers/likelihood.py": [
        ("(u - 0.5) * (2 / (levels - 1))", "(u - 0.5) * (2 / levels)"),
        ("(u - 0.5) * (2 / (levels - 1))", "u * (2 / (levels - 1))"),
        ("- math.log2(2 / (levels - 1))", "- math.log2(2 / levels)"),
        ("- size * math.log(c_high)", ""),
        ("size * (gains + math.log(c_high / c_low))", "size * (gains + math.log(high / low))"),
        ("volumes.std(1) / math.sqrt(probes)", "volumes.std(1)"),
        ("volumes.std(1) / math.sqrt(probes)", "volumes.std(1, correction=0) / math.sqrt(probes)"),
        ("data_variance / c**2 * z -", "data_variance / c * z -"),
        ("return torch.maximum(worst_rms(error[:, :size]), worst_rms(error[:, size:]))", "return worst_rms(error)"),
        ("torch.where(v < 0, -1.0, 1.0).to(x) if kind", "torch.where(v < 0, 0.0, 1.0).to(x) if kind"),
        ("latent=(mean + c_high * z)", "latent=(c_high * z)"),
    ],
    "randomwalk/samplers/evidence.py": [
        ("value - weight * (found.mean(1) - entries)", "value + weight * (found.mean(1) - entries)"),
        ("(found.mean(1) - entries)", "found.mean(1)"),
        ("-entries / 2 * math.log(2 * math.pi * top**2)", "-entries / 2 * math.log(top**2)"),
        ("squares(top).mean(1) / (2 * top**2)", "0 * squares(top).mean(1)"),
        ("weight**2 * found.var(1) / num_samples", "weight**2 * found.var(1)"),
        ("length * (1 + place) / 2", "length * (1 - place) / 2"),
    ],
    "randomwalk/samplers/remainder.py": [
        ("self.x + 2 * tau * temperature)", "self.x + tau * temperature)"),
        ("state.after(1 / (s**2 + w**2), tau", "state.after(1 / s**2, tau"),
        ("at_rest(start_std**2 + w**2, plan)", "at_rest(start_std**2 + 0 * w**2, plan)"),
        ("self.both - kick * self.x", "self.both"),
        ("momentum**2 * v + temperature", "momentum * v + temperature"),
        ("x + 2 * half * both + half**2 * v, both + half * v\n", "x + half**2 * v, both + half * v\n"),
        ("s * min((r / s) ** response, MOST)", "s * (r / s) ** response"),
        ("taken = r if r < s else", "taken = s if r < s else"),
    ],
    "randomwalk/samplers/sampler.py": [
        ("return problem.levels[0] * problem.normal()", "return problem.normal()"),
        (
            "return list(zip(levels, [*levels[1:], 0.0], strict=True))",
            "return list(zip(levels, [*levels[1:], levels[-1]], strict=True))",
        ),
        ("(s.diff() > 0).any()", "(s.diff() >= 0).any()"),
        ("given = None if measurement is None else measurement.repeated(num_samples)", "given = measurement"),
    ],
    "randomwalk/samplers/posterior/daps.py": [
        ("x = x + sigma_next * problem.normal()", "x = x + sigma * problem.normal()"),
        ("sigma * c / (sigma**2 + c**2) ** 0.5", "sigma * c / (sigma + c)"),
        (
            "problem.levels[-1], self.ode_steps), stochasticity=0.0)",
            "problem.levels[-1], self.ode_steps), stochasticity=1.0)",
        ),
    ],
    "randomwalk/samplers/posterior/ddnm_plus.py": [
        ("levels[j] ** 2 - p**2", "levels[j] ** 2 - s**2"),
        ("keeps_all=eta == 0", "keeps_all=False"),
        ("range(0, num_levels - length, length)", "range(0, num_levels, length)"),
        ("self.travel_repeats - 1 for t", "self.travel_repeats for t"),
    ],
    "randomwalk/samplers/posterior/ddrm.py": [
        ("return n + spectral(lambda t: known(t).to(t), z)", "return n"),
        ("torch.where(known(t), remaining(t, sigma, eta), sigma)", "torch.full_like(t, sigma)"),
        ("measurement.std, c, b)", "measurement.std, c)"),
    ],
    "randomwalk/samplers/posterior/diffpir.py": [
        ('c, self.strength, "white"', 'c, 1 / self.strength, "white"'),
        ("self.strength * temperature", "temperature"),
        ('"white", tolerance', '"image", tolerance'),
        ("tolerance=None, iterations=None", "tolerance=0.1, iterations=20"),
    ],
    "randomwalk/samplers/posterior/steps.py": [
        ("max(RCOND**2, 10 * torch", "max(RCOND, 10 * torch"),
        ("math.sqrt(sigma**2 - sigma_next**2) / sigma", "math.sqrt(sigma**2 - sigma_next**2)"),
        ("math.sqrt(sigma_next**2 - v**2) / sigma", "sigma_next / sigma"),
        ("largest = operator.norm() ** 2", "largest = operator.norm()"),
        ("1 - math.sqrt(1 - share) * sigma_next / sigma", "1 - (1 - share) * sigma_next / sigma"),
        ("share * sigma_next**2 / (2 * scale * sigma**2)", "share * sigma**2 / (2 * scale * sigma**2)"),
        ("own + self.travel**2 /", "own + 0 * self.travel**2 /"),
        ("keep, fresh = p * math.sqrt(1 - self.stochasticity**2)", "keep, fresh = p * (1 - self.stochasticity)"),
        ("return p * t.sqrt() >= eta", "return p * t >= eta"),
        ("keep * t.sqrt() / (eta or 1)", "keep * t / (eta or 1)"),
        ("& above(t) & (not self.keeps_all)", "& above(t)"),
        ("remaining(t, p, b * eta), fresh)", "remaining(t, p, eta), fresh)"),
        ("keep / self.sigma * (x - denoised)", "keep * (x - denoised)"),
        ("if not self.keeps_all:", "if True:"),
        ("(sigma**2 - eta**2 / t).clamp_min(0).sqrt()", "(sigma**2 - eta**2 * t).clamp_min(0).sqrt()"),
    ],
    "randomwalk/samplers/posterior/dps.py": [
        (
            "torch.linalg.vector_norm(problem.residual(clean).flatten(1), dim=1)",
            "torch.linalg.vector_norm(problem.residual(clean))",
        ),
        ("math.sqrt((1 + sigma**2) * (1 + sigma_next**2))", "(1 + sigma**2)"),
        ("slope = product(residual_slope(problem, denoised))", "slope = residual_slope(problem, denoised)"),
    ],
    "randomwalk/samplers/posterior/mmps.py": [
        ("return sigma**2 * product(v)", "return sigma * product(v)"),
        ("problem.eta**2 * v", "problem.eta * v"),
        ("restart=False", "restart=True"),
    ],
    "randomwalk/samplers/posterior/moments.py": [
        (".clamp(0, sigma**2)", ""),
        (
            "values = values.clamp_min(variance)",
            "values = values + 0",
            "the clamp only takes back rounding errors of eigenvalues that are not below the variance",
        ),
        ("root.diagonal(dim1=1, dim2=2).log().sum(1)", "root.diagonal(dim1=1, dim2=2).log().sum(1) / 2"),
        ("-white.square().sum(1) / 2 - root", "-white.square().sum(1) - root"),
        ("(variance + a**2 * self.rest).sqrt() * outside", "(variance + self.rest).sqrt() * outside"),
        ("values.log().sum(1) / 2 - wide", "values.log().sum(1) - wide"),
        ("share / norm.clamp_min(1e-300)", "share / x[0].numel()"),
        ("times_c = sigma**2 * _rows", "times_c = sigma * _rows"),
        (
            "(t > 0) / (c * t + eta**2), pulled)",
            "1 / (c * t + eta**2), pulled)",
            "A^T q is 0 where t = 0 up to rounding; the factor keeps that from being amplified",
        ),
        ("a**2 * c * eta**2 / (c * t + eta**2)", "a * c * eta**2 / (c * t + eta**2)"),
        ("step.square() / (variance + a**2 * c)", "step.square() / (variance + c)"),
    ],
    "randomwalk/samplers/posterior/particles.py": [
        ("- math.log(log_weights.shape[1])", ""),
        ("return 1 / weights.square().sum(1)", "return 1 / weights.square().sum(1).sqrt()"),
        ("+ u.to(ends)[:, None]) / size", "+ u.to(ends).mean()) / size"),
        (
            "torch.where(low, log_mean(log_weights)[:, None], exact(log_weights))",
            "torch.where(low, 0.0, exact(log_weights))",
        ),
        ("right=True", "right=False"),
    ],
    "randomwalk/samplers/posterior/pigdm.py": [
        ("r2 = sigma**2 * self.data_std**2 / (sigma**2 + self.data_std**2)", "r2 = sigma**2 + 0 * self.data_std"),
        ("+ r2 * g", "+ sigma**2 * g"),
        ("g = product(explained / r2)", "g = explained / r2"),
    ],
    "randomwalk/samplers/posterior/splitting.py": [
        ("return r * eta * (eta**2 + r**2 * t).rsqrt()", "return r * eta * (eta**2 + r * t).rsqrt()"),
        ("math.sqrt(2 * step_size)", "math.sqrt(step_size)"),
        ("(z - x) / r**2", "(z - x) / r"),
        (
            "self.langevin_step / (1 / r**2 + norm**2 / problem.eta**2)",
            "self.langevin_step / (1 / r**2 + norm / problem.eta**2)",
        ),
        ("torch.where(measured(t), 0 * t, r)", "torch.where(measured(t), r, r)"),
        (
            "return [sigma, *levels[1:-1], lowest]",
            "return [sigma, *levels[1:]]",
            "karras ends at the lowest level up to rounding",
        ),
    ],
    "randomwalk/samplers/posterior/tds.py": [
        ("slope / curvature, 0).clamp(0, 1)", "slope / curvature, 0).clamp(0)"),
        ("+ _dot(seen, seen) / self.problem.eta**2", "+ _dot(seen, seen) / self.problem.eta"),
        (
            "(t > 0) / (variance * t + eta**2)",
            "1 / (variance * t + eta**2)",
            "A^T q is 0 where t = 0 up to rounding; the factor keeps that from being amplified",
        ),
    ],
    "randomwalk/samplers/posterior/tweedie_smc.py": [
        ("log_weights - log_evidence[rows].reshape", "log_weights - log_evidence.reshape"),
        ("(levels[0], 0.0, levels[0] ** 2)", "(levels[0], 0.0, levels[0])"),
        ("p**2 * (1 - p**2 / s**2)) for", "p**2) for"),
        ("return entries + self.probes <= self.max_rank", "return entries + self.probes < self.max_rank"),
        ("variance = self.data_std**2 * sigma**2 / (self.data_std**2 + sigma**2)", "variance = sigma**2"),
    ],
    # --- operators ----------------------------------------------------------------------------------------------------
    "randomwalk/operators/fourier.py": [
        ("weights = (1 - distance) ** 2 * (mask == 0)", "weights = (1 - distance) * (mask == 0)"),
        ("/ (width // 2 + 0.5)", "/ (width // 2)"),
        (".roll((1, 1), (-2, -1))", ""),
        ("first = width // 2 - center // 2", "first = width // 2 - center"),
        ("return (mask + mirrored) / 2", "return mask + 0 * mirrored"),
        ("int(oversample / 8 * size)", "int(oversample / 4 * size)"),
        ("torch.where(t > RCOND**2, 1 / t, 0.0)", "torch.where(t > RCOND**2, 1.0, 0.0)"),
        ("torch.complex(real, imaginary)", "torch.complex(real, -imaginary)"),
    ],
    "randomwalk/operators/mri.py": [
        ("torch.fft.ifftshift(image, _SPACE)", "image"),
        ("self._sensitivities(y).conj() * coils", "self._sensitivities(y) * coils"),
        ("first = width // 2 - center // 2", "first = (width - center) // 2"),
        ("(draws.random() + np.arange(count - center))", "np.arange(count - center)"),
        ("(radius.max() + 1 / max(height, width))) ** 2", "(radius.max() + 1 / max(height, width)))"),
        ("1j * torch.exp(-1j * angle) / (", "1j / ("),
        (" - wire).conj()", " - wire)"),
        ("field / field.abs().square().sum(0).sqrt()", "field / field.abs().square().sum(0)"),
        ("0.32 / acceleration if", "0.08 if"),
    ],
    "randomwalk/operators/tomography.py": [
        ("share[entry, crossed] / max(abs(cosine), abs(sine))", "share[entry, crossed]"),
        ("(line * cosine - t) / sine", "(line * cosine + t) / sine"),
        ("kernel[0] = 0.25", "kernel[0] = 0.5"),
        ("turned[:1] + 180", "turned[:1] + 360"),
        ("/ (self.spacing * self.pixel_size)", "/ self.spacing"),
        ("not ctx.back", "ctx.back"),
    ],
    "randomwalk/operators/dense.py": [
        ("reciprocal(self.singular_values, dim=1)", "reciprocal(self.singular_values)"),
    ],
    "randomwalk/operators/blur.py": [
        ("(torch.arange(taps) - taps // 2) % size", "(torch.arange(taps) - (taps - 1) // 2) % size"),
        ("return taps - 1 - taps // 2, taps // 2", "return taps // 2, taps - 1 - taps // 2"),
        ("self.kernel.flip(-2, -1)", "self.kernel"),
        ("kernel.double().flip(0), windows", "kernel.double(), windows"),
        ("squared > RCOND**2 * largest", "squared > RCOND * largest"),
        ("transfer.conj() / squared, 0.0)", "1 / squared, 0.0)"),
        ("period = max(2 * size - 2, 1)", "period = max(2 * size, 1)"),
        ("return gram + damping * u", "return gram + damping**0.5 * u"),
        ("self._filter(u, 1 / (power + damping))", "self._filter(u, 1 / (power + 1))"),
    ],
    "randomwalk/operators/kernels.py": [
        ("weight = torch.exp(-(place**2) / (2 * std**2))", "weight = torch.exp(-(place**2) / std**2)"),
        ("radius = int(4 * std + 0.5)", "radius = int(4 * std - 0.5)"),
        ("(size - 1) / 2 - path.mean(0)", "size / 2 - path.mean(0)"),
        ("np.clip(radius**2 - x**2, 0, None)", "np.clip(radius - x**2, 0, None)"),
        ("along[:, None] * -np.sin(turn)", "along[:, None] * np.sin(turn)"),
        ("values[::-1, ::-1] if flip else values", "values"),
        ("level + _NOISE * noise), values - level, 0.0)", "level + _NOISE * noise), values, 0.0)"),
        ("max(top, level + _NOISE * noise)", "max(top, level)"),
    ],
    "randomwalk/operators/inpainting.py": [
        ("int(missing * mask.size)", "int(missing * mask.size) + 1"),
        ("draws.integers(low, high + 1, size=2)", "draws.integers(low, high, size=2)"),
        ("x = torch.where(known > 0, y, mean / 4)", "x = mean / 4"),
        ("/ weight.clamp_min(1e-9)", ""),
    ],
    "randomwalk/operators/separable.py": [
        ('"nearest": float(factor // 2), "strided"', '"nearest": 0.0, "strided"'),
        ("first + factor // 2, torch.ones", "first + (factor - 1) // 2, torch.ones"),
        ('if downsampling == "bicubic":', 'if downsampling == "box":'),
    ],
    "randomwalk/operators/decimation.py": [
        ("aliases.mean((0, 2))", "aliases.sum((0, 2))"),
        ("return self.blur.adjoint(spread)", "return self.blur(spread)"),
        ("(f(t) - at_zero) / t", "f(t) / t"),
    ],
    "randomwalk/operators/nonlinear.py": [
        ("if quality < 50 else", "if quality <= 50 else", "both formulas give 100 at quality 50"),
    ],
    "randomwalk/operators/weighted.py": [
        ("self.operator.adjoint(self.weights * y)", "self.operator.adjoint(y)"),
        ("self.operator.interpolated(y / self.weights)", "self.operator.interpolated(y)"),
    ],
    "randomwalk/operators/operator.py": [
        ("damping = (eta / sigma) ** 2", "damping = eta / sigma"),
        ("largest_eigenvalue(self._gram, start) ** 0.5", "largest_eigenvalue(self._gram, start)"),
        ("return self.gain**0.5", "return self.gain"),
        ("return self.adjoint(y) / self.gain", "return self.adjoint(y)"),
        ("(at_gain - at_zero) / self.gain * self._gram(x)", "(at_gain - at_zero) * self._gram(x)"),
        ("self.operator.adjoint(self.residual(x)) / self.std**2", "self.operator.adjoint(self.residual(x)) / self.std"),
        ("self.y.repeat_interleave(num, 0))", "self.y.repeat(num, *[1] * (self.y.ndim - 1)))"),
    ],
    "randomwalk/operators/solve.py": [
        ("first = squared\n", "first = squared.max()\n"),
        ("squared > tolerance**2 * first", "squared > tolerance * first"),
        ("w = w - diagonal[-1] * v -", "w = w -"),
        ("conjugate = towards + squared / before * direction", "conjugate = towards"),
    ],
    "randomwalk/operators/deepinv_adapter.py": [
        ("if self.linear and not self._has_exact_adjoint():", "if False:"),
        ("torch.cat([function(row) for row in own.split(1)])", "function(own[:1])"),
        ("row.reshape(-1, *shape, 2) if pair else row.reshape(-1, *shape)", "row.reshape(-1, *shape)"),
        ("issubclass(made, library.LinearPhysics)", "issubclass(made, library.Physics)"),
        ('seed_torch(torch.device("cpu"), 0, Stream.PHYSICS)', "pass"),
        ("with torch.random.fork_rng(devices=[]):", "with torch.no_grad():"),
    ],
    # --- denoisers ----------------------------------------------------------------------------------------------------
    "randomwalk/denoisers/adapters.py": [
        (".log() / 4).expand", ".log() / 2).expand"),
        ("return (1 + s**2).rsqrt()", "return 1 / (1 + s)"),
        ("torch.addcmul(scaled, torch", "torch.addcmul(x, torch"),
        ("return 1 / (1 + s), -1 / (s * (1 + s)), -s", "return 1 / (1 + s), 1 / (s * (1 + s)), -s"),
        ("-s / (a * (1 + s**2))", "-s / (1 + s**2)"),
        ("(1.0, 0.0, s**2 * a, a)", "(1.0, 0.0, s**2, 1.0)"),
    ],
    "randomwalk/denoisers/diffusers_folders.py": [
        ("[(table != 0) & (table != 2**-24)]", ""),
        ("if name is not None and (folder / name).is_dir() else folder", "if name is not None else folder"),
        ("null_label not in range(classes or 0)", "null_label == classes"),
        ('"shift" if "shift" in config else "flow_shift"', '"flow_shift"'),
        ("whole_times=whole, ", ""),
        ('given["variant"] = "fp16"', "pass"),
        ("(0.5, 0.02, 100.0)", "(1.0, 0.02, 100.0)"),
        ("return -super().forward", "return super().forward"),
        ('if predicts == "epsilon" else Negated(unet)', 'if predicts != "epsilon" else Negated(unet)'),
    ],
    "randomwalk/denoisers/deepinv_models.py": [
        ("self.denoiser.check_sigma(2 * level)", "self.denoiser.check_sigma(level)"),
        ("told = 2 * low if low == high else 2 * levels", "told = 2 * low"),
        ("file.check_finite(name, value)", "pass"),
        ("one_hot(label, classes + 1)[:, :classes]", "one_hot(label, classes + 1)[:, 1:]"),
    ],
    "randomwalk/denoisers/published.py": [
        ('"time_scale": 0.25', '"time_scale": 1.0'),
    ],
    "randomwalk/denoisers/edm_pickles.py": [
        ('"_was_trained_on_minus_one_one": True', '"_was_trained_on_minus_one_one": False'),
    ],
    "randomwalk/denoisers/wrap.py": [
        ("turn = a * b_rate - b * a_rate", "turn = a * b_rate + b * a_rate"),
        ("-b / turn, -(a**2) / (b * turn)", "-b / turn, -a / (b * turn)"),
        ("len(self.table) - 1 - index if self.falls", "len(self.table) - index if self.falls"),
        ("return index.round().long() if self.whole", "return index.long() if self.whole"),
        ("self.null_label, device=z.device", "0, device=z.device"),
        ("None if straight is None else straight.levels", "None"),
        ("self.path.time(self.unit * sigma)", "self.path.time(sigma)"),
        ("told.log() / 4 if self.logarithm", "told.log() if self.logarithm"),
        ("- self.offset) / self.scale", ") / self.scale"),
        ("return self.scale * combined(b_x", "return combined(b_x"),
        ("(1 + (self.scale * s) ** 2).rsqrt()", "(1 + s**2).rsqrt()"),
        ("return found[:, :channels]", "return found[:, -channels:]"),
        (
            "self._ends()) / self.unit\n\n    @property\n    def sigma_max",
            "self._ends())\n\n    @property\n    def sigma_max",
        ),
    ],
    "randomwalk/denoisers/low_rank.py": [
        ("kernel + scale * (b @ a)", "kernel + (b @ a)"),
        ("kernel + scale * (b @ a)", "kernel - scale * (b @ a)"),
        ("(b @ a).view_as(kernel)", "(b @ a).T.reshape(kernel.shape)"),
        ("alpha / len(a))", "alpha)"),
        ("alpha / len(a))", "1.0)"),
        ("LowRankConv2d(conv, rank, alpha / rank)", "LowRankConv2d(conv, rank, 1.0)"),
        ("LowRankConv2d(conv, rank, alpha / rank)", "LowRankConv2d(conv, rank, alpha / rank**0.5)"),
        ("torch.zeros(conv.out_channels, rank)", "torch.full((conv.out_channels, rank), 1e-6)"),
        ("network.requires_grad_(False)", "network.requires_grad_(True)"),
        ("sorted(state)", "state"),
        ("value.numpy().tobytes()", "b''"),
        (".contiguous() + 0.0", ".contiguous()"),
        ('digest.update(f"{key} {list(value.shape)}\\n".encode())', "pass"),
        ("with without_autocast(input):", "if True:"),
    ],
    "randomwalk/images/noise_whiteness.py": [
        ("ratio < CAMERA", "ratio < 1"),
        ("ratio < CAMERA", "ratio > CAMERA"),
        ("for band in (_MIDDLE, _HIGH)", "for band in (_HIGH, _MIDDLE)"),
        ("np.sqrt(ratios[0] * ratios[1])", "ratios[0] * ratios[1]"),
        ("clipped <= np.quantile(clipped, KEPT)", "clipped >= 0"),
        ("pixels[[0, 2]] - luma", "pixels[[0, 2]]"),
    ],
    "randomwalk/denoisers/weight_files.py": [
        ('!= difference["base"]["checksum"]', '== ""'),
        ("base = beside if beside.is_file() and beside != path else", "base = beside if False else"),
        ('difference["alpha"])', "1.0)"),
    ],
    # --- training -----------------------------------------------------------------------------------------------------
    "randomwalk/training/cameras.py": [
        ("sigma / 2 * draws", "sigma * draws"),
        ("(GAMMA * np.sqrt(y + read) if photons else 1)", "1"),
        ("(GAMMA * np.sqrt(y + read) if photons else 1)", "(np.sqrt(y + read) if photons else 1)"),
        ("y = y ** (1 / GAMMA) if photons else y", "y = y"),
        ("np.sqrt(np.mean(error**2))) * factor", "np.sqrt(np.mean(error**2)))"),
        ("np.sqrt(np.mean(error**2))) * factor", "sigma) * factor"),
        ("demosaicked(y).clip(0, 1) if bayer else y.clip(0, 1)", "y.clip(0, 1)"),
        ("return np.where(seen > 0, pixels, sums / counts)", "return sums / counts"),
    ],
    "randomwalk/training/examples.py": [
        ("and sigma < STRONGEST", "and sigma > 0"),
        ("noise, u = (error / level)", "noise, _ = (error / level)"),
        ("(error / level).astype", "(error / sigma).astype"),
        ("generator(self.seed, Stream.NOISE, position)", "generator(self.seed, Stream.AUGMENTATION, position)"),
        ("generator(self.seed, Stream.NOISE, position)", "generator(self.seed, Stream.NOISE)"),
    ],
    "randomwalk/training/images.py": [
        ("draws.random() < 0.5", "draws.random() < 0.9"),
        ("int(draws.integers(4))", "int(draws.integers(3))"),
        ("generator(self.seed, Stream.AUGMENTATION, position)", "generator(self.seed, Stream.AUGMENTATION)"),
    ],
    "randomwalk/training/losses.py": [
        (
            "return (_dot(r, r) + sigma**2 * (2 * trace + size)) / size",
            "return (_dot(r, r) + sigma**2 * (trace + size)) / size",
        ),
        ("2 * sigma**2 * _dot(e, _product(r, noisy, e))", "2 * sigma * _dot(e, _product(r, noisy, e))"),
        (".mean(0) / size + sigma**2", ".sum(0) / size + sigma**2"),
    ],
    "randomwalk/training/objectives.py": [
        ("denoiser.sigma_data if isinstance(denoiser, EDMDenoiser) else 0.5", "0.5"),
        ('"flow": lambda u, sigma: (1 + 1 / sigma) ** 2', '"flow": lambda u, sigma: sigma**-2'),
        (".clamp(max=objective.gamma)", ".clamp(min=objective.gamma)"),
        ('"v": lambda u, sigma: sigma**-2 + 1,', '"v": lambda u, sigma: sigma**-2 + 0.5,'),
        ("levels.rate(u) * exact(sigma) ** -2", "levels.rate(u) * exact(sigma) ** -1"),
        ("(sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2", "(sigma**2 + sigma_data**2) / (sigma * sigma_data)"),
        ('"x0": "uniform"', '"x0": "inverse_variance"'),
        ('"inverse_variance": lambda u, sigma: sigma**-2', '"inverse_variance": lambda u, sigma: sigma**-1'),
    ],
    "randomwalk/training/optimizer.py": [
        ("math.cos(math.pi * done)", "math.cos(math.pi * (done + 0.01))"),
        (
            "(images + batch_size) / max(settings.warmup_images, 1)",
            "images / max(settings.warmup_images, 1)",
        ),
        ("0.5 * (1 + math.cos(math.pi * done))", "math.cos(math.pi / 2 * done)"),
        ("(1 - done) / settings.cooldown", "1 - done"),
        ("self.settings.gradient_clip or math.inf", "math.inf"),
    ],
    "randomwalk/training/trainer.py": [
        ("generator(self.config.seed, Stream.PROBES, self.step)", "generator(self.config.seed, Stream.PROBES)"),
    ],
    "randomwalk/training/validation.py": [
        (".clamp(-1, 1) - x)", " - x)"),
        ("torch.log10(4 / mse)", "torch.log10(1 / mse)"),
        ("generator(config.seed, Stream.VALIDATION, i)", "generator(config.seed, Stream.VALIDATION)"),
        (".square().flatten(1).mean(1)\n            sums", ".square().mean().expand(len(x))\n            sums"),
    ],
    # --- images -------------------------------------------------------------------------------------------------------
    "randomwalk/images/masks.py": [
        ("(distance > 0) & (alpha > 0)", "(distance > 127) & (alpha > 0)"),
        ("(distance > 0) & (alpha > 0)", "(distance > 0) & (alpha > 127)"),
        ("astype(np.int16) - ground).max(2)", "astype(np.int16) - ground).min(2)"),
        ("2 * pixels + 1, 1, pixels", "2 * pixels - 1, 1, pixels - 1"),
        ("return (difference > 0) | (alpha < 255)", "return difference > 0"),
        ("distance[rings] = 0", "pass"),
    ],
    "randomwalk/images/metrics.py": [
        ("_psnr(x.clamp(-1, 1), truth, 2.0)", "_psnr(x.clamp(-1, 1), truth, 1.0)"),
        ("_psnr(x.clamp(-1, 1), truth, 2.0)", "_psnr(x, truth, 2.0)"),
        ("/ (n - 1) / n)", "/ n / n)"),
        ("reach = SSIM_SIDE // 2\n    first", "reach = SSIM_SIDE // 2 - 1\n    first"),
        ("(0.03 * 2) ** 2", "(0.03 * 1) ** 2"),
        ("between = ab - mean_a * mean_b", "between = ab"),
        ("SSIM_WIDTH) ** 2)", "SSIM_WIDTH) ** 4)"),
    ],
    "randomwalk/images/noise_estimation.py": [
        ("before > SUBSAMPLED**2 * variance", "before > SUBSAMPLED * variance"),
    ],
    "randomwalk/images/tensors.py": [
        (".round_().to(torch.uint8)", ".to(torch.uint8)"),
        ("generator.integers(h - height + 1)", "generator.integers(max(h - height, 1))"),
        ("generator.integers(w - width + 1)", "generator.integers(max(w - width, 1))"),
    ],
    "randomwalk/images/png16.py": [
        ("lines[:, 1 + half :: 2]", "lines[:, 2 - half :: 2]"),
        ('astype(">u2")', 'astype("<u2")'),
        ("-(-(width - left) // across)", "(width - left) // across"),
    ],
    # --- sampling -----------------------------------------------------------------------------------------------------
    "randomwalk/sampling/intervals.py": [
        ("(n + 1) * level - 1e-9", "n * level - 1e-9"),
        ("weights = np.repeat([1 / one.size for one in found]", "weights = np.repeat([1.0 for one in found]"),
        ("np.hypot(std, FLOOR))", "(std + 1e-9))"),
        ("half = factor * np.hypot(std, FLOOR)", "half = factor * std"),
    ],
    "randomwalk/sampling/calibration.py": [
        ("math.sqrt(images / (images - 1) * (", "math.sqrt(("),
        ("draws.integers(0, equal + 1)", "draws.integers(0, np.maximum(equal, 1))"),
        ("(places - 2 * j) / places)", "(places - j) / places)"),
        ("self._share(slice(j, places - j)", "self._share(slice(j, places - j + 1)"),
        ("stdtrit(self.images - 1,", "stdtrit(self.images,"),
        ("(1 + CONFIDENCE) / 2", "CONFIDENCE"),
        ("pooled.std(0, ddof=1) > level", "pooled.std(0) > level"),
    ],
    "randomwalk/sampling/measuring.py": [
        ("noise.variance(y.mean()) / noise.variance(smooth)", "noise.variance(smooth) / noise.variance(y.mean())"),
        ("squares.sqrt() / batch.noise_std", "squares.sqrt() / batch.noise_std**2"),
        ("(share.to(error).flatten(1).mean(1) * error[0].numel())", "error[0].numel()"),
        ("(y - seen).square_().mul_(weight)", "(y - seen).square_()"),
        ("shown = seen if known is None else batch.x", "shown = batch.x"),
        (".amax(1) < 1 - 2 * batch.noise_std)", ".amax(1) < 2)"),
        ("[use].argsort()[:", "[use].argsort(descending=True)[:"),
        ("count = y.shape[1] * avg_pool2d", "count = avg_pool2d"),
    ],
    "randomwalk/sampling/batch.py": [
        ("visible = y if inverse is None else operator(inverse)", "visible = y"),
        ("inverse = operator.adjoint(y)", "inverse = y"),
    ],
    "randomwalk/sampling/doubts.py": [
        ("residual * batch.noise_std > most * max(batch.noise_std, lowest)", "residual > most"),
        ("residual < least and batch.noise_std >= lowest", "residual < least"),
        ("residual < least and", "residual < 0.5 * least and"),
        ("(crowding - 0.2) / 0.5", "(crowding - 0.2)"),
    ],
    "randomwalk/sampling/figures.py": [
        ("c / (weight / s**2 + (norm / eta) ** 2)", "c / (weight / s**2 + norm / eta**2)"),
        ("c * s**2 / weight}", "c * s**2}"),
    ],
    "randomwalk/sampling/foresight.py": [
        ("value = 127.5 * std", "value = 255 * std"),
    ],
    "randomwalk/sampling/task.py": [
        ("images[0] in self.of_cameras", "images[0] not in self.of_cameras"),
        ("self.camera is not None and is_camera_noise(channels)", "self.camera is not None"),
        ("mul_(std).add_(mean)", "mul_(std)"),
        ("sample_stream(self.config.seed, one.image, one.sample)", "measurement_stream(self.config.seed, one.image)"),
        ("sample_stream(self.config.seed, one.image, one.sample)", "sample_stream(self.config.seed, one.image, 0)"),
        ("measurement_stream(self.config.seed, image)", "measurement_stream(self.config.seed, 0)"),
    ],
    "randomwalk/sampling/report.py": [
        (
            'row for row in rows if row["sample"] == MEAN), rows[0]',
            'row for row in rows if row["sample"] != MEAN), rows[0]',
        ),
        ("np.linspace(0, STD_WHITE, 17)", "np.linspace(0, 1, 17)"),
        ("key=lambda kind: int(kind[6:])", "key=lambda kind: kind"),
        ("if len(shown) == report.MOST_IMAGES", "if len(shown) > report.MOST_IMAGES"),
    ],
    # --- reports and comparisons --------------------------------------------------------------------------------------
    "randomwalk/runs/report/__init__.py": [
        ('for mark in "<>&":', 'for mark in ">&":'),
        ("hashlib.sha256(text.encode())", "hashlib.sha256(template.encode())"),
        ("max(RELOAD, (end - start) / LARGEST_SHARE)", "min(RELOAD, (end - start) / LARGEST_SHARE)"),
        ("max(RELOAD, (end - start) / LARGEST_SHARE)", "RELOAD"),
        ("sum(values) / len(group)", "sum(values)"),
        ('None if math.isnan(value) else "inf"', '"inf" if math.isnan(value) else "inf"'),
        ("return quote(os.fsencode(", "return str(os.fsdecode("),
    ],
    "randomwalk/training/report.py": [
        ("points[width - 1 :], values", "points[: len(values)], values"),
    ],
    "randomwalk/cli/compare.py": [
        ("gaps, n = [b - a for a, b in pairs]", "gaps, n = [a - b for a, b in pairs]"),
        ("/ (n - 1))", "/ n)"),
        ("t.ppf((1 + LEVEL) / 2, n - 1)", "t.ppf(LEVEL, n - 1)"),
        ("t.ppf((1 + LEVEL) / 2, n - 1)", "t.ppf((1 + LEVEL) / 2, n)"),
        ("* std / math.sqrt(n), n)", "* std, n)"),
        ('if row["sample"] == "mean":', 'if row["sample"] == "all":'),
        ("if all(image in run.values for run in runs)", "if any(image in run.values for run in runs)"),
        ("first.read_bytes() != second.read_bytes()", "first.name != second.name"),
    ],
    # --- config -------------------------------------------------------------------------------------------------------
    "randomwalk/config/legacy.py": [
        (
            '"sigma_min": 2 * model.sigma_min, "sigma_max": 2 * model.sigma_max}',
            '"sigma_min": model.sigma_min, "sigma_max": model.sigma_max}',
        ),
        ('"start": {"mean": -1.0, "std": 2.0}', '"start": {"mean": 0.0, "std": 2.0}'),
        ('"pixel_range": [0.0, 1.0],', '"pixel_range": [-1.0, 1.0],'),
        ('"pixel_range": [-1.0, 1.0],', '"pixel_range": [0.0, 1.0],'),
    ],
    # --- studies ------------------------------------------------------------------------------------------------------
    "randomwalk/studies/points/metrics.py": [
        ("squared.min(2).mean(1) + squared.min(1).mean(1)", "2 * squared.min(2).mean(1)"),
        ("costs = np.sqrt(_squared(clouds(a), clouds(b)))", "costs = _squared(clouds(a), clouds(b))"),
        ("values.std(ddof=1)", "values.std()"),
        ("/ math.sqrt(len(values)) if", "/ len(values) if"),
    ],
    "randomwalk/studies/points/scores.py": [
        ("np.square(exact).sum()", "np.square(learned(x, sigma)).sum()"),
        ("x = truth + sigma * generator", "x = truth + sigma**2 * generator"),
    ],
    "randomwalk/studies/points/simulation.py": [
        ("float(sde.diffusion(t)) * step**0.5", "float(sde.diffusion(t)) * step"),
    ],
    "randomwalk/studies/points/datasets.py": [
        ("(raw(n, g) - mean) * (STD / std)", "(raw(n, g) - mean) * STD"),
        ("2 * (square % 2) + (square // 2) % 2", "2 * (square % 2)"),
        ("t = np.pi * (1.5 + third + g.random(n))", "t = np.pi * (1.5 + g.random(n))"),
        ("p=[3 / 8, 2 / 8, 3 / 8]", "p=[2 / 8, 4 / 8, 2 / 8]"),
    ],
    "randomwalk/studies/bridge/gaussian.py": [
        ("sigma**4 * one", "sigma**2 * one"),
        ("- sigma**2 * one) / 2", "- sigma * one) / 2"),
        ("(1 - t) * self.C.T - t * self.C", "(1 - t) * self.C - t * self.C.T"),
        ("right = -right - self.sigma**2 * one", "right = -right"),
        ("2 * d * math.log(self.sigma)", "d * math.log(self.sigma)"),
    ],
    "randomwalk/studies/bridge/matching.py": [
        ("sigma * (s * (1 - s)).sqrt() * z", "sigma * (s * (1 - s)) * z"),
        ("(self.spread**2 * r + self.sigma**2 * (1 - r)).sqrt()", "(self.spread**2 * r + self.sigma**2).sqrt()"),
        ("self.size(r) / r.sqrt()", "self.size(r) / r"),
        ("self.sigma * (1 - r).sqrt() * z", "self.sigma * (1 - r) * z"),
        ("torch.sin(clock * (math.pi / 2)).square()", "torch.sin(clock * (math.pi / 2))"),
    ],
    "randomwalk/studies/bridge/measures.py": [
        ("ot.sinkhorn(even, even, cost, 2 * sigma**2", "ot.sinkhorn(even, even, cost, sigma**2"),
        ("values.std(ddof=1) / math.sqrt(len(values))", "values.std(ddof=1)"),
        (
            "(self.points[0], self.points[-1]) if self.times[0] == 0 else (self.points[-1], self.points[0])",
            "(self.points[0], self.points[-1])",
        ),
    ],
    "randomwalk/studies/bridge/simulation.py": [
        ("sigma * math.sqrt(h) * noise(k, x)", "sigma * h * noise(k, x)"),
        ("h / 4 * (forward(x, start)", "h / 2 * (forward(x, start)"),
        ("v = (forward(half, middle) - backward(half, middle)) / 2", "v = forward(half, middle)"),
        ("np.sin(np.pi / 2 * s) ** 2", "np.sin(np.pi / 2 * s)"),
    ],
    "randomwalk/studies/score_embedding/cole_hopf.py": [
        ("p = p + (made.log_inflow[:, None] - top).exp()", "p = p + made.log_inflow[:, None].exp()"),
        ("torch.logaddexp(m, made.log_inflow[level] - top)", "torch.logaddexp(m, made.log_inflow[level])"),
        ("return torch.maximum(p.clamp(min=0).log(), ", "return torch.maximum(p.clamp(min=0).log(), -torch.inf + "),
        ("top = top.clamp(min=0)", "top = top.clamp(max=0)"),
        ("transition(sde.level(t1), sde.level(t0))[1] / 2", "transition(sde.level(t1), sde.level(t0))[1]"),
    ],
    "randomwalk/studies/score_embedding/finite_difference.py": [
        ("advection = (half * score + 0.5 * self.b", "advection = (half * score + self.b"),
        ("below + self.dt * self.b", "below"),
        ("score, right = 2 * score, right - half * square", "score, right = 2 * score, right"),
        ("Stencil(half / self.spacing**2,", "Stencil(half / self.spacing,"),
        ("(size - 1) / 2) for size", "size / 2) for size"),
    ],
    "randomwalk/studies/score_embedding/kernels.py": [
        ("x = 2 * tau\n", "x = tau\n"),
        ('{"neumann": 2 * size, "dirichlet": 2 * size + 2,', '{"neumann": 2 * size, "dirichlet": 2 * size,'),
        ('first = {"neumann": 1, "dirichlet": 2,', 'first = {"neumann": 0, "dirichlet": 2,'),
        ("weight[size + 1 : -1], weight[[size, -1]] = 2, 1", "weight[size + 1 : -1], weight[[size, -1]] = 1, 1"),
        ("series = inverse * (1 - 3 * inverse + 15 * inverse**2)", "series = inverse * (1 + 3 * inverse)"),
    ],
    "randomwalk/studies/score_embedding/linear.py": [
        ("self.advection[:, n] * (plus - minus)", "self.advection[:, n] * (minus - plus)"),
        (
            "values.append((-self.diffusion - direction * a)[kept])",
            "values.append((-self.diffusion + direction * a)[kept])",
        ),
        ("(1 + 4 * self.diffusion) * x", "(1 + 2 * self.diffusion) * x"),
        (
            "self.values = 1 + stencil.diffusion * (of_height[:, None] + of_width)",
            "self.values = 1 + of_height[:, None] + of_width",
            "a worse preconditioner: more iterations to the same solution",
        ),
    ],
    "randomwalk/studies/score_embedding/density.py": [
        ("num ** (-1 / 6)", "num ** (-1 / 5)"),
        ("variance = (std**2 - width**2 / 3)", "variance = (std**2)"),
        ("(field - field.T) / math.sqrt(2)", "field - field.T"),
        (
            "m0 = torch.empty_like(field)\n    m0[rows, columns] = upper\n    m0[columns, rows] = upper",
            "m0 = torch.zeros_like(field)\n    m0[rows, columns] = upper\n    m0[rows, columns] = upper",
        ),
        ("scott(axis.numel())", "scott(len(axis))"),
    ],
    "randomwalk/studies/score_embedding/embedding.py": [
        ("steps[0] = 0", "steps[-1] = 0"),
        ("-0.5 / len(field)", "-1 / len(field)"),
    ],
    "randomwalk/studies/score_embedding/objective.py": [
        ("/ (2 * sde.diffusion(times).to(score) ** 2)", "/ (2 * sde.diffusion(times).to(score))"),
        ("+ (1 - eps) * (level + uniform) / num_levels", "+ (level + uniform) / num_levels"),
        ("level * (1 - step / 2 - eps) / num_levels", "level * (1 - eps) / num_levels"),
    ],
    "randomwalk/studies/score_embedding/solution.py": [
        ("/ (2 * spacing)", "/ spacing"),
        ("first, last = last, first", "first, last = first, last"),
    ],
    "randomwalk/studies/score_embedding/measures.py": [
        ("unbiased = WINDOW**2 / (WINDOW**2 - 1)", "unbiased = 1"),
        ("above[k : k + hold]", "above[k : k + hold - 1]"),
    ],
    # --- networks and SDEs --------------------------------------------------------------------------------------------
    "score_sde/sdes.py": [
        (
            "t = torch.linspace(0, self.T, num, dtype=torch.float64)\n",
            "t = torch.linspace(self.T / num, self.T, num, dtype=torch.float64)\n",
        ),
        (
            "t * (self.beta_min + t * (self.beta_max - self.beta_min) / 2)",
            "t * (self.beta_min + t * (self.beta_max - self.beta_min))",
        ),
        (
            "torch.linspace(self.beta_min / num, self.beta_max / num, num",
            "torch.linspace(self.beta_min / num, self.beta_max / (num - 1), num",
        ),
        (
            "(self.rate(t) * -torch.expm1(-2 * self.integral(t))).sqrt()",
            "(self.rate(t) * -torch.expm1(-self.integral(t))).sqrt()",
        ),
        ("2 * torch.asinh(float64(sigma) / 2)", "torch.asinh(float64(sigma) / 2)"),
    ],
    "score_sde/sde.py": [
        ("(level.s - ratio * below.s) * (level.s + ratio * below.s)", "(level.s - ratio * below.s) ** 2"),
        ("broadcast(ratio - 1, z) * z", "broadcast(ratio, z) * z"),
        ("0.5 * (1 + self.noise) * g2", "(1 + self.noise) * g2"),
        ("z[0].numel() / 2 * math", "z.numel() / 2 * math"),
        ("torch.linspace(self.T / num, self.T, num", "torch.linspace(0, self.T, num"),
    ],
    "score_sde/devices.py": [
        ("return value.to(with_float64(value.device)).double()", "return value.double()"),
        ("return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64", "return torch.float64"),
        ("return value.float().to(device) if device", "return value.to(device) if device"),
    ],
    "score_sde/times.py": [
        ("self.scale * sigma / (1 + sigma)", "self.scale * sigma"),
        ("return self.shift * even / (1 - even)", "return even / (1 - even)"),
        ("self.scale / self.sde.T * self.sde.time(sigma)", "self.scale * self.sde.time(sigma)"),
        ("return sigma.log() / 4", "return sigma.log() / 2"),
        ("self.start + exact(u) * (1 - self.start)", "exact(u)"),
        (".clamp(0, 1)\n", "\n"),
        ("(u * len(self.table)).long()", "(u * (len(self.table) - 1)).long()"),
    ],
    "score_sde/predictors.py": [
        ("return 0.5 if flow else 1.0", "return 1.0"),
        ("added * (below.s / level.s) ** 2", "added * (below.s / level.s)"),
        (
            "removed = level.s * (level.s - ratio * below.s) if flow",
            "removed = (level.s - ratio * below.s) ** 2 if flow",
        ),
        ("z * broadcast(below.a / level.a, z)", "z"),
        ("added.sqrt() * (not flow))\n\n\ndef reverse", "added.sqrt())\n\n\ndef reverse"),
    ],
    "score_sde/correctors.py": [
        ("(2 * tau).sqrt()", "tau.sqrt()"),
        ("2 * (level.a / below.a).to(size) ** 2 * (snr", "(level.a / below.a).to(size) ** 2 * (snr"),
        (
            "noise.flatten(1).norm(dim=1), score.flatten(1).norm(dim=1)",
            "noise.norm().expand(len(z)), score.norm().expand(len(z))",
        ),
        ("2 * (level.a / below.a) ** 2 * (snr * level.s) ** 2", "2 * (level.a / below.a) * (snr * level.s) ** 2"),
    ],
    "score_sde/layers.py": [
        ("[None, :] * 2 * math.pi", "[None, :] * math.pi"),
        ("(-math.log(max_positions) / (half - 1))", "(-math.log(max_positions) / half)"),
    ],
    "score_sde/mlp.py": [
        ("torch.cat([phase.sin(), phase.cos()], 1)", "torch.cat([phase.sin(), phase.sin()], 1)"),
        ("* (1 + scale) + shift))", "* scale + shift))"),
    ],
    "score_sde/ncsnpp.py": [
        ("image = x if s.centered else 2 * x - 1.0", "image = x"),
        ("return h / sigma[:, None, None, None].to(x.dtype) if s.scale_by_sigma", "return h if s.scale_by_sigma"),
    ],
    "guided_diffusion/unet.py": [
        ("return emb if y is None else emb + self.label_emb(y)", "return emb"),
        ("torch.cat([h, skips.pop()], dim=1)", "torch.cat([skips.pop(), h], dim=1)"),
    ],
    "guided_diffusion/photo_unet.py": [
        ("self.code_size, 1000)", "self.code_size)"),
        ("self.time_scale * t,", "t,"),
        ("* (1 + gain))", "* gain)"),
        ("self.first(F.silu(h)), 1 + scale)", "self.first(F.silu(h)), scale)"),
        ("with without_autocast(x):", "if True:"),
        ("skips.append(h)\n            h = shrink(h)", "h = shrink(h)\n            skips.append(h)"),
        ('mode="reflect" if fits else "replicate"', 'mode="replicate"'),
    ],
    "guided_diffusion/blocks.py": [
        ("torch.cat([angles.cos(), angles.sin()], dim=1)", "torch.cat([angles.sin(), angles.cos()], dim=1)"),
        ("-math.log(max_period) / half", "-math.log(max_period) / (half - 1)"),
        ("torch.addcmul(shift, out_norm(h), 1 + scale)", "torch.addcmul(shift, out_norm(h), scale)"),
        ("F.scaled_dot_product_attention(q, k, v)", "F.scaled_dot_product_attention(q, k, v, scale=1.0)"),
        ("qkv.unflatten(2, (self.num_heads, 3, -1)).unbind(3)", "qkv.unflatten(2, (3, self.num_heads, -1)).unbind(2)"),
    ],
}

EDITS = [Edit(file, *texts) for file, rows in _TABLE.items() for texts in rows]

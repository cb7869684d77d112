"""The classroom's rows are trainings that exist, and its verdict is the stated one."""

from __future__ import annotations

import classroom
import pytest

from randomwalk.config.files import load_train_config
from randomwalk.config.training import PointData
from score_sde import sdes


@pytest.mark.parametrize("row", classroom.ROWS, ids=lambda row: f"{row.group}-{row.label}")
def test_every_row_is_a_training(row: classroom.Row) -> None:
    config = load_train_config(classroom.CONFIGS / f"{row.points}_train.yaml", row.changes)
    assert isinstance(config.data, PointData) and config.data.set == row.points
    assert config.num_images <= 10_000 * config.batch_size


def test_every_sde_and_every_loss_has_its_row() -> None:
    configs = [load_train_config(classroom.CONFIGS / f"{row.points}_train.yaml", row.changes) for row in classroom.ROWS]
    told = [config.denoiser for config in configs if config.denoiser.name == "sde"]
    # EDM's is that of the denoiser edm; power_ve is trained with in score embedding.
    assert {denoiser.sde.name for denoiser in told} | {"edm", "power_ve"} == set(sdes.SDES)
    assert {denoiser.prediction for denoiser in told} == {"epsilon", "x0", "v", "score"}
    found = {(config.objective.name, config.objective.divergence, config.objective.weight) for config in configs}
    names = ("denoising", "implicit_score_matching", "sliced_score_matching")
    assert {name for name, _, _ in found} == set(names)
    assert (names[1], "exact", None) in found and (names[1], "hutchinson", None) in found
    assert ("denoising", None, "likelihood") in found


def test_the_verdict_asks_for_both_distances_and_more_of_the_swiss_roll() -> None:
    near = {"chamfer": [0.0976, 0.0, 0.08, 0.0], "emd": [0.6, 0.0, 0.6, 0.0]}
    assert classroom.verdict(classroom.Row("", "", "moons"), near) == "met"
    assert classroom.verdict(classroom.Row("", ""), near) == "MISSED"  # the swiss roll: at most 0.0975
    assert classroom.verdict(classroom.Row("", ""), {**near, "chamfer": [0.0974, 0.0, 0.08, 0.0]}) == "met"
    assert classroom.verdict(classroom.Row("", "", "moons"), {**near, "emd": [0.76, 0.0, 0.6, 0.0]}) == "MISSED"

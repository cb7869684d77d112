"""Names of classes: from folders to weights, run folder and pictures, and back into labels."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from randomwalk.config import SampleConfig, TrainConfig
from randomwalk.config.files import load_sample_config
from randomwalk.denoisers.checkpoints import load_denoiser, read_config, save_denoiser
from randomwalk.denoisers.denoiser import NetworkDenoiser
from randomwalk.denoisers.guidance import GuidedDenoiser, guided, name_of_class, number_of_class
from randomwalk.errors import InputError
from randomwalk.images import sheets
from randomwalk.images.sources import open_images
from randomwalk.images.standard_sets import FASHION_CLASSES
from randomwalk.sampling.loading import load_task
from randomwalk.training import check, progress, run
from randomwalk.training.examples import split_images
from randomwalk.training.sets import sheet

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = ROOT / "pretrained_models" / "fashion_labels.safetensors"


def images(folder: Path, names: Sequence[str], count: int = 4, colour: int = 40) -> Path:
    """A folder with subfolders of ``count`` images of one pixel; that of the k-th has red ``colour * k``."""
    for k, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (1, 1), (colour * k, 0, i)).save(folder / name / f"{i}.png")
    return folder


def settings(data: Path, output: Path, num_classes: int | None, **changes: Any) -> TrainConfig:
    of_data = {"path": str(data), "image_size": 1, "num_validation": 1} | changes
    classes: dict[str, Any] = {}
    if num_classes is not None:
        classes = {"labels": {"dropout": 0.1}}
    return TrainConfig.model_validate(
        {
            "output": str(output),
            "data": of_data,
            "network": {"name": "mlp", "num_channels": 3, "hidden": 8, "num_blocks": 1}
            | ({} if num_classes is None else {"num_classes": num_classes + 1}),
            "denoiser": {"name": "sde", "sde": {"name": "vp"}}
            | ({} if num_classes is None else {"null_label": num_classes}),
            "batch_size": 4,
            "num_images": 8,
            "device": "cpu",
            **classes,
        }
    )


@pytest.fixture
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "curves", lambda *arguments: b"")


# --- folders -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["1", "2", "10"], ["1", "2", "10"]),
        (["01", "003", "2"], ["01", "2", "003"]),
        (["b", "10", "a", "9", "B"], ["9", "10", "B", "a", "b"]),
    ],
)
def test_numbers_are_in_order_of_their_value(tmp_path: Path, names: list[str], order: list[str]) -> None:
    source = open_images(images(tmp_path, names, 1))
    assert source.classes == order and source.labels is not None
    assert [source.classes[k] for k in source.labels] == [Path(name).parts[0] for name in source.names]


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    photos = images(tmp_path / "photos", ["cat", "dog"], 2)
    (tmp_path / "linked").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "linked" / name).symlink_to(photos / name)
    (tmp_path / "linked" / "wild").symlink_to(photos / "dog")  # the same folder again is no loop
    source = open_images(tmp_path / "linked")
    assert source.classes == ["cat", "dog", "wild"] and len(source) == 6 and source.pixels(0, 3).shape == (1, 1, 3)
    (tmp_path / "alias").symlink_to(tmp_path / "linked")
    assert open_images(tmp_path / "alias").names == source.names


@pytest.mark.parametrize("target", [".", "..", "../..", "self.png"])
def test_a_loop_of_links_is_one_message(tmp_path: Path, target: str) -> None:
    images(tmp_path / "in", ["cat"], 2)
    link = tmp_path / "in" / "cat" / ("self.png" if target == "self.png" else "loop")
    link.symlink_to(target)
    with pytest.raises(InputError, match=rf"^{link}: is a link .*; remove it$"):
        open_images(tmp_path / "in")


@pytest.mark.parametrize(
    ("names", "told", "message"),
    [
        (["train/cat", "test/cat"], True, r"called test and train, .* use --set data.path=F/train data.validation_"),
        (["Train/cat", "VAL/cat"], True, r"data.path=F/Train data.validation_path=F/VAL"),
        (["training/cat", "validation/cat", "test/cat"], True, r"F/training data.validation_path=F/test"),
        (["test", "cat", "dog"], True, r"called test, which would be classes"),
        (["train/cat"], True, r"--set data.path=F/train$"),
        (["train", "test"], False, r"would all be used for training.*data.path=F/train data.validation_path=F/test"),
        (["train"], False, None),
        (["test_tubes", "trains"], True, None),
    ],
)
def test_parts_of_the_data_are_not_classes(names: list[str], told: bool, message: str | None, tmp_path: Path) -> None:
    folder = images(tmp_path / "F", names, 2)
    config = settings(folder, tmp_path / "run", len({n.split("/")[0] for n in names}) if told else None)
    if message is None:
        split_images(config)
        return
    with pytest.raises(InputError, match=message.replace("F/", f"{folder}/")):
        split_images(config)


def test_validation_labels_follow_the_names(tmp_path: Path) -> None:
    training, held_out = images(tmp_path / "a", ["cat", "dog", "wild"]), images(tmp_path / "b", ["wild", "dog"], 2)
    config = settings(training, tmp_path / "run", 3, validation_path=str(held_out))
    split = split_images(config)
    source = split.source
    assert source.classes == ["cat", "dog", "wild"] and source.labels is not None
    for i in (*split.training, *split.validation):
        assert source.classes[source.labels[i]] == Path(source.names[i]).parts[0]
    assert {source.classes[k] for k in source.labels[split.validation]} == {"dog", "wild"}
    images(held_out, ["lynx"], 1)
    with pytest.raises(InputError, match=r"validation_path: .*/b has the class lynx, .*known are cat, dog, wild"):
        split_images(config)
    with pytest.raises(InputError, match=r"validation_path: the images of .* folders of their classes; .*cat, dog"):
        split_images(settings(training, tmp_path / "run", 3, validation_path=str(images(tmp_path / "c", ["x"]) / "x")))


def test_classes_of_several_folders_are_those_of_them_all(tmp_path: Path) -> None:
    folders = [images(tmp_path / "a", ["cat", "wild"], 1), images(tmp_path / "b", ["dog", "wild"], 1)]
    config = settings(tmp_path, tmp_path / "run", 3, path=[str(folder) for folder in folders])
    source = split_images(config).source
    assert source.classes == ["cat", "dog", "wild"] and source.labels is not None
    assert [source.classes[k] for k in source.labels] == ["cat", "wild", "dog", "wild"]


# --- from the training to the sampling -------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_curves")
def test_a_training_hands_its_names_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = images(tmp_path / "data", ["wild", "dog", "cat"])
    config = settings(data, tmp_path / "run", 3)
    assert check(config) == 0 and "of 3 classes (cat, dog, wild)" in capsys.readouterr().out
    assert run(config) == 0
    weights = tmp_path / "run" / "model.safetensors"
    assert json.loads((tmp_path / "run" / "run.json").read_text())["classes"] == ["cat", "dog", "wild"]
    assert (read_config(weights) or {})["classes"] == ["cat", "dog", "wild"]
    assert load_denoiser(weights).classes == ("cat", "dog", "wild")
    assert run(config, resume=str(tmp_path / "run")) == 0
    (data / "cat").rename(data / "zebra")
    with pytest.raises(InputError, match=r"the classes are dog, wild, zebra, but were cat, dog, wild when it began"):
        run(config, resume=str(tmp_path / "run"))
    (data / "zebra").rename(data / "cat")
    Image.new("RGB", (1, 1), (1, 2, 3)).save(data / "cat" / "0.png")
    with pytest.raises(InputError, match=r"the images in data.path have changed since it began"):
        run(config, resume=str(tmp_path / "run"))


@pytest.mark.usefixtures("no_curves")
def test_without_labels_there_are_no_names(tmp_path: Path) -> None:
    assert run(settings(images(tmp_path / "data", ["a", "b"]), tmp_path / "run", None)) == 0
    assert "classes" not in json.loads((tmp_path / "run" / "run.json").read_text())
    assert "classes" not in (read_config(tmp_path / "run" / "model.safetensors") or {})


class Network(torch.nn.Module):
    def forward(self, x: torch.Tensor, time: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return x


def named(names: Sequence[str], num_classes: int | None = None) -> NetworkDenoiser:
    made = NetworkDenoiser(Network(), 0.01, 10.0, null_label=num_classes or len(names))
    made.num_classes, made.classes = (num_classes or len(names)) + 1, names
    return made


@pytest.mark.parametrize(
    ("names", "label", "number"),
    [
        (["cat", "dog"], "dog", 1),
        (["cat", "dog"], 1, 1),
        (["1", "2", "10"], 10, 2),  # a number where all names are numbers is a name
        (["1", "2", "10"], "2", 1),
        (["01", "02"], 2, 1),
        (["0", "1", "2"], 2, 2),
        (["1", "b"], 1, 1),
        (["1", "b"], "1", 0),
        ([], 3, 3),
    ],
)
def test_labels_by_name_and_by_number(names: list[str], label: int | str, number: int) -> None:
    denoiser = named(names, None if names else 5)
    assert number_of_class(denoiser, label) == number
    told = guided(denoiser, [label])
    assert isinstance(told, GuidedDenoiser) and told.get_buffer("labels").tolist() == [number]


@pytest.mark.parametrize(
    ("names", "label", "message"),
    [
        (["cat", "dog"], "Cat", r"^guidance\.labels: found 'Cat'; known are cat, dog$"),
        (["cat", "dog"], 2, r"^guidance\.labels: found 2; allowed: 0 to 1, the network's classes: cat, dog$"),
        (["1", "2", "10"], 0, r"found 0; known are 1, 2, 10"),
        ([], "cat", r"found 'cat', but the file with the weights does not name its classes; give numbers from 0 to 4"),
        ([f"c{k}" for k in range(40)], "cat", r"c28, c29 and 10 more$"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(names: list[str], label: int | str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        guided(named(names, None if names else 5), [label])


def test_names_for_people() -> None:
    assert [name_of_class(named(["cat"], 2), k) for k in (0, 1)] == ["cat", "class 1"]


def sampling(tmp_path: Path, labels: Any) -> SampleConfig:
    short = ["sampler.schedule.num_steps=2", "device=cpu", f"network.path={BUNDLED}", f"output={tmp_path}/run"]
    return load_sample_config(ROOT / "configs/fashion/guided.yaml", [*short, f"guidance.labels={json.dumps(labels)}"])


def test_the_bundled_weights_know_their_names(tmp_path: Path) -> None:
    assert load_denoiser(BUNDLED).classes == FASHION_CLASSES
    by_name, by_number = (load_task(sampling(tmp_path, labels), torch.device("cpu")) for labels in (["Bag", 2], [8, 2]))
    assert by_name.labels == by_number.labels == [8, 2]
    assert [by_name.class_of(i) for i in range(3)] == ["Bag", "Pullover", "Bag"]
    with pytest.raises(InputError, match=r"found 'cat'; known are T-shirt/top, .*, Ankle boot$"):
        load_task(sampling(tmp_path, "cat"), torch.device("cpu"))


def test_pictures_and_numbers_have_the_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from randomwalk.sampling import run as sampling_run

    rows: list[sheets.Row] = []
    drawn = sheets.overview
    monkeypatch.setattr(sheets, "overview", lambda shown, **options: rows.extend(shown) or drawn(shown, **options))
    config = sampling(tmp_path, ["Bag", 2]).model_copy(update={"num_images": 4})
    assert sampling_run.run(config) == 0
    assert [row.label for row in rows] == ["Pullover", "Bag"]
    lines = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    head = lines[0].split(",")
    found = [(line.split(",")[head.index("label")], line.split(",")[head.index("class")]) for line in lines[1:]]
    assert found == [("8", "Bag"), ("2", "Pullover")] * 2


def test_the_weights_are_those_that_were_trained() -> None:
    """Only the description of the bundled file was written anew: the checksum of its tensors is that of before."""
    import hashlib

    raw = BUNDLED.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    assert hashlib.sha256(raw[8 + length :]).hexdigest() == (
        "d98f0e9e5c559575f6b68f20abce1a9eedff2bd0edf6c01d7b9b55e5ce262794"
    )


@pytest.mark.parametrize("classes", ["cat", [1, 2], {"a": 1}])
def test_a_damaged_list_of_names_is_refused(tmp_path: Path, classes: Any) -> None:
    network = {"name": "mlp", "num_channels": 2, "hidden": 4, "num_blocks": 1}
    from randomwalk.denoisers.networks import build_network

    state = build_network(network).state_dict()
    config = {"network": network, "denoiser": {"name": "edm"}, "training": {}}
    save_denoiser(tmp_path / "w.safetensors", config, state)
    raw = (tmp_path / "w.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    header["__metadata__"]["config"] = json.dumps(config | {"classes": classes})
    text = json.dumps(header).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])
    with pytest.raises(InputError, match="the classes in its description are not a list of names"):
        load_denoiser(tmp_path / "w.safetensors")


def test_a_long_name_leaves_room_for_the_pictures() -> None:
    tiles = [np.zeros((8, 8), np.uint8)] * 2
    short, long = (sheets.overview([sheets.Row(name, tiles)], side=64) for name in ("cat", "cat " * 100))
    assert short.width < long.width <= short.width + sheets.LABEL_WIDTH


def test_samples_of_a_training_are_in_rows_of_their_class(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[sheets.Row] = []
    monkeypatch.setattr("randomwalk.training.sets.overview", lambda shown, side: rows.extend(shown))
    in_turn = [np.full((1, 1), i % 3, np.uint8) for i in range(36)]
    sheet(in_turn, ["cat", "dog", "wild"])
    assert [row.label for row in rows] == ["cat", "dog", "wild"]
    assert [[int(np.asarray(tile).item()) for tile in row.images] for row in rows] == [[k] * 12 for k in range(3)]
    rows.clear()
    for classes in ([], ["one"], [str(k) for k in range(13)]):
        assert sheet(in_turn, classes).size == sheet(in_turn, []).size and not rows

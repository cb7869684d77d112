"""Standard sets: found where they are, downloaded where they are not, and never taken for whole when they are not."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision import datasets

from randomwalk.config import TrainConfig
from randomwalk.config.files import load_train_config
from randomwalk.config.score_embedding import EmbeddingData
from randomwalk.config.training import TrainData
from randomwalk.errors import InputError, RunError
from randomwalk.images import standard_sets
from randomwalk.images.sources import open_dataset
from randomwalk.images.standard_sets import find_standard_set, load_standard_set

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def files(count: int = 20, shift: int = 0) -> dict[str, bytes]:
    """The four files, image k of brightness k + shift."""
    images = np.broadcast_to(np.arange(count)[:, None, None] + shift, (count, 28, 28))
    return {name: idx(images if "images" in name else np.arange(count) % 10) for name in NAMES}


def write(folder: Path, content: dict[str, bytes], zipped: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        (folder / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(data) if zipped else data)
    return folder


@pytest.fixture(autouse=True)
def debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Debian's folder, which is not there at first."""
    monkeypatch.setattr(standard_sets, "DEBIAN", tmp_path / "debian")
    return tmp_path / "debian"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No name is known, and no address answers."""

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


class Server:
    """A server of files, that breaks off in the middle of one of them if it is told to."""

    def __init__(self, content: dict[str, bytes]) -> None:
        self.content, self.breaks, self.requests = content, "", 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer(False)

            def do_GET(self) -> None:
                outer.requests += 1
                self.answer(True)

            def answer(self, body: bool) -> None:
                name = self.path.rpartition("/")[2]
                data = outer.content[name]
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if body:
                    time.sleep(0.05)
                    self.wfile.write(data[: len(data) // 2] if name == outer.breaks else data)

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}/"


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Torchvision's MNIST from a server here."""
    content = {f"{name}.gz": gzip.compress(data) for name, data in files().items()}
    server = Server(content)
    monkeypatch.setattr(datasets.MNIST, "mirrors", [server.address])
    sums = [(name, hashlib.md5(data).hexdigest()) for name, data in content.items()]
    monkeypatch.setattr(datasets.MNIST, "resources", sums)
    yield server
    server.server.shutdown()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("inner", ["", "FashionMNIST/raw"])
@pytest.mark.usefixtures("offline")
def test_files_are_taken_from_the_path(tmp_path: Path, debian: Path, inner: str, zipped: bool) -> None:
    write(tmp_path / "here" / inner, files(shift=3), zipped)
    write(debian, files(shift=90))  # the path goes first
    source = open_dataset("fashion_mnist", tmp_path / "here")
    assert len(source) == 20 and [int(source.pixels(i, 1)[0, 0, 0]) for i in (0, 19)] == [3, 22]
    assert source.labels is not None and source.labels.tolist() == [*range(10)] * 2
    assert [source.classes[k] for k in (0, 9)] == ["T-shirt/top", "Ankle boot"]


@pytest.mark.usefixtures("offline")
def test_debians_files_are_taken_where_the_path_has_none(tmp_path: Path, debian: Path) -> None:
    write(debian, files(shift=90))
    assert open_dataset("fashion_mnist", tmp_path / "none").pixels(0, 1)[0, 0, 0] == 90
    assert find_standard_set("fashion_mnist", tmp_path / "none") == debian
    assert find_standard_set("mnist", tmp_path / "none") is None  # whose files have the same names
    with pytest.raises(InputError, match="there is no fashion_mnist in it"):
        load_standard_set("fashion_mnist", tmp_path / "none", anywhere=False)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
@pytest.mark.parametrize("apt", [True, False])
@pytest.mark.usefixtures("offline")
def test_without_a_connection_there_is_one_message_with_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, apt: bool
) -> None:
    monkeypatch.setattr(standard_sets.shutil, "which", lambda program: program if apt else None)
    with pytest.raises(InputError) as refused:
        open_dataset(name, tmp_path / "my data" / "sets")
    first, second = str(refused.value).splitlines()
    assert f"there is no {name} in " in first and "Name or service not known" in first
    command = "apt-get install dataset-fashion-mnist" if apt and name == "fashion_mnist" else "curl -fL"
    assert command in second and (command != "curl -fL" or f"'{tmp_path}/my data/sets'" in second)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
@pytest.mark.usefixtures("offline")
def test_a_set_that_cannot_be_had_is_said_before_a_download_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, debian: Path, name: str
) -> None:
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    with pytest.raises(InputError, match=f"there is no {name} in .*Name or service not known"):
        standard_sets.check_standard_set(name, tmp_path / "data")
    if name != "cifar10":
        write(tmp_path / "data", files())
        standard_sets.check_standard_set(name, tmp_path / "data")


def test_a_set_whose_server_answers_is_left_to_the_download(tmp_path: Path, mirror: Server, monkeypatch) -> None:
    kind = dataclasses.replace(standard_sets.KINDS["mnist"], address=mirror.address)
    monkeypatch.setitem(standard_sets.KINDS, "mnist", kind)
    standard_sets.check_standard_set("mnist", tmp_path / "data")
    assert mirror.requests == 0 and not (tmp_path / "data").exists()


def test_the_command_puts_the_files_where_they_are_found(tmp_path: Path, mirror: Server) -> None:
    """Run by the shell, from the server here."""
    import shutil
    import subprocess

    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    command = standard_sets._advice("mnist", tmp_path / "my data").splitlines()[1]
    here = command.replace(standard_sets.KINDS["mnist"].address, mirror.address.rstrip("/"))
    assert here != command
    subprocess.run(["bash", "-c", here], check=True, capture_output=True)
    requests = mirror.requests
    assert len(open_dataset("mnist", tmp_path / "my data")) == 20 and mirror.requests == requests == 4


def test_what_is_downloaded_is_not_downloaded_again(
    tmp_path: Path, mirror: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    source = open_dataset("mnist", tmp_path / "a" / "data")
    assert len(source) == 20 and source.classes == list("0123456789")
    requests = mirror.requests
    told = capfd.readouterr()
    assert "downloading it there (12 MB)" in told.err and "100%" in told.err and told.out == ""  # 100%: of its bar
    raw = tmp_path / "a" / "data" / "MNIST" / "raw"
    assert sorted(p.name for p in raw.iterdir()) == sorted(NAMES)
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and [p.name for p in (tmp_path / "a").iterdir()] == ["data"]
    assert len(open_dataset("mnist", tmp_path / "a" / "data", "test")) == 20
    assert mirror.requests == requests > 0


@pytest.mark.parametrize("broken", range(4))
def test_a_download_that_breaks_off_leaves_nothing(tmp_path: Path, mirror: Server, broken: int) -> None:
    mirror.breaks = f"{NAMES[broken]}.gz"
    with pytest.raises(InputError, match="it cannot be downloaded"):
        open_dataset("mnist", tmp_path / "data")
    assert list(tmp_path.iterdir()) == []
    mirror.breaks = ""
    assert len(open_dataset("mnist", tmp_path / "data")) == 20


@pytest.mark.usefixtures("mirror")
def test_a_download_onto_a_full_disk_is_a_failure_and_leaves_nothing(tmp_path: Path) -> None:
    """A bound on the size of files stands in for a full disk."""
    resource = pytest.importorskip("resource")
    bounds = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, bounds[1]))
    try:
        with pytest.raises(RunError, match=f"mnist cannot be written to {tmp_path / 'data'}: File too large"):
            open_dataset("mnist", tmp_path / "data")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, bounds)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_has_left_is_not_taken(tmp_path: Path, mirror: Server) -> None:
    write(tmp_path / ".mnist.partial" / "MNIST" / "raw", {name: data[:100] for name, data in files().items()})
    write(tmp_path / "MNIST" / "raw", {NAMES[0]: files()[NAMES[0]]})  # the images are in place, the labels not yet
    assert find_standard_set("mnist", tmp_path) is None
    assert len(open_dataset("mnist", tmp_path)) == 20
    assert [p.name for p in tmp_path.iterdir()] == ["MNIST"]


@pytest.mark.usefixtures("mirror")
def test_processes_at_once_download_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(len(open_dataset("mnist", tmp_path / "data")))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [20] * 3 and capfd.readouterr().err.count("downloading it there") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {NAMES[0]: c[NAMES[0]][:-1]}, "train-images-idx3-ubyte: is cut short"),
        (lambda c: {NAMES[0]: b"<html>"}, "train-images-idx3-ubyte: is not an IDX file"),
        (lambda c: {NAMES[1]: idx(np.arange(19) % 10)}, r"images and their labels, .*: \[20, 28, 28\] and \[19\]"),
        (lambda c: {NAMES[1]: idx(np.arange(20))}, "from 0 to 9"),
    ],
)
@pytest.mark.usefixtures("offline")
def test_damaged_files_are_named(tmp_path: Path, change: Any, message: str) -> None:
    content = files()
    write(tmp_path, content | change(content), zipped=False)
    with pytest.raises(InputError, match=message):
        open_dataset("mnist", tmp_path)


@pytest.mark.usefixtures("offline")
def test_a_gzip_file_that_is_cut_short_is_named(tmp_path: Path) -> None:
    write(tmp_path, files())
    whole = (tmp_path / f"{NAMES[0]}.gz").read_bytes()
    (tmp_path / f"{NAMES[0]}.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz: cannot be read"):
        open_dataset("mnist", tmp_path)


def test_a_server_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = socket.socket()
    silent.bind(("127.0.0.1", 0))
    silent.listen()
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{silent.getsockname()[1]}/"])
    monkeypatch.setattr(standard_sets, "TIMEOUT", 0.3)
    with contextlib.closing(silent), pytest.raises(InputError, match="timed out"):
        open_dataset("mnist", tmp_path)
    assert socket.getdefaulttimeout() is None


def test_the_old_name_of_fashion_mnist_is_understood() -> None:
    data = {"dataset": "fashion_mnist_files", "path": "data", "image_size": 32, "num_images": 4, "channels": 1}
    assert EmbeddingData.model_validate(data).dataset == "fashion_mnist"
    config = load_train_config(ROOT / "configs/vp_train.yaml", ["data.dataset=fashion_mnist_files"])
    assert isinstance(config, TrainConfig) and isinstance(config.data, TrainData)
    assert config.data.dataset == "fashion_mnist" and config.data.path == "data"


def test_a_path_that_no_system_takes_is_one_message() -> None:
    with pytest.raises(InputError, match=r"data\.path: a{300}: File name too long"):
        standard_sets.check_standard_set("mnist", "a" * 300)

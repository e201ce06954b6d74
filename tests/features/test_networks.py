"""Networks that a policy names: only the file that was meant, only what computes, one row an image."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from homes import new_home
from torch import Tensor, nn
from torch.nn import functional as F

from privsyn.auditing.cache import Cache
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.run import audit
from privsyn.auditing.verdict import Verdict
from privsyn.cohort.cohort import Cohort, load_cohort
from privsyn.cohort.prepare import prepare
from privsyn.errors import PrivsynError
from privsyn.features.embed import EMBEDDINGS, embed
from privsyn.features.inference import OpenNetwork, open_network
from privsyn.features.networks import BUILT_IN, Network
from privsyn.study import init
from privsyn.synthetic.dataset import SyntheticSet

SIZE = 20


class Small(nn.Module):
    """A convolution, a norm and an activation: (n, 3, h, w) to (n, 5, h', w')."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, 5, 3, stride=2)
        self.norm = nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.convolution(x)))


class Pair(Small):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, self.convolution(x)


class Named(Small):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"features": self.convolution(x)}


class Logarithm(Small):
    def forward(self, x: Tensor) -> Tensor:
        return torch.log(x.mean((2, 3)) - 9)


class Contrast(Small):
    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(x / x.std(dim=(1, 2, 3), keepdim=True))


class OneRow(Small):
    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(x).reshape(1, -1)


class OwnSize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


class Saves(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch.save(x, "taken")
        return x.flatten(1)


class SavesInABranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] == 3:
            torch.save(x, "taken")
        return x.flatten(1)


class Prints(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        print(x.shape)  # noqa: T201 - it must not
        return x.flatten(1)


class SavesWhileLoaded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.state = 1

    @torch.jit.export
    def __getstate__(self) -> int:
        return self.state

    @torch.jit.export
    def __setstate__(self, state: int) -> None:
        torch.save(torch.zeros(1), "taken")
        self.state = state
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def scripted(module: nn.Module, *, traced: bool = False) -> bytes:
    """TorchScript of a module, as somebody exports it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is deprecated, and what tracing cannot see
        if traced:
            images = torch.zeros(2, 3, SIZE, SIZE)
            return torch.jit.trace(module, images, strict=False, check_trace=False).save_to_buffer()
        return torch.jit.script(module).save_to_buffer()


def pickled(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def written(folder: Path, content: bytes, file: str = "net.pt", **changes: Any) -> Network:
    """A network of a policy in `folder`, whose file is there."""
    (folder / file).write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    return Network.model_validate({"name": "net", "file": file, "sha256": sha256, "size": SIZE, **changes})


def opened(folder: Path, content: bytes, file: str = "net.pt", **changes: Any) -> OpenNetwork:
    return open_network(written(folder, content, file, **changes), folder)


def small(channels: int = 3) -> Small:
    """With weights, and averages of its norm, that are nothing special."""
    torch.manual_seed(0)
    module = Small(channels)
    module(torch.randn(50, channels, SIZE, SIZE))
    return module.eval()


def pictures(count: int, channels: int = 3, side: int = 28) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, side, side, channels), np.uint8)


def plainly(module: nn.Module, image: np.ndarray, mean: list[float], std: list[float]) -> np.ndarray:
    """The row of one image by the definition: resized, clipped, scaled, repeated, averaged."""
    planes = torch.tensor(image.astype(np.float32)).permute(2, 0, 1)[None]
    planes = F.interpolate(planes, size=(SIZE, SIZE), mode="bicubic", antialias=True).clamp(0, 255) / 255
    planes = planes.expand(1, len(mean), SIZE, SIZE)
    planes = (planes - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    with torch.no_grad():
        return module(planes).mean((2, 3))[0].numpy()


# ---- ONNX by hand: the wire format of protobuf, and the few fields of onnx.proto that a convolution takes


def varint(number: int) -> bytes:
    low = bytearray()
    while number > 127:
        low.append(number & 127 | 128)
        number >>= 7
    return bytes([*low, number])


def field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(name: str, values: np.ndarray, elsewhere: str = "") -> bytes:
    """TensorProto of float32 or float16, in the model or in another file."""
    kind = {2: 10, 4: 1}[values.itemsize]
    head = b"".join(field(1, side) for side in values.shape) + field(2, kind) + field(8, name)
    if elsewhere:
        return head + field(13, field(1, "location") + field(2, elsewhere)) + field(14, 1)
    return head + field(9, values.tobytes())


def described(name: str, shape: tuple[int | str, ...], kind: int = 1) -> bytes:
    """ValueInfoProto; kind 1 is float32, 10 float16."""
    sides = b"".join(field(1, field(1 if isinstance(side, int) else 2, side)) for side in shape)
    return field(1, name) + field(2, field(1, field(1, kind) + field(2, sides)))


def node(operator: str, given: list[str], returned: str) -> bytes:
    return b"".join(field(1, name) for name in given) + field(2, returned) + field(4, operator)


def graph(
    module: nn.Conv2d, batch: int | str = "n", *, elsewhere: str = "", kind: int = 1, outputs: int = 1
) -> bytes:
    """ModelProto of a convolution with stride 1 and a ReLU."""
    dtype = {1: np.float32, 10: np.float16}[kind]
    weight, bias = (part.detach().numpy().astype(dtype) for part in (module.weight, module.bias))
    parts = [
        *(field(1, each) for each in (node("Conv", ["x", "w", "b"], "c"), node("Relu", ["c"], "y"))),
        field(2, "small"),
        field(5, tensor("w", weight, elsewhere)),
        field(5, tensor("b", bias)),
        field(11, described("x", (batch, weight.shape[1], SIZE, SIZE), kind)),
        *(field(12, described(name, (batch, len(bias), "h", "v"), kind)) for name in ("y", "c")[:outputs]),
    ]
    return field(1, 8) + field(7, b"".join(parts)) + field(8, field(1, "") + field(2, 13))


@pytest.fixture
def onnx() -> nn.Conv2d:
    """A convolution to write as ONNX, where there is a runtime for it."""
    pytest.importorskip("onnxruntime", reason="needs privsyn[ocr]")
    torch.manual_seed(0)
    return nn.Conv2d(3, 5, 3)


# ---- what a network computes


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("traced", [False, True])
def test_rows_are_what_the_network_gives_on_one_image(tmp_path: Path, channels: int, traced: bool) -> None:
    """TorchScript, scripted or traced; grey images are repeated, and each channel is scaled by its own."""
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    network = opened(tmp_path, scripted(small(), traced=traced), mean=mean, std=std)
    images = pictures(19, channels)
    rows = network(images)
    assert rows.dtype == np.float32
    assert rows.shape == (19, network.dimension) == (19, 5)
    expected = np.stack([plainly(small(), image, mean, std) for image in images])
    np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-5)


def test_grey_networks_see_grey_images_and_no_others(tmp_path: Path) -> None:
    """RGB is refused before anything is computed; nothing says which grey it would be."""
    network = opened(tmp_path, scripted(small(1)), channels=1)
    images = pictures(3, 1)
    expected = np.stack([plainly(small(1), image, [0.0], [1.0]) for image in images])
    np.testing.assert_allclose(network(images), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(PrivsynError, match="for grey images"):
        network(pictures(3, 3))


def test_a_network_that_no_black_image_suits_is_never_shown_one(tmp_path: Path) -> None:
    """Batches are filled up with images that were asked for: what divides by an image's contrast works."""
    network = opened(tmp_path, scripted(Contrast()))
    assert np.isfinite(network(pictures(5))).all()
    with pytest.raises(PrivsynError, match="not finite"):
        network(np.zeros((1, 28, 28, 3), np.uint8))


def test_8_and_16_bits_are_equals(tmp_path: Path) -> None:
    """The same image in either has the same row."""
    network, images = opened(tmp_path, scripted(small())), pictures(3, 1)
    np.testing.assert_allclose(network(images.astype(np.uint16) * 257), network(images), rtol=1e-5, atol=1e-6)


def test_an_image_has_the_same_row_whatever_stands_beside_it(tmp_path: Path, onnx: nn.Conv2d) -> None:
    """Alone, in part of a batch or in another order: the same bits; none gives no rows."""
    images = pictures(40)
    for content, file in ((scripted(small()), "net.ts"), (graph(onnx), "net.onnx")):
        network = opened(tmp_path, content, file)
        rows = network(images)
        np.testing.assert_array_equal(network(images[::-1])[::-1], rows)
        for count in (0, 1, 5, 33):
            np.testing.assert_array_equal(network(images[:count]), rows[:count])


@pytest.mark.parametrize("batch", ["n", 1, 7])
def test_onnx_and_torch_agree(tmp_path: Path, onnx: nn.Conv2d, batch: int | str) -> None:
    """The same weights in either give the same rows; a batch that is fixed in the graph is kept to."""
    network = opened(tmp_path, graph(onnx, batch), "net.onnx")
    assert network.batch == (16 if batch == "n" else batch)
    by_torch = opened(tmp_path, scripted(nn.Sequential(onnx, nn.ReLU())))
    np.testing.assert_allclose(network(pictures(20)), by_torch(pictures(20)), rtol=1e-4, atol=1e-5)


def test_a_network_out_of_another_programs_wheel_works() -> None:
    """The classifier of RapidOCR, whose batch, height and width are free."""
    pytest.importorskip("onnxruntime", reason="needs privsyn[ocr]")
    rapidocr = pytest.importorskip("rapidocr", reason="needs privsyn[ocr]")
    file = Path(rapidocr.__file__).parent / "models" / "ch_ppocr_mobile_v2.0_cls_mobile.onnx"
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    network = open_network(Network(name="up", file=file, sha256=sha256, size=48), Path("elsewhere"))
    np.testing.assert_allclose(network(pictures(5)).sum(axis=1), 1, rtol=1e-5)  # probabilities


def test_what_a_reader_must_know_is_told(tmp_path: Path) -> None:
    """Format, digest, size, scale and dimension, and never where the file lies."""
    network = opened(tmp_path, scripted(small()), mean=[0.5, 0.5, 0.5])
    told = network.embedding_info()
    assert told["network"] == "net (TorchScript)"
    assert told["sha256"] == network.network.sha256
    assert (told["size"], told["dimension"], told["channels"]) == (SIZE, 5, 3)
    assert (told["mean"], told["std"]) == ("0.5, 0.5, 0.5", "1, 1, 1")
    assert str(tmp_path) not in str(told)


# ---- what is refused


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: pickled(small().state_dict()), "is a pickle or of an old format"),
        (lambda: pickled(small()), "is a pickle or of an old format"),
        (
            lambda: pickled(small().state_dict(), _use_new_zipfile_serialization=False),
            "is not a TorchScript archive",
        ),
        (lambda: b"", "is not a TorchScript archive"),
        (lambda: b"not a network", "is not a TorchScript archive"),
        (lambda: scripted(small())[:2000], "is not a TorchScript archive"),
        (lambda: scripted(Pair()), "returns 2 outputs"),
        (lambda: scripted(Named(), traced=True), "returns a dictionary"),
        (lambda: scripted(Logarithm()), "not finite"),
        (lambda: scripted(OneRow(), traced=True), r"returns \(1, 6480\) for 16 images"),
        (lambda: scripted(OwnSize()), "see to size, channels and precision"),
        (lambda: scripted(small().double()), "see to size, channels and precision"),
        (lambda: scripted(Small().train(), traced=True), "images beside it: export it in eval mode"),
        (lambda: scripted(nn.Sequential(small(), nn.Dropout()).train(), traced=True), "depends on chance"),
        (lambda: scripted(Prints()), "uses prim::Print"),
    ],
)
def test_what_gives_no_row_for_each_image_is_refused(
    tmp_path: Path, content: Callable[[], bytes], message: str
) -> None:
    """In one or two lines, with the network's name and what to do; before any image is embedded."""
    with pytest.raises(PrivsynError, match=message) as raised:
        opened(tmp_path, content())
    assert str(raised.value).startswith("network 'net': net.pt: ")
    assert len(str(raised.value).splitlines()) <= 2


@pytest.mark.parametrize("module", [Saves(), SavesInABranch(), SavesWhileLoaded()])
def test_torchscript_that_writes_files_is_refused_before_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: nn.Module
) -> None:
    """Patients' images go through it: it may compute, and nothing else, not even while it is loaded."""
    monkeypatch.chdir(tmp_path)
    content = scripted(module)
    with pytest.raises(PrivsynError, match=r"aten::save|__setstate__"):
        opened(tmp_path, content)
    assert not (tmp_path / "taken").exists()
    with warnings.catch_warnings():  # and it would have
        warnings.simplefilter("ignore")
        torch.jit.load(io.BytesIO(content))(torch.zeros(3, 1))
    assert (tmp_path / "taken").exists()


class Unpickled:
    """Makes a folder where Python unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("made",)


def test_no_python_object_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle in place of a network, or within a TorchScript archive, makes nothing."""
    monkeypatch.chdir(tmp_path)
    archive = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(archive)
    reader = torch._C.PyTorchFileReader(io.BytesIO(scripted(small())))
    for record in reader.get_all_records():
        replaced = record in ("constants.pkl", "data.pkl")
        content = pickle.dumps(Unpickled(), protocol=2) if replaced else reader.get_record(record)
        if record not in ("version", "byteorder", ".data/serialization_id"):  # the writer adds its own
            writer.write_record(record, content, len(content))
    writer.write_end_of_file()
    for content, message in (
        (pickle.dumps(Unpickled()), "is not a TorchScript archive"),
        (pickled(Unpickled()), "is a pickle"),
        (archive.getvalue(), "cannot be loaded"),
    ):
        with pytest.raises(PrivsynError, match=message):
            opened(tmp_path, content)
    assert not (tmp_path / "made").exists()


def test_another_file_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    """Both digests are named, shortened; what is in the file does not matter."""
    network = written(tmp_path, scripted(small()))
    (tmp_path / "net.pt").write_bytes(b"other")
    other = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(PrivsynError, match="not the file that the policy names") as raised:
        open_network(network, tmp_path)
    assert other[:12] in str(raised.value)
    assert network.sha256[:12] in str(raised.value)
    assert other not in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """By where it was looked for: beside the policy."""
    network = written(tmp_path, b"")
    (tmp_path / "net.pt").unlink()
    with pytest.raises(PrivsynError, match="No such file") as raised:
        open_network(network, tmp_path)
    assert str(tmp_path / "net.pt") in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"elsewhere": "weights.bin"}, "keeps weights in another file"),
        ({"elsewhere": "../weights.bin"}, "keeps weights in another file"),
        ({"kind": 10}, r"takes tensor\(float16\)"),
        ({"outputs": 2}, "returns 2 outputs"),
    ],
)
def test_onnx_that_cannot_be_used_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, onnx: nn.Conv2d, changes: dict[str, Any], message: str
) -> None:
    """Weights in another file too, which the digest would not cover, though they are there to be read."""
    folder = tmp_path / "nets"
    folder.mkdir()
    for place in (tmp_path, folder):
        (place / "weights.bin").write_bytes(onnx.weight.detach().numpy().tobytes())
    monkeypatch.chdir(folder)
    with pytest.raises(PrivsynError, match=message):
        opened(folder, graph(onnx, **changes), "net.onnx")


def test_what_is_no_onnx_is_refused(tmp_path: Path, onnx: nn.Conv2d) -> None:
    """TorchScript under another name, and a graph that was cut."""
    for content in (scripted(small()), graph(onnx)[:-200], b"text"):
        with pytest.raises(PrivsynError, match="is not ONNX that can be loaded"):
            opened(tmp_path, content, "net.onnx")


def test_without_the_runtime_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which extra brings onnxruntime; TorchScript needs none."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(PrivsynError, match=r"pip install 'privsyn\[ocr\]'"):
        opened(tmp_path, b"", "net.onnx")
    assert opened(tmp_path, scripted(small())).dimension == 5


# ---- as evidence


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder = tmp_path_factory.mktemp("digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIVSYN_HOME", new_home(folder / "home"))
        study = init(folder / "study", recipe="digits", policy="internal-review")
        prepare(study, "digits")
    return load_cohort(study.cohort)


def evidence(cohort: Cohort, *networks: OpenNetwork, cache: Cache | None = None) -> Evidence:
    test = cohort.part("test")
    synthetic = SyntheticSet(test.images[:20], test.labels[:20], cohort.classes, None, "0" * 64)
    return Evidence(cohort, synthetic, networks=networks, cache=cache)


def test_names_of_the_built_in_embeddings_are_taken() -> None:
    """The list that policies are held to, which brings no torch, is that of the embeddings there are."""
    assert set(BUILT_IN) == set(EMBEDDINGS)


def test_evidence_embeds_by_the_networks_of_the_policy(tmp_path: Path, cohort: Cohort) -> None:
    """Beside the built-in ones, and told like them; another name is refused with all there are."""
    network = opened(tmp_path, scripted(small()))
    of = evidence(cohort, network)
    images = of.synthetic.images
    assert of.networks == ("net",)
    np.testing.assert_array_equal(of.embedding("net", images), network(images))
    np.testing.assert_array_equal(of.embedding("lite0", images), embed("lite0", images))
    assert of.embedding_info("net") == network.embedding_info()
    assert of.embedding_info("lite0")["dimension"] == 1280
    assert of.representation("net")(images).shape[0] == len(images)
    for ask in (of.embedding_info, lambda name: of.embedding(name, images)):
        with pytest.raises(PrivsynError, match=r"'inception': choose from pixels, lite0-mid, lite0, net"):
            ask("inception")


def test_rows_are_kept_by_content_of_the_network(tmp_path: Path, cohort: Cohort) -> None:
    """The same network hits what was kept; other weights, size or scale under the same name never do."""
    cache, images = Cache(tmp_path / "kept", {}), cohort.part("train").images[:30]
    content = scripted(small())
    first = evidence(cohort, opened(tmp_path, content), cache=cache)
    rows, space = first.embedding("net", images), first.representation("net")(images)
    first.keep_embeddings()

    def again(network: OpenNetwork) -> tuple[np.ndarray, np.ndarray]:
        of = evidence(cohort, network, cache=Cache(tmp_path / "kept", {}))
        return of.embedding("net", images), of.representation("net")(images)

    def never(batch: Tensor) -> Tensor:
        pytest.fail(f"it ran again, on {len(batch)} images")

    never_run = OpenNetwork(written(tmp_path, content, "moved.pt"), never, 16, 5)
    for found, kept in zip(again(never_run), (rows, space), strict=True):
        np.testing.assert_array_equal(found, kept)
    for network in (
        opened(tmp_path, scripted(Small().eval())),
        opened(tmp_path, content, size=SIZE + 1),
        opened(tmp_path, content, mean=[0.1, 0.1, 0.1]),
        opened(tmp_path, content, std=[2, 2, 2]),
    ):
        found, elsewhere = again(network)
        np.testing.assert_array_equal(found, network(images))
        assert not np.allclose(found, rows)
        assert not np.allclose(elsewhere, space)


def test_an_audit_opens_the_networks_beside_the_policy_first(tmp_path: Path, cohort: Cohort) -> None:
    """By a path from the policy's folder, whatever the working folder; a changed file stops the audit."""
    (tmp_path / "nets").mkdir()
    network = written(tmp_path / "nets", scripted(small()))
    text = (
        'title = "t"\npurpose = "p"\n[[rules]]\nid = "r"\naudit = "exact-copies"\nstatistic = "copies"\n'
        'side = "value"\nop = "<="\nthreshold = 0\nrationale = "Choice of this test."\n'
        f'[[networks]]\nname = "net"\nfile = "nets/net.pt"\nsha256 = "{network.sha256}"\nsize = {SIZE}\n'
    )
    (tmp_path / "policy.toml").write_text(text)
    test = cohort.part("test")
    np.savez(tmp_path / "set.npz", images=test.images[:50], labels=test.labels[:50])

    def run(out: str) -> Verdict:
        return audit(
            synthetic=tmp_path / "set.npz",
            cohort=cohort.folder,
            policy=tmp_path / "policy.toml",
            out=tmp_path / out,
        )

    assert run("first").outcome == "pass"
    (tmp_path / "nets" / "net.pt").write_bytes(scripted(Small()))
    with pytest.raises(PrivsynError, match="not the file that the policy names"):
        run("second")
    assert not (tmp_path / "second").exists()

"""Runs the networks that a policy names, on bytes whose digest was checked, and allows only computation.

Both formats hold programs as well as weights. An ONNX graph can only name files to read weights from, which
is not allowed here: the digest would not cover them. TorchScript is not Python, and `torch.jit.load` reads it
with an unpickler of its own that makes no Python objects; but its code can write and read files, or call
other machines, and a method `__setstate__` runs while it is loaded. So code with that method is refused
before it is loaded, and code with operators that reach outside before it is run.

What was opened is tried on noise: an image's row must not depend on the images beside it, as it does in what
was exported in training mode.
"""

from __future__ import annotations

import importlib
import io
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from privsyn.bit_depth import Images
from privsyn.errors import PrivsynError
from privsyn.features.embed import BATCH, RESIZE, EmbeddingInfo, FeatureRows, in_batches, resized
from privsyn.features.networks import FORMATS, Network
from privsyn.progress import SILENT, Progress

Forward = Callable[[Tensor], object]  # (batch, channels, size, size) float32 to whatever the network returns

# Files, other machines, threads, the screen; and calls left after inlining, which are not of TorchScript.
_OUTSIDE = frozenset(
    {"save", "from_file", "rpc_async", "rpc_remote", "rpc_sync", "fork", "Print", "PythonOp"}
    | {"CallMethod", "CallFunction"}
)
_HINT = "ONNX networks need onnxruntime: pip install 'privsyn[ocr]'"


@dataclass(frozen=True, eq=False)
class OpenNetwork:
    """An embedding by a network that is in memory: images (n, H, W, C) to rows (n, dimension) float32.

    Attributes:
        batch: how many images it is given at once, always.
    """

    network: Network
    forward: Forward
    batch: int
    dimension: int

    @property
    def name(self) -> str:
        return self.network.name

    def __call__(self, images: Images, progress: Progress = SILENT) -> FeatureRows:
        """Rows (n, dimension); the row of an image does not depend on the other images.

        Raises:
            PrivsynError: images are RGB and the network is for grey, or a row is not finite.
        """
        self.check(images.shape[-1])
        stage = f"embed images ({self.name})"
        return in_batches(self._features, images, self.batch, self.dimension, stage, progress)

    def check(self, channels: int) -> None:
        """Refuse images of so many channels if the network cannot see them."""
        if channels > self.network.channels:
            raise PrivsynError(
                f"network {self.name!r} is for grey images (channels = 1) and these are RGB: "
                "take it out of the policy, or name one with channels = 3"
            )

    def embedding_info(self) -> EmbeddingInfo:
        """The network, weights and input of this embedding, which its numbers depend on."""
        mean, std = (", ".join(f"{each:g}" for each in numbers) for numbers in self.network.per_channel)
        return {
            "network": f"{self.name} ({FORMATS[self.network.file.suffix]})",
            "sha256": self.network.sha256,
            "size": self.network.size,
            "resize": RESIZE,
            "channels": self.network.channels,
            "mean": mean,
            "std": std,
            "dimension": self.dimension,
        }

    def _features(self, images: Images) -> FeatureRows:
        return _rows(self.network, self.forward, as_input(self.network, images))


def open_network(network: Network, folder: Path) -> OpenNetwork:
    """Load a network of a policy in `folder`, and try it on noise.

    Raises:
        PrivsynError: the file is missing or another one, is not of its format, reaches outside, or does not
            give one row for each image.
    """
    content = network.read(folder)
    opener = _onnx if FORMATS[network.file.suffix] == "ONNX" else _torchscript
    forward, batch = opener(network, content)
    dimension = _tried(network, forward, batch)
    return OpenNetwork(network, forward, batch, dimension)


def as_input(network: Network, images: Images) -> Tensor:
    """Images (n, H, W, C) as the network wants them, (n, channels, size, size) float32."""
    mean, std = (torch.tensor(numbers).view(1, -1, 1, 1) for numbers in network.per_channel)
    return ((resized(images, network.size) / 255 - mean) / std).contiguous()


def _tried(network: Network, forward: Forward, batch: int) -> int:
    """The length of a row; half a batch of noise must keep its rows in other places beside weaker noise."""
    shape = (batch, network.size, network.size, network.channels)
    shown = as_input(network, np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    stay = batch - batch // 2
    elsewhere = shown.flip(0).contiguous()
    elsewhere[: batch - stay] /= 4
    with torch.inference_mode():
        rows, again = (_rows(network, forward, some) for some in (shown, elsewhere))
    if not np.allclose(rows[:stay], again[::-1][:stay], rtol=1e-3, atol=1e-4 * float(np.abs(rows).max())):
        raise _fault(network, "a row depends on chance or on the images beside it: export it in eval mode")
    return int(rows.shape[1])


def _rows(network: Network, forward: Forward, batch: Tensor) -> FeatureRows:
    try:
        output = forward(batch)
    except Exception as error:  # of onnxruntime, whose errors have no base of their own, or of torch
        shape = tuple(batch.shape)
        why = f"cannot compute on float32 {shape} ({_last_line(error)}): see to size, channels and precision"
        raise _fault(network, why) from None
    if not isinstance(output, Tensor):
        raise _fault(network, f"returns {_in_words(output)}: export one that returns the features alone")
    rows = output.mean(dim=(2, 3)) if output.ndim == 4 else output
    if rows.ndim != 2 or len(rows) != len(batch):
        raise _fault(
            network,
            f"returns {tuple(output.shape)} for {len(batch)} images: export one that returns "
            "(n, d) or (n, d, h, w) for any n",
        )
    if not rows.isfinite().all():
        raise _fault(network, "returns numbers that are not finite: see to mean, std and precision")
    return rows.to(torch.float32).numpy()


def _torchscript(network: Network, content: bytes) -> tuple[Forward, int]:
    """The bytes as a module in eval mode; its code runs as it is written, without what a profiler fuses."""
    _check_archive(network, content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit: what users have is TorchScript
        try:
            module = torch.jit.load(io.BytesIO(content), map_location="cpu")  # type: ignore[no-untyped-call]
            method = module.eval().forward  # what is looked at is what runs
            kinds = set(_kinds(method.inlined_graph))
        except Exception as error:
            raise _fault(network, f"is TorchScript that cannot be loaded: {_last_line(error)}") from None
    for kind in sorted(kinds):
        space, _, operator = kind.partition("::")
        if space not in ("aten", "prim") or operator in _OUTSIDE:
            raise _fault(network, f"uses {kind}, which may do more than compute: export one without")

    def forward(batch: Tensor) -> object:
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            return method(batch)

    return forward, BATCH


def _check_archive(network: Network, content: bytes) -> None:
    """Look at an archive with the reader that will load it, before any of it runs."""
    try:
        reader = torch._C.PyTorchFileReader(io.BytesIO(content))
        records = set(reader.get_all_records())
    except (RuntimeError, ValueError):  # the latter where it is cut short
        raise _fault(network, "is not a TorchScript archive: save it with torch.jit.save") from None
    if "constants.pkl" not in records or "model.json" in records:
        raise _fault(network, "is a pickle or of an old format, not TorchScript: save it with torch.jit.save")
    if any(b"__setstate__" in reader.get_record(name) for name in records if name.startswith("code/")):
        raise _fault(network, "runs code while it is loaded (__setstate__): export one that is not quantised")


def _kinds(graph: Any) -> Iterator[str]:
    for node in graph.nodes():
        yield node.kind()
        for block in node.blocks():
            yield from _kinds(block)


def _onnx(network: Network, content: bytes) -> tuple[Forward, int]:
    """The bytes as a session on the CPU, and the batch size: the graph's own where it has one."""
    try:
        runtime = importlib.import_module("onnxruntime")  # has no types
    except ImportError:
        raise _fault(network, _HINT) from None
    runtime.disable_telemetry_events()  # on Windows onnxruntime tells the system what it runs
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # its errors are raised as well
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as empty:  # where weights outside the file are looked for
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", empty)
        try:
            session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # has no base of its own
            if "xternal data" in str(error):
                raise _fault(
                    network, "keeps weights in another file: save it as one (external_data=False)"
                ) from None
            raise _fault(network, f"is not ONNX that can be loaded: {_last_line(error)}") from None
    given = session.get_inputs()
    if len(given) != 1 or given[0].type != "tensor(float)" or len(given[0].shape) != 4:
        wanted = ", ".join(f"{each.type} {each.shape}" for each in given)
        raise _fault(network, f"takes {wanted}: export one that takes float32 (n, channels, size, size)")
    own = given[0].shape[0]

    def forward(batch: Tensor) -> object:
        outputs = session.run(None, {given[0].name: batch.numpy()})
        if len(outputs) == 1 and isinstance(outputs[0], np.ndarray):
            return torch.from_numpy(outputs[0])
        return tuple(outputs)

    return forward, own if isinstance(own, int) and own > 0 else BATCH


def _fault(network: Network, what: str) -> PrivsynError:
    return PrivsynError(f"network {network.name!r}: {network.file.name}: {what}")


def _in_words(output: object) -> str:
    if isinstance(output, tuple | list):
        return f"{len(output)} outputs"
    return "a dictionary" if isinstance(output, dict) else f"a {type(output).__name__}"


def _last_line(error: Exception) -> str:
    """The last line of a message, which is where TorchScript puts what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__

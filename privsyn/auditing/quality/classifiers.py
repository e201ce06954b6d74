"""Three classifiers of images, of different kinds, with settings that nobody chose on the data.

`logistic-regression` and `gradient-boosting` read lite0 features, the latter their first principal components
in the training set; `cnn` is a small convolutional network that reads the pixels. Nothing is selected or
stopped early, so no set of images is looked at but the one they are trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from privsyn.bit_depth import Images, white
from privsyn.features.embed import Floats
from privsyn.features.encoder import halving_layers

PENALTY = 0.01  # C of the logistic regression: 1,280 features of some hundred images need a strong one
COMPONENTS = 32  # that the boosted trees see
STEPS, BATCH, RATE = 240, 64, 3e-3  # of the network
SIDE = 64  # px, the most that the network sees
_WIDTHS = (16, 32, 64)
_AT_ONCE = 256

Probabilities = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Examples:
    """Images (n, H, W, C), their lite0 features (n, d) and labels (n,)."""

    images: Images
    features: Floats
    labels: NDArray[np.int64]

    def of(self, rows: NDArray[np.int64]) -> Examples:
        return Examples(self.images[rows], self.features[rows], self.labels[rows])

    def beside(self, other: Examples) -> Examples:
        """All of both."""
        return Examples(
            np.concatenate([self.images, other.images]),
            np.concatenate([self.features, other.features]),
            np.concatenate([self.labels, other.labels]),
        )

    def __len__(self) -> int:
        return len(self.labels)


Reader = Callable[[Examples], Probabilities]


def fit(name: str, training: Examples, classes: int, seed: int) -> Reader:
    """Train the classifier of that name (one of `CLASSIFIERS`).

    Returns:
        gives (n, classes) probabilities, 0 for a class that was not in the training set.
    """
    there = np.unique(training.labels)
    if len(there) < 2:
        constant = np.zeros(classes)
        constant[there] = 1
        return lambda read: np.tile(constant, (len(read), 1))
    return CLASSIFIERS[name](training, classes, seed)


def _logistic_regression(training: Examples, classes: int, _seed: int) -> Reader:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, max_iter=500))
    return _on_features(model.fit(training.features, training.labels), classes)


def _gradient_boosting(training: Examples, classes: int, seed: int) -> Reader:
    components = min(COMPONENTS, len(training) - 1, training.features.shape[1])
    trees = HistGradientBoostingClassifier(
        max_iter=60, max_leaf_nodes=15, early_stopping=False, random_state=seed
    )
    reduce = PCA(components, svd_solver="randomized", random_state=seed)
    model = make_pipeline(StandardScaler(), reduce, trees)
    return _on_features(model.fit(training.features, training.labels), classes)


def _on_features(model: Pipeline, classes: int) -> Reader:
    def read(examples: Examples) -> Probabilities:
        found = np.zeros((len(examples), classes))
        found[:, model.classes_] = model.predict_proba(examples.features)
        return found

    return read


def _cnn(training: Examples, classes: int, seed: int) -> Reader:
    """AdamW with a one-cycle rate, batches shifted by up to a twelfth; as many steps for any set."""
    network = _network(training.images.shape[-1], classes, seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    generator = np.random.default_rng([seed, *b"cnn"])
    for rows in _batches(len(training), generator):
        images = _shifted(_as_input(training.images[rows]), generator)
        loss = F.cross_entropy(network(images), torch.from_numpy(training.labels[rows]))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    network.eval().requires_grad_(False)

    def read(examples: Examples) -> Probabilities:
        found = np.zeros((len(examples), classes))
        with torch.inference_mode():
            for start in range(0, len(examples), _AT_ONCE):
                batch = slice(start, start + _AT_ONCE)
                found[batch] = network(_as_input(examples.images[batch])).softmax(dim=1).numpy()
        return found

    return read


def _batches(size: int, generator: np.random.Generator) -> list[NDArray[np.int64]]:
    """One pass after another over all rows in random order, until there are enough."""
    wanted = STEPS * BATCH
    order = np.concatenate([generator.permutation(size) for _ in range(-(-wanted // size))])[:wanted]
    return np.split(order, STEPS)


def _shifted(images: Tensor, generator: np.random.Generator) -> Tensor:
    most = images.shape[-1] // 12
    down, right = (int(each) for each in generator.integers(-most, most + 1, 2))
    padded = F.pad(images, (most,) * 4, mode="replicate")
    side = images.shape[-1]
    return padded[..., most + down : most + down + side, most + right : most + right + side]


def _as_input(images: Images) -> Tensor:
    """(n, H, W, C) to (n, C, h, w) in [-1, 1], at most SIDE px."""
    batch = torch.from_numpy(np.array(images, np.float32)).permute(0, 3, 1, 2) / white(images.dtype) * 2 - 1
    if batch.shape[-1] > SIDE:
        batch = F.interpolate(batch, size=(SIDE, SIDE), mode="bilinear", antialias=True)
    return batch.contiguous(memory_format=torch.channels_last)


def _network(channels: int, classes: int, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        last = _WIDTHS[-1]
        layers = halving_layers(channels, _WIDTHS)
        layers += [nn.Conv2d(last, last, 3, padding=1, bias=False), nn.BatchNorm2d(last), nn.ReLU()]
        layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * last, classes)]
        network = nn.Sequential(*layers)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


CLASSIFIERS: dict[str, Callable[[Examples, int, int], Reader]] = {
    "logistic-regression": _logistic_regression,
    "gradient-boosting": _gradient_boosting,
    "cnn": _cnn,
}

"""Three image classifiers of different kinds, with fixed settings.

`logistic-regression` is trained on lite0 features, `gradient-boosting` on their first principal components in
the training set, and `cnn`, a small convolutional network, on pixels. There is neither model selection nor
early stopping, so a classifier depends on its training set alone.
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
from privsyn.features.embed import FeatureRows
from privsyn.features.encoder import halving_layers

LOGISTIC_REGRESSION_C = 0.01  # 1,280 features of a few hundred images need strong regularisation
PCA_COMPONENTS = 32  # input of the boosted trees
CNN_STEPS, CNN_BATCH_SIZE, CNN_LEARNING_RATE = 240, 64, 3e-3
CNN_MAX_SIDE = 64  # px; larger images are scaled down
_CNN_WIDTHS = (16, 32, 64)
_PREDICTION_BATCH_SIZE = 256

Probabilities = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images (n, H, W, C), their lite0 features (n, d) and labels (n,)."""

    images: Images
    features: FeatureRows
    labels: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> LabelledImages:
        return LabelledImages(self.images[rows], self.features[rows], self.labels[rows])

    def concatenate(self, other: LabelledImages) -> LabelledImages:
        return LabelledImages(
            np.concatenate([self.images, other.images]),
            np.concatenate([self.features, other.features]),
            np.concatenate([self.labels, other.labels]),
        )

    def __len__(self) -> int:
        return len(self.labels)


Classifier = Callable[[LabelledImages], Probabilities]


def train_classifier(name: str, training: LabelledImages, classes: int, seed: int) -> Classifier:
    """Train one of `CLASSIFIERS`.

    Returns:
        A function from images to probabilities (n, classes). If the training set has one class alone, that
        class has probability 1.
    """
    present = np.unique(training.labels)
    if len(present) < 2:
        constant = np.zeros(classes)
        constant[present] = 1
        return lambda examples: np.tile(constant, (len(examples), 1))
    return CLASSIFIERS[name](training, classes, seed)


def _logistic_regression(training: LabelledImages, classes: int, _seed: int) -> Classifier:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=LOGISTIC_REGRESSION_C, max_iter=500))
    return _on_features(model.fit(training.features, training.labels), classes)


def _gradient_boosting(training: LabelledImages, classes: int, seed: int) -> Classifier:
    components = min(PCA_COMPONENTS, len(training) - 1, training.features.shape[1])
    trees = HistGradientBoostingClassifier(
        max_iter=60, max_leaf_nodes=15, early_stopping=False, random_state=seed
    )
    reduce = PCA(components, svd_solver="randomized", random_state=seed)
    model = make_pipeline(StandardScaler(), reduce, trees)
    return _on_features(model.fit(training.features, training.labels), classes)


def _on_features(model: Pipeline, classes: int) -> Classifier:
    def predict(examples: LabelledImages) -> Probabilities:
        probabilities = np.zeros((len(examples), classes))
        probabilities[:, model.classes_] = model.predict_proba(examples.features)
        return probabilities

    return predict


def _cnn(training: LabelledImages, classes: int, seed: int) -> Classifier:
    """AdamW with a one-cycle learning rate, `CNN_STEPS` batches, each shifted by up to 1/12 of the side."""
    network = _network(training.images.shape[-1], classes, seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=CNN_LEARNING_RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, CNN_LEARNING_RATE, total_steps=CNN_STEPS)
    generator = np.random.default_rng([seed, *b"cnn"])
    for rows in _batches(len(training), generator):
        images = _shifted(_as_input(training.images[rows]), generator)
        loss = F.cross_entropy(network(images), torch.from_numpy(training.labels[rows]))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    network.eval().requires_grad_(False)

    def predict(examples: LabelledImages) -> Probabilities:
        probabilities = np.zeros((len(examples), classes))
        with torch.inference_mode():
            for start in range(0, len(examples), _PREDICTION_BATCH_SIZE):
                batch = slice(start, start + _PREDICTION_BATCH_SIZE)
                probabilities[batch] = network(_as_input(examples.images[batch])).softmax(dim=1).numpy()
        return probabilities

    return predict


def _batches(size: int, generator: np.random.Generator) -> list[NDArray[np.int64]]:
    """Rows of `CNN_STEPS` batches: as many passes over the set as needed, each in random order."""
    total = CNN_STEPS * CNN_BATCH_SIZE
    order = np.concatenate([generator.permutation(size) for _ in range(-(-total // size))])[:total]
    return np.split(order, CNN_STEPS)


def _shifted(images: Tensor, generator: np.random.Generator) -> Tensor:
    """All images shifted by the same random number of pixels, borders repeated."""
    side = images.shape[-1]
    limit = side // 12
    down, right = (int(each) for each in generator.integers(-limit, limit + 1, 2))
    padded = F.pad(images, (limit,) * 4, mode="replicate")
    return padded[..., limit + down : limit + down + side, limit + right : limit + right + side]


def _as_input(images: Images) -> Tensor:
    """(n, H, W, C) to (n, C, h, w) in [-1, 1], at most `CNN_MAX_SIDE` px."""
    batch = torch.from_numpy(np.array(images, np.float32)).permute(0, 3, 1, 2) / white(images.dtype) * 2 - 1
    if batch.shape[-1] > CNN_MAX_SIDE:
        batch = F.interpolate(batch, size=(CNN_MAX_SIDE, CNN_MAX_SIDE), mode="bilinear", antialias=True)
    return batch.contiguous(memory_format=torch.channels_last)


def _network(channels: int, classes: int, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        last = _CNN_WIDTHS[-1]
        layers = halving_layers(channels, _CNN_WIDTHS)
        layers += [nn.Conv2d(last, last, 3, padding=1, bias=False), nn.BatchNorm2d(last), nn.ReLU()]
        layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * last, classes)]
        network = nn.Sequential(*layers)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


CLASSIFIERS: dict[str, Callable[[LabelledImages, int, int], Classifier]] = {
    "logistic-regression": _logistic_regression,
    "gradient-boosting": _gradient_boosting,
    "cnn": _cnn,
}

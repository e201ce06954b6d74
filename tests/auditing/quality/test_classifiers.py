"""The classifiers of the quality audits: they learn, keep to their classes, and repeat themselves."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from privsyn.auditing.quality.classifiers import CLASSIFIERS, LabelledImages, train_classifier
from privsyn.features.embed import pixels


@pytest.fixture(scope="module")
def digits() -> tuple[LabelledImages, LabelledImages]:
    """Digits 0, 1 and 2, with pixels for features: 200 to learn from and the others."""
    of = load_digits(n_class=3)
    images = np.round(of.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    order = np.random.default_rng(0).permutation(len(images))
    every = LabelledImages(images, pixels(images), of.target.astype(np.int64)).take(order)
    return every.take(np.arange(200)), every.take(np.arange(200, len(every)))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_each_learns_digits_and_repeats_itself(
    name: str, digits: tuple[LabelledImages, LabelledImages]
) -> None:
    """Over 95 % right after 200 images; probabilities sum to 1; one seed, one result."""
    training, test = digits
    found, again = (train_classifier(name, training, 3, seed=1)(test) for _ in range(2))
    assert found.shape == (len(test), 3)
    assert found.sum(axis=1) == pytest.approx(np.ones(len(test)))
    assert (found.argmax(axis=1) == test.labels).mean() > 0.95
    np.testing.assert_array_equal(found, again)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_class_that_was_never_seen_has_no_chance(
    name: str, digits: tuple[LabelledImages, LabelledImages]
) -> None:
    """Of a synthetic set that lacks a class, or has one alone."""
    training, test = digits
    two = train_classifier(name, training.take(np.flatnonzero(training.labels != 1)), 3, seed=0)(test)
    assert two[:, 1].max() < (0.5 if name == "cnn" else 1e-9)  # the network knows how many classes there are
    one = train_classifier(name, training.take(np.flatnonzero(training.labels == 2)), 3, seed=0)(test)
    np.testing.assert_array_equal(one, np.tile([0, 0, 1], (len(test), 1)))


def test_images_of_any_size_depth_and_colour_are_read() -> None:
    """From 8 px to more than the network sees, grey and RGB, 8 and 16 bits."""
    generator = np.random.default_rng(2)
    labels = np.arange(40) % 2
    for shape, dtype in (((8, 8, 1), np.uint8), ((28, 28, 3), np.uint8), ((100, 100, 1), np.uint16)):
        top = np.iinfo(dtype).max
        images = (
            generator.random((40, *shape)) * top * 0.3 + labels[:, None, None, None] * top * 0.6
        ).astype(dtype)
        examples = LabelledImages(images, pixels(images), labels)
        assert (train_classifier("cnn", examples, 2, seed=0)(examples).argmax(axis=1) == labels).all()

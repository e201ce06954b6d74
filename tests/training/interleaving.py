"""Two commands in one process that take turns at random, and what must hold after them."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from digits_study import Killed

from privsyn.auditing.run import audit
from privsyn.cohort.cohort import load_cohort
from privsyn.cohort.prepare import prepare
from privsyn.errors import PrivsynError, StudyError
from privsyn.ledger.events import TrainingReserved, TrainingSettled
from privsyn.ledger.hash_chain import read
from privsyn.ledger.population import check
from privsyn.progress import Advance, Progress
from privsyn.report.documents import load_claim
from privsyn.study import Study
from privsyn.synthetic.dataset import read_provenance
from privsyn.synthetic.sampling import sample
from privsyn.training.checkpoint import load_state, newest
from privsyn.training.finished import load_finished
from privsyn.training.loop import train

Command = Callable[[Study, Progress], object]
COMMANDS: dict[str, Command] = {
    "train": lambda study, progress: train(study, dp=False, force=True, progress=progress),
    "train --dp": lambda study, progress: train(study, dp=True, force=True, progress=progress),
    "train --resume": lambda study, progress: train(study, resume=True, progress=progress),
    "sample": lambda study, progress: sample(study, count=4, force=True, progress=progress),
    "audit": lambda study, progress: audit(study, only=["exact-copies"], force=True, progress=progress),
    "prepare --force": lambda study, progress: prepare(study, "digits", force=True, progress=progress),
}


class Turns:
    """The baton: only whoever has the turn works, and after each event chance says who is next."""

    def __init__(self, coins: random.Random, players: int) -> None:
        self.coins, self.alive, self.changed = coins, list(range(players)), threading.Condition()
        self.turn = coins.choice(self.alive)

    def wait(self, player: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.turn == player, timeout=60), "nobody hands over"

    def hand_over(self, player: int) -> None:
        with self.changed:
            self.turn = self.coins.choice(self.alive)
            self.changed.notify_all()
        self.wait(player)

    def leave(self, player: int) -> None:
        with self.changed:
            self.alive.remove(player)
            self.turn = self.coins.choice(self.alive) if self.alive else -1
            self.changed.notify_all()


class Player:
    """One command's listener: hands the turn over at each event, and ends the command at one of them."""

    def __init__(self, turns: Turns, number: int, kill_at: int | None) -> None:
        self.turns, self.number, self.kill_at, self.events = turns, number, kill_at, 0

    def event(self) -> None:
        self.events += 1
        if self.events == self.kill_at:
            raise Killed
        self.turns.hand_over(self.number)

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[Advance]:  # noqa: ARG002 - all are alike
        self.event()

        def advance(amount: int = 1, **facts: str) -> None:  # noqa: ARG001
            self.event()

        yield advance

    def play(self, command: Command, study: Study, faults: list[BaseException]) -> None:
        self.turns.wait(self.number)
        try:
            with suppress(PrivsynError, Killed):  # refused, or killed
                command(study, self)
        except BaseException as fault:
            faults.append(fault)
        finally:
            self.turns.leave(self.number)


def interleave(study: Study, coins: random.Random, *, locked: bool) -> str:
    """Run two commands at once, each killed in a third of the cases; returns which, for the failure's text.

    Raises:
        BaseException: a command ended in anything but a refusal or its own kill.
    """
    names = [coins.choice(list(COMMANDS)) for _ in range(2)]
    if not locked and names == ["prepare --force"] * 2:
        names[1] = "train"  # `prepare` waits for its folder's own lock, and would wait for ever for a turn
    kills = [coins.randrange(1, 14) if coins.random() < 1 / 3 else None for _ in names]
    turns, faults = Turns(coins, len(names)), list[BaseException]()
    threads = [
        threading.Thread(target=Player(turns, number, kill).play, args=(COMMANDS[name], study, faults))
        for number, (name, kill) in enumerate(zip(names, kills, strict=True))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    return f"{names}, killed at {kills}"


def outcomes() -> dict[str, set[str]]:
    """Weights that each charge of the ledger was settled for, by the reference of the training."""
    found: dict[str, set[str]] = {}
    for entry in read().entries:
        if isinstance(entry.event, TrainingSettled):
            found.setdefault(entry.event.reference, set()).add(entry.event.outcome)
    return found


def _charged_with_noise() -> list[str]:
    reserved = [each.event for each in read().entries if isinstance(each.event, TrainingReserved)]
    return [event.reference for event in reserved if event.mechanisms]


def check_honest(study: Study, *, locked: bool) -> None:
    """No claim names weights of another run, each charge pays for one model, and what is there is whole.

    Args:
        locked: without the lock a claim and weights may be of two runs, if every reader refuses them.
    """
    found = check()
    assert not (found and found.faults)
    settled = outcomes()
    assert all(len(models) == 1 for models in settled.values())
    models = {model for each in settled.values() for model in each}
    private = [model for name in _charged_with_noise() for model in settled.get(name, ())]
    assert len(private) == len(set(private)), "two charges for one model: noise was drawn twice alike"
    if study.cohort.exists():
        load_cohort(study.cohort)
    if study.privacy_file.exists():
        _check_claim(study, settled, locked=locked)
    provenance = read_provenance(study.synthetic) if study.synthetic.exists() else None
    if provenance:
        assert provenance.model_sha256 in models


def _check_claim(study: Study, settled: dict[str, set[str]], *, locked: bool) -> None:
    try:
        finished = load_finished(study.model)
    except StudyError:
        assert not locked, "the claim is of other weights"
        return
    state = load_state(newest(study.checkpoints))
    assert settled[state.reference] == {finished.weights_sha256}
    assert (finished.claim.kind == "dp") is state.recipe.privacy.dp
    assert (state.reference in _charged_with_noise()) is state.recipe.privacy.dp
    assert load_claim(study.privacy_file).provenance.weights_sha256 == finished.weights_sha256

"""Thousands of seeded steps of deposits, requests, refunds, faults and crashes: no msat is lost, made, or in two places.

A failure says its seed, and `pytest tests/simulation --seed SEED` plays it again, step by step the same. `--long` plays a
million steps.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from tests.simulation.simulation import simulate

STEPS, LONG_STEPS = 10_000, 1_000_000
STEPS_PER_RUN = 250
REPEATED_STEPS = 120


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per run, each with a seed of its own, derived from the first."""
    if "run_seed" in metafunc.fixturenames:
        given = metafunc.config.getoption("--seed")
        steps = LONG_STEPS if metafunc.config.getoption("--long") else STEPS
        # Of processes that share a run (pytest-xdist) each must collect the same tests.
        first = given or os.environ.get("PYTEST_XDIST_TESTRUNUID", secrets.token_hex(4))[:8]
        seeds = [first] if given else [f"{first}-{number}" for number in range(steps // STEPS_PER_RUN)]
        metafunc.parametrize("run_seed", seeds)


def test_every_msat_is_somewhere_after_every_step(run_seed: str, folder: Path) -> None:
    print(f"seed {run_seed}: pytest tests/simulation --seed {run_seed}")
    assert simulate(folder, run_seed, STEPS_PER_RUN).steps


def test_a_seed_is_one_run(folder: Path) -> None:
    """Same seed, same steps, outcomes, faults and times; another seed is another run."""
    one, again = (simulate(folder / name, "same", REPEATED_STEPS) for name in ("one", "again"))
    assert one.steps == again.steps
    assert (one.digest, one.crashes, one.faults) == (again.digest, again.crashes, again.faults)
    assert simulate(folder / "other", "other", 10).digest != one.digest


def test_runs_crash_and_fail_often_enough_to_mean_something(folder: Path) -> None:
    told = simulate(folder, "faults", 2 * REPEATED_STEPS)
    assert told.crashes >= 2
    assert told.faults >= 10
    words = " ".join(told.steps)
    for deed in ("topup", "refund", "open", "chat", "lost", "stream begun"):
        assert deed in words

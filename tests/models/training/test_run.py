"""A run stops, goes on to the same curve, and leaves what it says."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from radloom.errors import ConfigError, MissingWeights
from radloom.models.training.evaluation import evaluate
from radloom.models.training.handlers import TrainingDiverged
from radloom.models.training.parts import latest_parts, read_parts


def losses(out: str) -> list[tuple[str, ...]]:
    """Step, rate and loss with its parts of every row; not the seconds."""
    rows = [line.split("\t") for line in (Path(out) / "curve.tsv").read_text().splitlines()]
    return [(row[0], *row[2:]) for row in rows]


def test_a_resumed_run_has_the_curve_of_a_run_in_one_piece(training) -> None:
    whole = training("whole", max_steps=6, checkpoint_every=2)
    assert whole.run() == 6
    parts = training("parts", max_steps=6, checkpoint_every=100)
    parts.settings = type(parts.settings)(**{**vars(parts.settings), "max_minutes": 0.0})
    assert parts.run() == 1
    again = training("parts", max_steps=6, checkpoint_every=2, prefetch=2)
    assert again.run() == 6
    assert losses(again.output_dir) == losses(whole.output_dir)
    weights = [
        torch.load(Path(t.output_dir) / "model.pt", weights_only=True) for t in (whole, again)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_killed_run_forgets_what_came_after_its_checkpoint(training) -> None:
    whole = training("whole", max_steps=5)
    whole.run()
    killed = training("killed", max_steps=5, checkpoint_every=2, log_every=1)
    task = killed.task

    class Killed(Exception):
        pass

    class Kills(type(task)):
        calls = 0

        def loss(self, pred, batch):
            Kills.calls += 1
            if Kills.calls == 4:
                raise Killed
            return super().loss(pred, batch)

    killed.task = Kills()
    with pytest.raises(Killed):
        killed.run()
    assert len(losses(killed.output_dir)) == 4
    training("killed", max_steps=5).run()
    assert losses(killed.output_dir) == losses(whole.output_dir)


def test_a_run_leaves_what_it_says(training) -> None:
    given = training(max_steps=3, validate_every=2, checkpoint_every=1, keep_checkpoints=2)
    given.run()
    out = Path(given.output_dir)
    steps = [
        json.loads(line)["step"] for line in (out / "validation.jsonl").read_text().splitlines()
    ]
    assert steps == [2, 3]
    assert sorted(p.name for p in (out / "sheets").iterdir()) == [
        "step-00000002.png",
        "step-00000003.png",
    ]
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == [
        "step-00000002",
        "step-00000003",
    ]
    assert list((out / "tensorboard").iterdir())
    exported = torch.load(out / "model.pt", weights_only=True)
    assert {w.dtype for w in exported.values()} == {torch.float16}
    given.network.load_state_dict(exported)
    assert given.run() == 3


def test_the_average_follows_the_weights(training) -> None:
    given = training(max_steps=3, ema_decay=0.0)
    given.run()
    _, state = read_parts(latest_parts(Path(given.output_dir) / "checkpoints"))
    for name, weight in state["network"].items():
        torch.testing.assert_close(state["ema"][name], weight)


def test_accumulated_passes_are_one_larger_batch(training) -> None:
    one = training("one", max_steps=2, batch_size=2)
    two = training("two", max_steps=2, accumulate=2)

    class Mean(type(one.task)):
        def loss(self, pred, batch):
            return {"mean": (pred[:, 1] - batch["image"][:, 0]).square().mean()}

    for given in (one, two):
        given.task = Mean()
        given.run()
    for a, b in zip(losses(one.output_dir)[1:], losses(two.output_dir)[1:], strict=True):
        assert list(map(float, a)) == pytest.approx(list(map(float, b)), rel=1e-4)


@pytest.mark.parametrize("change", [{"precision": "bfloat16"}, {"compact_checkpoints": True}])
def test_less_precise_runs_go_on_nearly_as_before(training, change) -> None:
    training("whole", max_steps=6).run()
    given = training("given", max_steps=6, max_minutes=0.0, **change)
    given.run()
    training("given", max_steps=6, **change).run()
    whole, found = (losses(str(Path(given.output_dir).parent / n)) for n in ("whole", "given"))
    assert [row[0] for row in whole] == [row[0] for row in found]
    for a, b in zip(whole[1:], found[1:], strict=True):
        assert float(b[2]) == pytest.approx(float(a[2]), rel=0.05)


def test_a_diverged_run_says_so_and_keeps_its_last_checkpoint(training) -> None:
    training(max_steps=9, max_minutes=0.0).run()
    given = training(max_steps=9, log_every=1)

    class Bad(type(given.task)):
        def loss(self, pred, batch):
            return {"bad": pred.sum() * float("nan")}

    given.task = Bad()
    with pytest.raises(TrainingDiverged, match="step 2: expected a finite loss, got nan"):
        given.run()
    assert latest_parts(Path(given.output_dir) / "checkpoints").name == "step-00000001"


def test_a_gpu_that_is_not_there_is_said(training, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    given = training()
    given.device = "cuda"
    with pytest.raises(ConfigError, match="expected a GPU for device 'cuda', got none"):
        given.run()


def test_a_run_may_start_from_weights_that_are_there(training) -> None:
    first = training("first", max_steps=2)
    first.run()
    weights = Path(first.output_dir) / "model.pt"
    second = training("second", max_steps=1)
    second.initial_weights = str(weights)
    second.optimizer.param_groups[0]["lr"] = 0.0
    second.run()
    given = torch.load(weights, weights_only=True)
    found = torch.load(Path(second.output_dir) / "model.pt", weights_only=True)
    assert all(torch.equal(given[name], found[name]) for name in given)


def test_time_counts_from_the_start_that_is_given(training) -> None:
    given = training(max_steps=9, max_minutes=5.0)
    given.started = time.monotonic() - 300
    assert given.run() == 1


def test_weights_are_evaluated_alone(training, tmp_path) -> None:
    given = training(max_steps=2, validation_cases=2)
    given.run()
    out = tmp_path / "evaluation"
    arguments = (str(Path(given.output_dir) / "model.pt"), str(out), given.settings, "cpu")
    found = evaluate(given.network, given.task, given.source, *arguments)
    last = json.loads((Path(given.output_dir) / "validation.jsonl").read_text().splitlines()[-1])
    assert found["dice_head"] == pytest.approx(last["dice_head"], abs=0.02)
    assert json.loads((out / "metrics.json").read_text()) == found
    with pytest.raises(MissingWeights, match=r"<none.pt>, which are absent"):
        evaluate(given.network, given.task, given.source, "none.pt", *arguments[1:])

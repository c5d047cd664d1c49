from __future__ import annotations

import csv
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import incept
import numpy as np
import pytest
from conftest import REPOSITORY, SMALL, command, stripes


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[incept.Training, Path]:
    images, labels = stripes()
    output = tmp_path_factory.mktemp("trained") / "last.safetensors"
    run = incept.train(
        images, labels, classes=["horizontal", "vertical"], epochs=4, lr=0.02, output=output, **SMALL
    )
    return run, output


def test_arrays_are_learned(trained: tuple[incept.Training, Path]) -> None:
    run, output = trained
    assert [epoch["epoch"] for epoch in run.history] == [1, 2, 3, 4]
    assert run.history[-1]["train_loss"] < run.history[0]["train_loss"]
    heads = {"train_loss_main", "train_loss_aux1", "train_loss_aux2", "val_loss_aux1", "val_accuracy_aux2"}
    assert heads <= set(run.history[0])
    assert run.stopped == "done"
    assert run.folder is None
    assert run.best_epoch is not None
    assert run.best_accuracy == max(epoch["val_accuracy"] for epoch in run.history)
    assert run.classifier.classes == ["horizontal", "vertical"]
    # The latest checkpoint is that of the last epoch, the classifier that of the best one.
    assert incept.Classifier.load(output, device="cpu").metadata["progress"]["epoch"] == 4
    assert run.classifier.metadata["progress"]["epoch"] == run.best_epoch


def test_training_is_deterministic(trained: tuple[incept.Training, Path]) -> None:
    run, _ = trained
    images, labels = stripes()
    names = [["horizontal", "vertical"][label] for label in labels]
    # Names in place of numbers, a list in place of an array, another number of threads.
    again = incept.train(list(images), names, epochs=4, lr=0.02, threads=1, **SMALL)
    losses = [[epoch["train_loss"] for epoch in each.history] for each in (run, again)]
    assert losses[0] == losses[1]
    probe = images[:8, :, :, None]
    np.testing.assert_array_equal(run.classifier.probabilities(probe), again.classifier.probabilities(probe))


def test_folder_is_trained_as_by_the_command(folder: Path, tmp_path: Path) -> None:
    run = incept.train(folder, epochs=2, seed=3, name="mine", runs_dir=tmp_path / "python", **SMALL)
    assert run.folder is not None
    flags = ["--width", "0.125", "--image-size", "32", "--batch-size", "16", "--device", "cpu"]
    where = ["--runs-dir", str(tmp_path / "command"), "--name", "mine", "--view", "plain"]
    ran = command("train", folder, *flags, "--epochs", "2", "--seed", "3", *where)
    assert ran.returncode == 0, ran.stderr
    (theirs,) = (tmp_path / "command").iterdir()
    of_command, of_python = ((each / "metrics.csv").read_text() for each in (theirs, run.folder))
    rows = [list(csv.DictReader(text.splitlines())) for text in (of_command, of_python)]
    timing = {"images_per_s", "seconds"}
    kept = [[{k: v for k, v in row.items() if k not in timing} for row in each] for each in rows]
    assert kept[0] == kept[1]
    for row, epoch in zip(rows[1], run.history, strict=True):
        assert set(row) == set(epoch)
        assert all(float(row[key]) == epoch[key] for key in ("lr", "train_loss", "val_accuracy_aux1"))
    # The command reads it as one of its own.
    assert command("runs", "--runs-dir", tmp_path / "python").returncode == 0
    best = incept.Classifier.load(run.folder, device="cpu")
    images, _ = stripes(8)
    np.testing.assert_array_equal(
        best.probabilities(images[..., None]), run.classifier.probabilities(images[..., None])
    )


def test_runs_are_resumed_bit_for_bit(trained: tuple[incept.Training, Path], tmp_path: Path) -> None:
    run, _ = trained
    images, labels = stripes()
    output = tmp_path / "half.safetensors"
    data: dict[str, Any] = {"data": images, "labels": labels, "classes": ["horizontal", "vertical"]}

    def stop_after_two(epoch: dict[str, Any]) -> bool:
        return epoch["epoch"] < 2

    half = incept.train(**data, epochs=4, lr=0.02, output=output, callback=stop_after_two, **SMALL)
    assert (half.stopped, len(half.history)) == ("interrupted", 2)
    rest = incept.train(**data, resume=output, device="cpu", progress=False)
    losses = [epoch["train_loss"] for epoch in half.history + rest.history]
    assert losses == [epoch["train_loss"] for epoch in run.history]
    with pytest.raises(incept.ConfigError, match="lr is fixed"):
        incept.train(**data, resume=output, lr=0.1, device="cpu", progress=False)


def test_exceptions_of_callbacks_are_raised_after_saving(tmp_path: Path) -> None:
    images, labels = stripes()
    for keyword in ("callback", "step_callback"):
        output = tmp_path / f"{keyword}.safetensors"
        calls = []

        def fail(metrics: dict[str, Any], calls: list[Any] = calls) -> None:
            calls.append(metrics)
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            incept.train(images, labels, epochs=3, output=output, **{keyword: fail}, **SMALL)
        assert len(calls) == 1
        progress = incept.Classifier.load(output, device="cpu").metadata["progress"]
        assert (progress["epoch"], progress["step"]) == (
            (1, 5) if keyword == "callback" else (0, progress["step"])
        )
        assert progress["step"] < 15


def test_steps_are_reported() -> None:
    images, labels = stripes()
    steps: list[dict[str, Any]] = []
    threads: set[int] = set()

    def step(metrics: dict[str, Any]) -> None:
        steps.append(metrics)
        threads.add(threading.get_ident())

    run = incept.train(images, labels, epochs=2, no_validation=True, step_callback=step, **SMALL)
    assert [each["step"] for each in steps] == list(range(12))
    assert threads == {threading.get_ident()}
    assert {"loss", "loss_main", "loss_aux1", "accuracy_main", "lr"} <= set(steps[0])
    assert run.best_epoch is None
    assert "val_accuracy" not in run.history[0]


def test_validation_images_of_their_own() -> None:
    images, labels = stripes(48)
    validation = stripes(10)
    run = incept.train(images, labels, validation=validation, epochs=1, **SMALL)
    correct = 10 * run.history[0]["val_accuracy"]
    assert correct == pytest.approx(round(correct))


def test_weights_are_a_start(trained: tuple[incept.Training, Path], tmp_path: Path) -> None:
    run, _ = trained
    file = tmp_path / "start.safetensors"
    run.save(file)
    images, labels = stripes(32)
    tuned = incept.train(
        images, labels, classes=["horizontal", "vertical"], weights=file, freeze_until="heads", epochs=1,
        batch_size=16, device="cpu", progress=False,
    )  # fmt: skip
    assert tuned.classifier.image_size == 32
    assert tuned.history[0]["train_loss_main"] < 0.7


def test_the_gil_is_released() -> None:
    images, labels = stripes()
    count, done = 0, threading.Event()

    def tick() -> None:
        nonlocal count
        while not done.wait(0.005):
            count += 1

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.monotonic()
    try:
        incept.train(images, labels, epochs=2, **SMALL)
    finally:
        done.set()
        thread.join()
    # A thread that could not run would have counted almost nothing.
    assert count > 20 * (time.monotonic() - start)


INTERRUPTED = """
import sys
sys.path.insert(0, {tests!r})
from conftest import SMALL, stripes
import incept

def step(metrics):
    print("step", metrics["step"], flush=True)

try:
    incept.train(*stripes(), epochs=10_000, output={output!r}, step_callback=step, **SMALL)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_ctrl_c_saves_and_raises(tmp_path: Path) -> None:
    output = tmp_path / "last.safetensors"
    code = INTERRUPTED.format(tests=str(REPOSITORY / "python/tests"), output=str(output))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("step 7"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    assert rest.splitlines()[-1] == "interrupted"
    assert process.returncode == 0
    assert incept.Classifier.load(output, device="cpu").metadata["progress"]["step"] >= 7


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"lr": -1}, incept.ConfigError, "lr must be a number, at least 0"),
        ({"epochs": 0}, incept.ConfigError, "epochs must be an integer"),
        ({"epochs": 1.5}, incept.ConfigError, "epochs: invalid type"),
        ({"seed": -1}, incept.ConfigError, "seed: invalid value"),
        ({"image_size": 16}, incept.ConfigError, "image_size must be from 32"),
        ({"label_smoothing": 2}, incept.ConfigError, "label_smoothing must be in"),
        ({"lr": float("nan")}, incept.ConfigError, "lr must be a finite number"),
        ({"optimizer": "adam"}, incept.ConfigError, "optimizer: unknown variant `adam`"),
        ({"recipe": "best"}, incept.ConfigError, "no recipe `best`: use paper"),
        ({"schedule": "zigzag"}, incept.ConfigError, "schedule"),
        ({"patience": 2, "no_validation": True}, incept.ConfigError, "patience needs validation"),
        ({"weights": "absent.safetensors"}, FileNotFoundError, "absent"),
        ({"lr": object()}, TypeError, "lr has the type object"),
        ({"labels": None}, incept.ConfigError, "need labels"),
        ({"labels": [0, 1]}, incept.DataError, "96 images and 2 labels"),
        ({"labels": [-1] * 96}, incept.DataError, "label -1 is out of range"),
        ({"labels": [0.5] * 96}, TypeError, "float64"),
        ({"classes": ["one"]}, incept.DataError, "label 1 is out of range"),
        ({"data": None}, incept.ConfigError, "no data set"),
        ({"data": "absent", "labels": None}, incept.InceptError, "absent"),
        ({"data": np.zeros((4, 3, 8, 8), np.uint8)}, incept.DataError, "channels"),
        ({"threads": 0}, incept.ConfigError, "between 1 and"),
        ({"device": "no such adapter"}, incept.DeviceError, "no such adapter"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], error: type[Exception], text: str) -> None:
    images, labels = stripes()
    given = {"data": images, "labels": labels, **SMALL, **options}
    if given["data"] is None:
        del given["labels"]
    with pytest.raises(error) as raised:
        incept.train(**given)
    assert text in str(raised.value)
    assert "--" not in str(raised.value)


def test_diverged_training_is_an_exception() -> None:
    images, labels = stripes()
    with pytest.raises(incept.DivergedError, match="lr"):
        incept.train(images, labels, epochs=20, lr=1e30, **SMALL)


def test_progress_is_shown_and_notes_are_logged(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    images, labels = stripes(32)
    with caplog.at_level(logging.INFO, logger="incept"):
        incept.train(images, labels, epochs=1, **{**SMALL, "progress": True})
    shown = capfd.readouterr()
    assert "epoch 1/1" in shown.err or "32/32" in shown.err or "image" in shown.err
    assert not shown.out
    assert any("device:" in record.message for record in caplog.records)
    incept.train(images, labels, epochs=1, **SMALL)
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "")

"""bench/gpu.py with tiny networks on the CPU, as a process, and how it plans, watches and gives up."""

import importlib.util
import json
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import pytest

from bench import gpu, gpu_rows

SCRIPT = Path(gpu.__file__)
MODELS = ("spleeter-2stems", "wave-unet-m4")
CASES = ("highest", "default", "bfloat16")
HAS_TORCH = importlib.util.find_spec("torch") is not None


def run_script(output, *arguments):
    """Returns what a run printed, and its report."""
    command = [sys.executable, SCRIPT, "--tiny", "--output", output, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(output.read_text())


def expected_rows():
    """Yields task, model, framework, case and batch of every row, in order of importance."""
    for case in CASES:
        yield "peak", None, "jax", case, 1
    yield from (("operations", model, "jax", case, 1) for model, case in product(MODELS, ("forward", "step")))
    yield from (("parity", model, "jax", case, 1) for model, case in product(MODELS, CASES))
    yield from (("forward", model, "jax", case, batch) for model, batch, case in product(MODELS, (1, 8), CASES))
    for case in CASES:
        yield "peak", None, "torch", case, 1
    yield from (("forward", model, "torch", case, batch) for model, batch, case in product(MODELS, (1, 8), CASES))
    for framework, model, case in product(("jax", "torch"), MODELS, ("default", "bfloat16")):
        yield "step", model, framework, case, 8
    yield from (("separate", model, "command", case, 1) for model, case in product(MODELS, ("cold", "warm")))


def test_every_row_is_measured_and_the_frameworks_agree(tmp_path):
    """JAX and PyTorch compute the same networks from the same weights and inputs."""
    printed, report = run_script(tmp_path / "gpu.json", "--minutes", 5, "--models", *MODELS)
    assert report["complete"] and not list(tmp_path.glob("*.tmp"))
    rows = {(row["task"], row["model"], row["framework"], row["case"], row["batch"]): row for row in report["rows"]}
    assert [key for key in rows if HAS_TORCH or key[2] != "torch"] == [
        key for key in expected_rows() if HAS_TORCH or key[2] != "torch"
    ]
    assert len(rows) == len(report["rows"])
    for row in report["rows"]:
        if row["framework"] == "torch" and not HAS_TORCH:
            assert (row["status"], row["reason"]) == ("skipped", "the package 'torch' is not installed here")
            continue
        assert row["status"] == "measured", row
        if row["task"] in ("peak", "forward", "step", "separate"):
            assert 0 < row.get("minimum_seconds", 0) <= row["median_seconds"] or row["task"] == "separate"
        if row["task"] in ("forward", "step"):
            assert row["chunks_per_second"] == pytest.approx(row["batch"] / row["median_seconds"])
            assert 0 < row["share_of_peak"] and 0 < row["times_real_time"] and 0 < row["first_call_seconds"]
            # PyTorch does not tell what a CPU holds.
            assert row["memory_bytes"] is None if row["framework"] == "torch" else row["memory_bytes"] > 0
        if row["task"] == "separate":
            assert row["device"]["platform"] == "cpu" and row["median_seconds"] > 0 < row["times_real_time"]
        if row["task"] == "parity":
            # The same device twice; three digits are what bfloat16 has.
            assert 0 <= row["difference"] <= (3e-2 if row["case"] == "bfloat16" else 0)
        # The end of what is printed has a line of every row.
        assert printed.count(f"\n{gpu.describe(row)}\n") >= 2
    for model in MODELS:
        forward, step = (rows["operations", model, "jax", kind, 1]["flops_per_chunk"] for kind in ("forward", "step"))
        # Gradients by inputs and by weights are as many operations as the network; the rest counts in tiny ones.
        assert 2.5 * forward < step < 8 * forward
        if HAS_TORCH:
            for case, batch in product(CASES, (1, 8)):
                ours, theirs = (rows["forward", model, name, case, batch]["value"] for name in ("jax", "torch"))
                assert ours == pytest.approx(theirs, rel=1e-2 if case == "bfloat16" else 1e-5)
            for case in ("default", "bfloat16"):
                ours, theirs = (rows["step", model, name, case, 8]["value"] for name in ("jax", "torch"))
                # Dropout draws differently.
                assert ours == pytest.approx(theirs, rel=2e-2 if model == "spleeter-2stems" else 1e-3)


def test_it_ends_by_itself_and_leaves_the_first_rows(tmp_path):
    started = time.monotonic()
    _, report = run_script(tmp_path / "gpu.json", "--minutes", 0.08, "--models", "spleeter-2stems")
    # Five seconds, and what it takes to start and to end processes.
    assert time.monotonic() - started < 10
    assert report["complete"]
    statuses = [row["status"] for row in report["rows"]]
    assert statuses[0] == "measured" and statuses[-1] == "skipped"
    assert {row["task"] for row in report["rows"]} == {"peak", "operations", "parity", "forward", "step", "separate"}
    assert all(row["reason"] for row in report["rows"] if row["status"] == "skipped")


def test_a_process_that_dies_takes_one_task_with_it(tmp_path, monkeypatch):
    """The tasks behind it get another process, and what it measured before stays."""
    rows = tmp_path / "rows.py"
    rows.write_text(
        "import json, sys\n"
        "tasks = json.loads(sys.argv[1])['tasks']\n"
        "for number, task in enumerate(tasks):\n"
        "    print(json.dumps({'begin': number}), flush=True)\n"
        "    if task['model'] == 'wave-unet-m4':\n"
        "        sys.exit('illegal address')\n"
        "    row = {**{key: task[key] for key in ('task', 'model', 'framework')}, 'case': 'cold', 'batch': 1}\n"
        "    print(json.dumps({**row, 'status': 'out of memory', 'reason': 'as told'}), flush=True)\n"
    )
    monkeypatch.setattr(gpu, "_ROWS", rows)
    tasks = [task for task in gpu.plan(gpu.MODELS, tiny=True) if task["task"] == "separate"]
    report = gpu.Report(tmp_path / "gpu.json", {})
    gpu.run(tasks, report, end=time.time() + 60, tiny=True)
    assert [(row["model"], row["status"], row["reason"]) for row in report.rows] == [
        ("spleeter-2stems", "out of memory", "as told"),
        ("wave-unet-m4", "failed", "the process ended with 1: illegal address"),
        ("wave-unet-torch", "out of memory", "as told"),
        ("htdemucs", "out of memory", "as told"),
    ]


def test_a_process_that_hangs_is_ended(tmp_path, monkeypatch):
    rows = tmp_path / "rows.py"
    rows.write_text("import time\nprint('{\"begin\": 0}', flush=True)\ntime.sleep(600)\n")
    monkeypatch.setattr(gpu, "_ROWS", rows)
    monkeypatch.setattr(gpu, "_GRACE_SECONDS", 0.5)
    (task,) = [task for task in gpu.plan(gpu.MODELS[:1], tiny=True) if task["task"] == "separate"]
    report = gpu.Report(tmp_path / "gpu.json", {})
    gpu.run([{**task, "share": 0.0}], report, end=time.time() + 60, tiny=True)
    assert [(row["status"], row["reason"]) for row in report.rows] == [("failed", "no row for 1.5 times its time")]


def test_shares_leave_every_task_its_time():
    """Where each takes all that it may, nothing is left and none got nothing."""
    left, taken = 480.0, []
    for task in gpu.plan(gpu.MODELS, tiny=False):
        taken.append(left * task["share"])
        left -= taken[-1]
    assert left == pytest.approx(0, abs=1e-9) and min(taken) > 1


def test_batches_grow_until_memory_ends_in_each_case():
    """An error other than memory ends a case as well."""
    clock = gpu_rows.Clock({"share": 1.0, "needs_seconds": 0.0}, time.time() + 60)

    class OutOfMemoryError(RuntimeError):
        """As PyTorch calls its own."""

    def measure(batch, case):
        if (batch, case) == (4, "highest"):
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.\nmore")
        if (batch, case) == (16, "default"):
            raise OutOfMemoryError("CUDA out of memory.")
        if (batch, case) == (4, "bfloat16"):
            raise ValueError("no such kernel")
        return {"median_seconds": 1.0}

    rows = list(gpu_rows.grow([1, 4, 16, 64], CASES, clock, measure))
    assert [(row["batch"], row["case"], row["status"]) for row in rows] == [
        (1, "highest", "measured"),
        (1, "default", "measured"),
        (1, "bfloat16", "measured"),
        (4, "highest", "out of memory"),
        (4, "default", "measured"),
        (4, "bfloat16", "failed"),
        (16, "default", "out of memory"),
    ]
    assert rows[3]["reason"] == "RuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes."
    assert rows[5]["reason"] == "ValueError: no such kernel"


def test_no_row_is_begun_that_does_not_fit_into_the_time():
    clock = gpu_rows.Clock({"share": 1.0, "needs_seconds": 5.0}, time.time() + 2)
    (row,) = gpu_rows.grow([1], CASES, clock, lambda batch, case: {})
    assert (row["status"], row["reason"]) == ("skipped", "2 s are left, and it needs some 5 s")


def test_a_small_share_of_the_time_is_enough_for_the_first_row():
    clock = gpu_rows.Clock({"share": 0.001, "needs_seconds": 1.0}, time.time() + 60)
    time.sleep(0.1)
    rows = list(gpu_rows.grow([1, 2], CASES[:1], clock, lambda batch, case: time.sleep(1.0) or {}))
    assert [row["status"] for row in rows] == ["measured", "skipped"]

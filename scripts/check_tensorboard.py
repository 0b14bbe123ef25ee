#!/usr/bin/env python3
"""Reads the TensorBoard events of a run back with the tensorboard package and compares every point with the run's JSON lines.

    cargo build --release
    python3 -m venv VENV && VENV/bin/pip install tensorboard
    VENV/bin/python scripts/check_tensorboard.py                   # trains runs/smoke.toml, kills and resumes it, compares
    VENV/bin/python scripts/check_tensorboard.py output/my-run     # compares a run of yours

Exits with 1 when a curve lacks a point, has one too many, or another value than f32 rounding explains.
"""
import argparse, json, os, pathlib, shutil, subprocess, sys, tempfile

from tensorboard.backend.event_processing import event_accumulator

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
F32 = 2.0**-23


def resumed_run(diffmas, parent):
    """A run of four updates whose checkpoints after the first were lost, resumed: updates 2 to 4 are logged by both sessions."""
    run = pathlib.Path(parent) / "run"
    command = [diffmas, "train", "--config", "runs/smoke.toml", "--output", run, "--max-steps", "4"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    for step in (2, 3, 4):
        shutil.rmtree(run / "checkpoints" / f"step-{step}")
    subprocess.run([diffmas, "train", "--resume", "--output", run], cwd=ROOT, check=True, capture_output=True)
    assert len(list(run.glob("events.out.tfevents.*"))) == 2, "each session writes a file of its own"
    return run


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def expected(run):
    """Every curve as [(step, value)], from metrics.jsonl and eval_metrics.jsonl."""
    curves = {}
    for m in read_lines(run / "metrics.jsonl"):
        keys = ("loss", "learning_rate", "grad_norm", "clip_factor", "tokens_per_second", "trajectory_loss", "distillation_loss", "competence",
                "dropped_senders", "dropped_positions")
        values = {f"train/{key}": m.get(key) for key in keys}
        values |= {f"trace_grad_norm/{role}": norm for role, norm in m["trace_grad_norm"].items()}
        for tag, value in values.items():
            if value is not None:
                curves.setdefault(tag, []).append((m["step"], value))
    for m in read_lines(run / "eval_metrics.jsonl"):
        if m["eval_loss"] is not None:
            curves.setdefault("eval/loss", []).append((m["step"], m["eval_loss"]))
        if m.get("eval_accuracy") is not None:
            curves.setdefault("eval/accuracy", []).append((m["step"], m["eval_accuracy"]))
    return curves


def check(run):
    events = event_accumulator.EventAccumulator(str(run), size_guidance={event_accumulator.SCALARS: 0})
    events.Reload()
    got = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    want = expected(run)
    if not want or got.keys() != want.keys():
        return [f"{run}: the curves are {sorted(got)}, but the JSON lines have {sorted(want)}"]
    wrong = []
    for tag, points in sorted(want.items()):
        steps = [step for step, _ in got[tag]]
        if steps != [step for step, _ in points]:
            wrong.append(f"{run}: {tag} has the steps {steps}")
            continue
        error = max(abs(x - y) / max(abs(y), 1e-30) for (_, x), (_, y) in zip(got[tag], points))
        print(f"{run.name}: {tag}: {len(points)} points, worst relative difference {error:.1e}")
        if error > F32:
            wrong.append(f"{run}: {tag} differs by {error:.1e}")
    return wrong


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("runs", nargs="*", type=pathlib.Path, metavar="RUN", help="output folders of `diffmas train`")
    a.add_argument("--diffmas", default=TARGET / "diffmas", help="the built program")
    a = a.parse_args()
    with tempfile.TemporaryDirectory() as parent:
        wrong = [line for run in a.runs or [resumed_run(a.diffmas, parent)] for line in check(run)]
    print("\n".join(wrong) or "every curve agrees")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()

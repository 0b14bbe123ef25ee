#!/usr/bin/env python3
"""All feeds on the same data: feeds.py DIFFMAS OUTPUT [FEED…], in the checkout's root.

Makes the data of runs/facts-slots.toml in OUTPUT/facts, trains that recipe once with each feed, scores it on the test lines, and prints a Markdown table:
right answers with their 95 % interval, seconds of an update, norm of the gradient before clipping (first update, median, largest). What is there already is
not made again. Standard library only."""
import json, pathlib, statistics, subprocess, sys

FEEDS = {name: ["--feed", name] for name in ("identity", "realign", "soft", "learned", "slots")}
FEEDS["slots-spread"] = ["--feed", "slots", "--slot-placement", "spread"]
DATA = "--facts 1-8 --full-size --split eighth --questions-per-line 4 --train 12800".split()


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def main(program, output, *feeds):
    output = pathlib.Path(output)
    facts = output / "facts"

    def call(*args):
        subprocess.run([program, *map(str, args)], check=True, stdout=subprocess.DEVNULL)

    if not (facts / "all_evidence.toml").exists():
        call("generate-task", *DATA, "--output", facts, "--overwrite")
    print("| feed | right answers, % [95 %] | seconds an update | gradient norm: first / median / largest |\n|---|---|---|---|")
    for feed in feeds or FEEDS:
        run, scores = output / feed, output / f"{feed}-scores"
        given = ["--data", facts / "train.jsonl", "--eval-data", facts / "test.jsonl"]
        if not (run / "adapter").exists():
            resume = ["--resume"] if (run / "config.toml").exists() else []
            call("train", "--config", "runs/facts-slots.toml", *FEEDS[feed], *given, "--output", run, *resume)
        if not (scores / "results.json").exists():
            call("eval", run, "--data", facts / "test.jsonl", "--accuracy", "--max-new-tokens", 4, "--output", scores)
        results = json.loads((scores / "results.json").read_text())
        right = (results[0] if isinstance(results, list) else results)["accuracy"]
        low, high = (100 * x for x in right["interval"])
        steps = lines(run / "metrics.jsonl")
        norms = [m["grad_norm"] for m in steps if m["grad_norm"] is not None]
        seconds = statistics.median(m["step_seconds"] for m in steps)
        norm = f"{norms[0]:.2g} / {statistics.median(norms):.2g} / {max(norms):.2g}"
        print(f"| `{feed}` | {100 * right['accuracy']:.1f} [{low:.1f}, {high:.1f}] | {seconds:.3f} | {norm} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])

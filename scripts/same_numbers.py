#!/usr/bin/env python3
"""Whether two programs compute the same: same_numbers.py OLD NEW [ONLY_CASES_WHOSE_NAME_CONTAINS]

Trains the smoke recipe and one small team for each channel, topology, feed, adapter scope, dropout and phase with both, lets each answer and scores it
under controls, and compares every number: losses, gradient norms, tensors of adapters and communication modules, tokens, losses of samples. What must
be the same is the same to the bit; `realign` alone may differ by 1e-6 (its matrix is a sum over the vocabulary in blocks). Standard library only; run it in
the checkout's root. Exits with 1 where something differs."""
import json, math, pathlib, struct, subprocess, sys, tempfile

MODEL = "tests/fixtures/golden/tiny-llama/model"
DATA = "tests/fixtures/smoke/train.jsonl"
CHAIN = ["--latent-steps", "3", "--max-steps", "4", "--batch-size", "2", "--gradient-accumulation-steps", "2", "--learning-rate", "1e-2", "--warmup-steps", "1"]
VECTORS = ["--num-vectors", "3", "--vector-dim", "16", "--vector-heads", "2"]
GRAPH = """topology = "graph"
[[agents]]
name = "planner"
[[agents]]
name = "critic"
reads = ["planner"]
latent_steps = 5
[[agents]]
name = "refiner"
transmit = "latent"
[[agents]]
name = "solver"
reads = ["refiner", "critic", "planner"]
"""
PHASES = """[[phases]]
name = "alone"
max_steps = 2
channel = false
[[phases]]
name = "readers"
max_steps = 2
train = ["cross_attention"]
[[phases]]
name = "all"
max_steps = 2
"""
# Name: flags of training; files that flags name.
CASES = {
    "smoke": (["--config", "runs/smoke.toml"], {}),
    "trace": ([], {}),
    "vectors": (["--channel", "vectors", *VECTORS], {}),
    "hybrid": (["--channel", "hybrid", *VECTORS, "--position-dropout", "0.2"], {}),
    "overwrite tanh": (["--channel", "overwrite", *VECTORS], {}),
    "overwrite gated": (["--channel", "overwrite", "--overwrite-update", "gated", *VECTORS, "--sender-dropout", "0.3"], {}),
    "hierarchical": (["--topology", "hierarchical"], {}),
    "hierarchical per role": (["--topology", "hierarchical", "--adapter-scope", "per_role"], {}),
    "hierarchical hybrid": (["--topology", "hierarchical", "--channel", "hybrid", *VECTORS], {}),
    "graph": (["--system", "GRAPH"], {"GRAPH": GRAPH}),
    "graph per role": (["--system", "GRAPH", "--adapter-scope", "per_role"], {"GRAPH": GRAPH}),
    "graph hybrid": (["--system", "GRAPH", "--channel", "hybrid", *VECTORS], {"GRAPH": GRAPH}),
    "final only": (["--adapter-scope", "final_only", "--trace-gradient", "last:1"], {}),
    "soft": (["--feed", "soft"], {}),
    "learned": (["--feed", "learned", "--weight-decay", "0.1", "--decay", "hf"], {}),
    "realign": (["--feed", "realign"], {}),
    "latent": (["--transmit", "latent", "--sender-dropout", "0.3", "--position-dropout", "0.3"], {}),
    "prompt": (["--transmit", "prompt"], {}),
    "phases": (["--channel", "vectors", *VECTORS, "--config", "PHASES"], {"PHASES": PHASES}),
    "qwen3": (["--model", "tests/fixtures/golden/tiny-qwen3/model", "--max-grad-norm", "0.1"], {}),
    "qwen2": (["--model", "tests/fixtures/golden/tiny-qwen2/model", "--lr-scheduler-type", "cosine"], {}),
}
CONTROLS = ["real", "none", "zero", "shuffled", "random", "drop:refiner"]
METRICS = ["loss", "learning_rate", "grad_norm", "clip_factor", "trace_grad_norm", "dropped_senders", "dropped_positions"]


def run(program, *args):
    done = subprocess.run([program, *map(str, args)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{program} {' '.join(map(str, args))}\nended with {done.returncode}: {done.stderr.strip()}")


def tensors(path):
    """Name to dtype, shape and bytes; empty where there is no such file."""
    if not path.exists():
        return {}
    data = path.read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    return {name: (t["dtype"], t["shape"], data[start + t["data_offsets"][0]:start + t["data_offsets"][1]]) for name, t in header.items()}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def numbers(program, name, folder):
    """All that a program computes for a case, by name."""
    flags, files = CASES[name]
    for file, text in files.items():
        (folder / f"{file}.toml").write_text(text)
    flags = [folder / f"{flag}.toml" if flag in files else flag for flag in flags]
    output = folder / "run"
    common = [] if name == "smoke" else ["--model", MODEL, "--data", DATA, *CHAIN]
    # The last of a flag counts.
    run(program, "train", *common, *flags, "--output", output, "--quiet")
    found = {}
    for step, line in enumerate(lines(output / "metrics.jsonl")):
        found |= {f"step {step}: {key}": line[key] for key in METRICS if key in line}
    for file in sorted((output / "adapter").rglob("*.safetensors")):
        found |= {f"{file.relative_to(output)}: {tensor}": value for tensor, value in tensors(file).items()}
    model = flags[flags.index("--model") + 1] if "--model" in flags else MODEL
    base = ["--model", model, "--data", DATA, "--adapter", output / "adapter"]
    run(program, "run", *base, "--greedy", "--max-new-tokens", 12, "--batch-size", 3, "--output", folder / "answers.jsonl")
    found |= {f"answer {i}": line["token_ids"] for i, line in enumerate(lines(folder / "answers.jsonl"))}
    for control in CONTROLS:
        run(program, "eval", *base, "--trace", control, "--batch-size", 3, "--output", folder / control.replace(":", "-"))
        samples = lines(folder / control.replace(":", "-") / "samples.jsonl")
        found |= {f"{control}: sample {i}": line["loss"] for i, line in enumerate(samples)}
    return found


def near(old, new, limit):
    """Whether all numbers of two values are within `limit` of each other, relative to the larger one."""
    if isinstance(old, dict):
        return old.keys() == new.keys() and all(near(old[key], new[key], limit) for key in old)
    if isinstance(old, tuple):
        old, new = (struct.unpack(f"<{len(value[2]) // 4}f", value[2]) for value in (old, new))
        size = math.sqrt(sum(x * x for x in old))
        return math.dist(old, new) <= limit * max(size, 1e-9)
    return isinstance(old, float) and abs(old - new) <= limit * max(abs(old), 1.0)


def main():
    old, new = (str(pathlib.Path(program).resolve()) for program in sys.argv[1:3])
    only = sys.argv[3] if len(sys.argv) > 3 else ""
    wrong = 0
    for name in CASES:
        if only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            both = []
            for which, program in (("old", old), ("new", new)):
                place = pathlib.Path(folder) / which
                place.mkdir()
                both.append(numbers(program, name, place))
        before, after = both
        limit = 1e-6 if name == "realign" else 0
        differ = [key for key in before.keys() | after.keys()
                  if key not in before or key not in after
                  or before[key] != after[key] and not (limit and near(before[key], after[key], limit))]
        wrong += bool(differ)
        print(f"{name}: {len(before)} values, " + (f"{len(differ)} DIFFER: {', '.join(sorted(differ)[:4])}" if differ else "the same"), flush=True)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()

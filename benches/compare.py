#!/usr/bin/env python3
"""Sets `diffmas bench` beside other programs, one after another on an otherwise idle machine, and prints medians and ratios.

    python benches/compare.py --model HF_FOLDER --peer DIR_OF_torch_diffmas.py --python VENV/bin/python [--runs 5]
    python benches/compare.py --model FILE.gguf --dtype auto --llama-bench PROGRAM [--runs 5]

The first is PyTorch with PEFT, on SmolLM2-135M in f32 as the peer's make_models.py writes it; the second is llama.cpp, which does not train and
reads the same GGUF file (or that of --gguf). A ratio above 1 is that of more, of whatever the row counts.
"""
import argparse, json, os, statistics, subprocess, sys, tempfile

a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
a.add_argument("--model", required=True); a.add_argument("--runs", default="5")
a.add_argument("--latent-steps", nargs="*", default=["10", "40"]); a.add_argument("--backend", default="flex"); a.add_argument("--dtype", default="f32")
a.add_argument("--diffmas", help="the built program; without it, cargo builds and runs it")
a.add_argument("--peer"); a.add_argument("--python", default=sys.executable)
a.add_argument("--llama-bench"); a.add_argument("--gguf")
a = a.parse_args()
if not (a.peer or a.llama_bench):
    sys.exit("give --peer, --llama-bench, or both")


def ours(*args):
    """The column that the bench measures: figures by work, and its peak memory in GiB."""
    program = [a.diffmas] if a.diffmas else ["cargo", "run", "--release", "--quiet", "--"]
    with tempfile.TemporaryDirectory() as out:
        command = [*program, "bench", "--model", a.model, "--backend", a.backend, "--dtype", a.dtype, "--runs", a.runs, "--output", out, *args]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with open(os.path.join(out, "bench.json")) as file:
            column = json.load(file)["columns"][0]
    peak = column.get("peak_device_memory_bytes", column.get("peak_memory_bytes"))
    return {m["work"]: m["figure"] for m in column["measurements"]}, peak and peak / 2**30


def peer(*args):
    command = [a.python, os.path.join(a.peer, "torch_diffmas.py"), *args, "--model", a.model, "--dtype", "f32", "--runs", a.runs]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads([line for line in out.splitlines() if line.startswith("{")][-1])


def llama(*args):
    """Tokens a second that llama.cpp's own bench finds."""
    command = [a.llama_bench, "-m", a.gguf or a.model, "-r", a.runs, "-o", "json", *args]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return statistics.median(json.loads(out)[0]["samples_ts"])


def table(name, rows):
    print(f"| | diffmas | {name} | ratio |\n|---|---|---|---|")
    for what, x, y in rows:
        print(f"| {what} | {x:.2f} | {y:.2f} | {x / y:.2f} |" if x and y else f"| {what} | {x or '–'} | {y or '–'} | |")


infer, _ = ours("--works", "prefill,latent-step,decode", "--decode-batch", "1,8")
if a.peer:
    rows = []
    for t in a.latent_steps:
        (us, peak), them = ours("--works", "train", "--latent-steps", t, "--train-batch", "1"), peer("bench-train", "--T", t)
        rows += [(f"training step, T = {t}, s", us[f"train-t{t}-b1"], them["step"]), (f"peak memory, T = {t}, GiB", peak, them["peak_gib"])]
    them = peer("bench-infer")
    for work, key, name in (("latent-step", "latent_step_ms", "latent step at 500 positions, ms"), ("decode-b1", "decode_b1_tok_s", "decode at 500 positions, tok/s"),
                            ("decode-b8", "decode_b8_tok_s", "decode, batch 8, tok/s"), ("prefill", "prefill512_tok_s", "prefill of 512 tokens, tok/s")):
        rows.append((name, infer[work], them[key]))
    table("PyTorch + PEFT", rows)
if a.llama_bench:
    rows = [("prefill of 512 tokens, tok/s", infer["prefill"], llama("-p", "512", "-n", "0")),
            ("decode at 500 positions, tok/s", infer["decode-b1"], llama("-p", "0", "-n", "32", "-d", "500"))]
    table("llama.cpp", rows)

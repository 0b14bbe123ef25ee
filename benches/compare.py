#!/usr/bin/env python3
"""Runs our bench and the PyTorch peer in turn, on an otherwise idle machine, and prints medians and ratios.

    python benches/compare.py --peer DIR_OF_torch_diffmas.py --python VENV/bin/python --model HF_FOLDER [--runs 5]

The model folder is SmolLM2-135M in f32, as the peer's make_models.py writes it.
"""
import argparse, json, os, subprocess, sys

a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
a.add_argument("--peer", required=True); a.add_argument("--python", default=sys.executable)
a.add_argument("--model", required=True); a.add_argument("--runs", default="5")
a.add_argument("--latent-steps", nargs="*", default=["10", "40"]); a.add_argument("--backend")
a.add_argument("--bench", help="the built bench program; without it, cargo bench builds and runs it")
a = a.parse_args()


def run(command):
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads([line for line in out.splitlines() if line.startswith("{")][-1])


def ours(*args):
    program = [a.bench] if a.bench else ["cargo", "bench", "--quiet", "--bench", "smollm2", "--"]
    return run([*program, *args, "--runs", a.runs] + (["--backend", a.backend] if a.backend else []))


def peer(*args):
    return run([a.python, os.path.join(a.peer, "torch_diffmas.py"), *args, "--model", a.model, "--runs", a.runs])


rows = []
for t in a.latent_steps:
    us, them = ours("train", a.model, "--latent-steps", t), peer("bench-train", "--dtype", "f32", "--T", t)
    rows += [(f"training step, T = {t}, s", us["step"], them["step"]), (f"peak memory, T = {t}, GiB", us["peak_gib"], them["peak_gib"])]
us, them = ours("infer", a.model), peer("bench-infer", "--dtype", "f32")
for key, name in (("latent_step_ms", "latent step at 500 positions, ms"), ("decode_b1_tok_s", "decode at 500 positions, tok/s"),
                  ("decode_b8_tok_s", "decode, batch 8, tok/s"), ("prefill512_tok_s", "prefill of 512 tokens, tok/s")):
    rows.append((name, us[key], them[key]))
print("| | diffmas | PyTorch + PEFT | ratio |\n|---|---|---|---|")
for name, x, y in rows:
    print(f"| {name} | {x:.2f} | {y:.2f} | {x / y:.2f} |")

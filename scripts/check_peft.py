#!/usr/bin/env python3
"""Adapters go both ways between diffmas and PEFT: the same logits within 1e-4 in f32, on every tiny model of tests/fixtures/golden.

    cargo build --release --bins --examples
    python3 -m venv VENV && VENV/bin/pip install torch transformers peft
    VENV/bin/python scripts/check_peft.py

1. `diffmas train` makes an adapter; `peft.PeftModel` loads it; logits of a plain pass are compared with those of examples/logits.rs.
2. PEFT trains an adapter on the same tokens, of another shape, and saves it; examples/logits.rs and `diffmas eval` load it.

Both adapters must change the logits by far more than the tolerance, so that one that is not applied cannot pass. Exits with 1 when
anything differs.
"""
import argparse, json, os, pathlib, subprocess, sys, tempfile, warnings

import torch, transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
MODELS = ("tiny-llama", "tiny-qwen2", "tiny-qwen3", "tiny-qwen3-tied")
DATA = ROOT / "tests/fixtures/smoke/train.jsonl"
TOLERANCE, EFFECT = 1e-4, 1e-2

warnings.filterwarnings("ignore", category=FutureWarning)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

# Shapes of an adapter that PEFT trains: rank, scale and targets other than those diffmas starts from, and PEFT's options for them.
PEFT_SHAPES = (
    dict(r=4, lora_alpha=12, target_modules=["q_proj", "v_proj", "down_proj"]),
    dict(r=3, lora_alpha=6, target_modules="all-linear", use_rslora=True, rank_pattern={"layers.0.self_attn.k_proj": 5}),
)


def run(*command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout


def base(model):
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager").eval()


@torch.no_grad()
def torch_logits(model, ids):
    return model(torch.tensor([ids])).logits[0]


def our_logits(a, model, ids, adapter, place):
    path = place / "logits.safetensors"
    run(a.logits, model, "--ids", ",".join(map(str, ids)), "--output", path, *(["--adapter", adapter] if adapter else []))
    return load_file(path)["logits"]


def train_with_peft(model, shape, ids, folder):
    torch.manual_seed(0)
    peft = get_peft_model(base(model), LoraConfig(task_type="CAUSAL_LM", **shape))
    optimizer = torch.optim.AdamW((p for p in peft.parameters() if p.requires_grad), lr=5e-3)
    rows = torch.tensor([ids])
    for _ in range(8):
        optimizer.zero_grad()
        peft(rows, labels=rows).loss.backward()
        optimizer.step()
    peft.save_pretrained(folder)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--diffmas", default=TARGET / "diffmas", help="the built program")
    a.add_argument("--logits", default=TARGET / "examples/logits", help="the built example")
    a = a.parse_args()
    line = json.loads(DATA.read_text().splitlines()[0])
    ids = [i for prompt in line["prompt_ids"].values() for i in prompt] + line["target_ids"]
    failed = False

    def compare(what, ours, theirs, bare):
        nonlocal failed
        error, effect = (ours - theirs).abs().max().item(), (theirs - bare).abs().max().item()
        ok = ours.shape == theirs.shape and error <= TOLERANCE and effect >= EFFECT
        failed |= not ok
        print(f"{'ok  ' if ok else 'FAIL'} {what}: worst difference {error:.1e}; the adapter changes logits by up to {effect:.2f}")

    for name in MODELS:
        model = ROOT / "tests/fixtures/golden" / name / "model"
        bare = torch_logits(base(model), ids)
        with tempfile.TemporaryDirectory() as place:
            place = pathlib.Path(place)
            run(a.diffmas, "train", "--model", model, "--data", DATA, "--output", place / "run", "--latent-steps", 2,
                "--max-steps", 8, "--batch-size", 3, "--learning-rate", 5e-3)
            adapter = place / "run/adapter"
            theirs = torch_logits(PeftModel.from_pretrained(base(model), adapter), ids)
            compare(f"{name}, trained by diffmas", our_logits(a, model, ids, adapter, place), theirs, bare)
            for i, shape in enumerate(PEFT_SHAPES):
                adapter = place / f"peft-{i}"
                train_with_peft(model, shape, ids, adapter)
                theirs = torch_logits(PeftModel.from_pretrained(base(model), adapter), ids)
                compare(f"{name}, trained by PEFT, r = {shape['r']}", our_logits(a, model, ids, adapter, place), theirs, bare)
                run(a.diffmas, "eval", "--model", model, "--adapter", adapter, "--data", DATA, "--latent-steps", 2)
    sys.exit(failed)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""The work of benches/smollm2.rs in PyTorch (eager) + PEFT, for its times only: on models of random weights, made on the spot.

    gpu_peer.py make {smollm2|qwen3-0.6b} DIR
    gpu_peer.py time DIR [train:T:BATCH | infer]... [--dtypes f32 tf32 bf16] [--runs 3]

Each work prints a line of JSON for each dtype, and then a line that begins with "= " with the times of all works so far. `tf32` is f32
whose matrix products may round to TF32. `step` is forward and backward of one micro-batch, `update` that and AdamW.
"""
import argparse, json, os, statistics, time

os.environ["HF_HUB_OFFLINE"] = "1"
import torch, transformers
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, Qwen3Config

transformers.utils.logging.disable_progress_bar()
SHAPES = {
    "smollm2": lambda: LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        max_position_embeddings=8192, rope_theta=100000.0, tie_word_embeddings=True),
    "qwen3-0.6b": lambda: Qwen3Config(
        vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8,
        head_dim=128, max_position_embeddings=40960, rope_theta=1e6, tie_word_embeddings=True),
}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PROMPT, TARGET, STEPS = 120, 64, 32
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def make(shape, folder):
    torch.manual_seed(0)
    with torch.device(DEVICE):
        model = AutoModelForCausalLM.from_config(SHAPES[shape](), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    print("=", shape, model.num_parameters(), "parameters")


def load(folder, dtype):
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16 if dtype == "bf16" else torch.float32)
    return model.to(DEVICE).eval().requires_grad_(False)


def clock():
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(run, runs):
    """The median of `runs` calls, after one that warms up; `run` returns seconds."""
    run()
    return statistics.median(run() for _ in range(runs))


def ids(model, batch, n):
    return torch.randint(8, model.config.vocab_size, (batch, n), device=DEVICE)


def feeder(model):
    """Latent states are fed back at the mean norm of the embeddings."""
    norm = model.get_input_embeddings().weight.float().norm(dim=-1).mean()
    return lambda h: (h.float() * (norm / h.float().norm(dim=-1, keepdim=True).clamp_min(1e-6))).to(h.dtype)


def train(model, latent_steps, batch, runs):
    feed, core, head = feeder(model), model.model, model.lm_head
    lora = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM")
    learned = [p for p in get_peft_model(model, lora).parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-4)
    prompts, target = [ids(model, batch, PROMPT) for _ in range(4)], ids(model, batch, TARGET)

    def gradients():
        optimizer.zero_grad()
        cache = DynamicCache()
        for prompt in prompts[:3]:
            h = core(input_ids=prompt, past_key_values=cache, use_cache=True).last_hidden_state[:, -1:]
            for _ in range(latent_steps):
                h = core(inputs_embeds=feed(h), past_key_values=cache, use_cache=True).last_hidden_state
        last = torch.cat([prompts[3], target[:, :-1]], 1)
        h = core(input_ids=last, past_key_values=cache, use_cache=True).last_hidden_state[:, PROMPT - 1:]
        torch.nn.functional.cross_entropy(head(h).float().flatten(0, 1), target.flatten()).backward()

    def step():
        start = clock()
        gradients()
        return clock() - start

    def update():
        start = clock()
        gradients()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        return clock() - start

    return {"step": timed(step, runs), "update": timed(update, runs)}


@torch.no_grad()
def infer(model, runs):
    core, head, feed = model.model, model.lm_head, feeder(model)

    def prefill():
        start = clock()
        head(core(input_ids=ids(model, 1, 512)).last_hidden_state[:, -1]).float().cpu()
        return clock() - start

    def steps(batch, following):
        """Seconds of `STEPS` positions after 500; `following` makes the next call's input of a hidden state."""
        cache = DynamicCache()
        h = core(input_ids=ids(model, batch, 500), past_key_values=cache, use_cache=True).last_hidden_state[:, -1:]
        start = clock()
        for _ in range(STEPS):
            h = core(**following(h), past_key_values=cache, use_cache=True).last_hidden_state
        return clock() - start

    def token(h):
        best = head(h).argmax(-1)
        best.tolist()  # a decoder looks at each token
        return {"input_ids": best}

    return {
        "prefill512_tok_s": 512 / timed(prefill, runs),
        "latent_step_ms": 1e3 / STEPS * timed(lambda: steps(1, lambda h: {"inputs_embeds": feed(h)}), runs),
        "decode_b1_tok_s": STEPS / timed(lambda: steps(1, token), runs),
        "decode_b8_tok_s": 8 * STEPS / timed(lambda: steps(8, token), runs),
    }


def time_all(folder, works, dtypes, runs):
    told = []
    for work in works:
        times = []
        for dtype in dtypes:
            model = load(folder, dtype)
            if DEVICE == "cuda":
                torch.cuda.reset_peak_memory_stats()
            what, *sizes = work.split(":")
            out = infer(model, runs) if what == "infer" else train(model, int(sizes[0]), int(sizes[1]), runs)
            out["gpu_peak_gib"] = torch.cuda.max_memory_allocated() / 2**30 if DEVICE == "cuda" else None
            print(json.dumps({"work": work, "dtype": dtype, **out}), flush=True)
            if what == "infer":
                times.append(f"{dtype} {out['latent_step_ms']:.2f} ms {out['decode_b1_tok_s']:.0f}/{out['decode_b8_tok_s']:.0f} tok/s")
            else:
                times.append(f"{dtype} {out['step']:.3f} s")
        told.append(f"{work}: {', '.join(times)}")
        print("=", "; ".join(told), flush=True)


a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
commands = a.add_subparsers(dest="command", required=True)
c = commands.add_parser("make")
c.add_argument("shape", choices=SHAPES)
c.add_argument("folder")
c = commands.add_parser("time")
c.add_argument("folder")
c.add_argument("works", nargs="+")
c.add_argument("--dtypes", nargs="+", default=["f32", "tf32", "bf16"], choices=["f32", "tf32", "bf16"])
c.add_argument("--runs", type=int, default=3)
a = a.parse_args()
if a.command == "make":
    make(a.shape, a.folder)
else:
    time_all(a.folder, a.works, a.dtypes, a.runs)

"""Tiny models of every kind with PyTorch, transformers and PEFT in float64: tests/fixtures/golden/models.json.

    pip install torch transformers peft
    python3 scripts/make_model_fixtures.py

No weights are stored: both sides fill them from their names (`fill` here, `det_fill` in tests/shared/filler.rs). A team is a chain on which
everything is passed on, so that a row of it is one causal sequence: the prompts of all agents, each with its latent positions behind it, and the
target. Nothing is cached, and no code is shared with diffmas.
"""

import json
import math
import pathlib

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from transformers import AutoConfig, AutoModelForCausalLM

PATH = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures/golden/models.json"
SEED, DIGITS, STEPS = 20260421, 9, 2
MASK = (1 << 64) - 1
# The seed of a run, and what keeps LoRA's dropout apart from its other draws.
DROPOUT_SEED = 42 ^ 0x6C6F7261

SIZES = dict(
    vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
    max_position_embeddings=64, rms_norm_eps=1e-5, eos_token_id=None, bos_token_id=None, pad_token_id=None, tie_word_embeddings=False,
)
LORA = dict(peft_type="LORA", task_type="CAUSAL_LM", r=2, lora_alpha=4, target_modules=["q_proj", "v_proj", "o_proj", "down_proj"])


def yarn(**more):
    return dict(rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, **more))


# Name, `config.json` beyond the sizes, `adapter_config.json` beyond the usual one.
CASES = [
    ("mistral", dict(model_type="mistral", sliding_window=None), {}),
    ("llama-biases", dict(model_type="llama", attention_bias=True, mlp_bias=True), {}),
    ("qwen3-biases", dict(model_type="qwen3", attention_bias=True), {}),
    ("rope-dynamic", dict(model_type="llama", rope_scaling=dict(rope_type="dynamic", factor=2.0)), {}),
    ("rope-yarn", dict(model_type="llama", **yarn()), {}),
    ("rope-yarn-mscale", dict(model_type="qwen3", **yarn(mscale=2.0, mscale_all_dim=0.5, beta_fast=4, beta_slow=0.5)), {}),
    ("rope-yarn-exact", dict(model_type="llama", **yarn(attention_factor=1.25, truncate=False)), {}),
    ("adapter-exclude-modules", dict(model_type="llama"), dict(exclude_modules=["layers.0.self_attn.q_proj", "o_proj"])),
    ("adapter-layers-to-transform", dict(model_type="llama"), dict(layers_to_transform=[1], layers_pattern="layers")),
    ("adapter-look-ahead", dict(model_type="llama"), dict(target_modules=r"(?!.*layers\.0\.).*\.(q|v)_proj")),
    ("adapter-lm-head", dict(model_type="llama"), dict(target_modules=["q_proj", "lm_head"])),
    ("adapter-lm-head-tied", dict(model_type="llama", tie_word_embeddings=True), dict(target_modules=["q_proj", "lm_head"])),
    ("adapter-dropout", dict(model_type="llama"), dict(lora_dropout=0.25)),
    ("adapter-modules-to-save", dict(model_type="llama"), dict(modules_to_save=["embed_tokens", "lm_head", "norm"])),
    ("adapter-modules-to-save-tied", dict(model_type="llama", tie_word_embeddings=True), dict(modules_to_save=["embed_tokens"])),
]


def fnv1a(name):
    h = 0xCBF29CE484222325
    for b in name.encode():
        h = ((h ^ b) * 0x100000001B3) & MASK
    return h


def splitmix(key, i):
    z = (key + (i + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def uniform(name, n):
    key = fnv1a(f"{SEED}/{name}")
    return ((splitmix(key, i) >> 40) / 2**24 for i in range(n))


def fill(name, shape, bound):
    """As f32 holds it, for that is what files hold."""
    values = [bound * (2.0 * u - 1.0) for u in uniform(name, math.prod(shape))]
    return torch.tensor(values, dtype=torch.float64).float().reshape(shape)


def weight(name, shape):
    """What the tensor `name` holds; the same rule stands in tests/suite/models.rs."""
    if len(shape) == 1:
        return fill(name, shape, 0.2) + (1.0 if name.endswith("norm.weight") else 0.0)
    return fill(name, shape, 0.3 if ".lora_B." in name else math.sqrt(3.0 / shape[1]))


def ids(name, n):
    return [math.floor(u * SIZES["vocab_size"]) for u in uniform(name, n)]


def rounded(x):
    return float(f"{float(torch.as_tensor(x).detach()):.{DIGITS}g}")


class Dropout(torch.nn.Module):
    """In the place of PEFT's: what is dropped depends on sample, agent, position and module alone (src/backbone/lora_dropout.rs)."""

    def __init__(self, model, path):
        super().__init__()
        self.model, self.module = [model], fnv1a(path)

    def forward(self, x):
        [model] = self.model
        if model.dropping is None:
            return x
        p, owners = model.adapter["lora_dropout"], model.owners
        mask = torch.zeros_like(x[0])
        for at in range(len(mask)):
            row = splitmix(splitmix(DROPOUT_SEED, model.dropping), owners[min(at, len(owners) - 1)])
            key = splitmix(row, at) ^ self.module
            for i in range(mask.shape[1]):
                half = splitmix(key, i // 2) >> (32 * (i % 2)) & 0xFFFFFFFF
                mask[at, i] = 0.0 if half < int(p * 2**32) else 1.0 / (1.0 - p)
        return x * mask


class Model:
    def __init__(self, name, config, adapter):
        self.config = {**SIZES, **config}
        base = AutoModelForCausalLM.from_config(AutoConfig.for_model(**self.config), attn_implementation="eager").double().eval()
        self.tensors = {n: list(t.shape) for n, t in base.state_dict().items()}
        if self.config["tie_word_embeddings"]:
            del self.tensors["lm_head.weight"]
        base.load_state_dict({n: weight(n, shape).double() for n, shape in self.tensors.items()}, strict=False)
        self.adapter = {**LORA, **adapter}
        self.model = get_peft_model(base, LoraConfig(**self.adapter)).eval()
        saved = get_peft_model_state_dict(self.model)
        self.factors = {}
        for n, t in saved.items():
            inner = n.removeprefix("base_model.model.").replace(".base_layer.", ".")
            changed = any(inner.endswith(f"{m}.weight") for m in self.adapter.get("modules_to_save") or [])
            same = "model.embed_tokens.weight" if self.config["tie_word_embeddings"] and inner == "lm_head.weight" else inner
            self.factors[n] = ["saved/" + inner if changed else same, *t.shape]
        own = dict(self.model.named_parameters())
        for n, (source, *shape) in self.factors.items():
            for place in (n.removesuffix(".weight") + ".default.weight", n.removesuffix(".weight") + ".modules_to_save.default.weight"):
                if place in own:
                    own[place].data = weight(source, shape).double()
        # The sample whose draws apply, where there is dropout, and the agent that each position belongs to.
        self.dropping, self.owners = None, []
        for n, module in self.model.named_modules():
            if self.adapter.get("lora_dropout") and hasattr(module, "lora_dropout"):
                module.lora_dropout["default"] = Dropout(self, n.removeprefix("base_model.model."))
        self.learned = {n: t for n, t in own.items() if ".lora_" in n}
        self.embed = self.model.base_model.model.model.embed_tokens

    def rho(self):
        return self.embed(torch.arange(SIZES["vocab_size"])).detach().norm(dim=1).mean()

    def run(self, x):
        body = self.model.base_model.model.model
        at = torch.arange(len(x))[None]
        return body(inputs_embeds=torch.stack(x)[None], position_ids=at, use_cache=False).last_hidden_state[0]

    def sequence(self, row):
        """Embeddings up to the end of the final agent's prompt."""
        x = []
        steps = [STEPS] * (len(row["agents"]) - 1) + [0]
        self.owners = [j for j, prompt in enumerate(row["agents"]) for _ in range(len(prompt) + steps[j])]
        for j, prompt in enumerate(row["agents"]):
            x += list(self.embed(torch.tensor(prompt)))
            for _ in range(steps[j]):
                h = self.run(x)[-1]
                x.append(h * self.rho() / h.norm().clamp_min(1e-6))
        return x

    def logits(self, x, text):
        x = x + (list(self.embed(torch.tensor(text))) if text else [])
        return self.model.base_model.model.lm_head(self.run(x))

    def nll(self, row):
        x, target = self.sequence(row), row["target"]
        logits = self.logits(x, target[:-1])[len(x) - 1 :]
        return torch.nn.functional.cross_entropy(logits, torch.tensor(target), reduction="none")

    def greedy(self, row, n):
        out, gap = [], math.inf
        with torch.no_grad():
            x = self.sequence(row)
            for _ in range(n):
                best = self.logits(x, out)[-1].topk(2)
                gap = min(gap, float(best.values[0] - best.values[1]))
                out.append(int(best.indices[0]))
        return dict(tokens=out, gap=rounded(gap))


def case(name, config, adapter):
    model = Model(name, config, adapter)
    rows = []
    for r, lengths in enumerate([(7, 5, 6), (4, 8, 5)]):
        agents = [ids(f"{name}/{r}/{j}", n) for j, n in enumerate(lengths)]
        rows.append(dict(agents=agents, target=ids(f"{name}/{r}/target", 5 + r)))
    each = [model.nll(row) for row in rows]
    learned = []
    for model.dropping, row in enumerate(rows):
        learned.append(model.nll(row))
    model.dropping = None
    loss = torch.cat(learned).mean()
    loss.backward()
    gradients = {}
    for n, t in model.learned.items():
        n = "adapter.default." + n.removeprefix("base_model.model.").replace(".default.weight", "")
        probe = fill(f"probe/{n}", t.grad.shape, 1.0).double()
        gradients[n] = [rounded(t.grad.norm()), rounded((t.grad * probe).sum())]
    return dict(
        name=name, config=model.config, tensors=model.tensors, adapter=model.adapter, factors=model.factors, latent_steps=STEPS, rows=rows,
        losses=[rounded(x.mean()) for x in each], loss=rounded(loss), gradients=gradients, greedy=[model.greedy(row, 8) for row in rows],
    )


def main():
    cases = []
    for name, config, adapter in CASES:
        cases.append(case(name, config, adapter))
        print(name, cases[-1]["loss"], [g["gap"] for g in cases[-1]["greedy"]])
    PATH.write_text("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")


if __name__ == "__main__":
    main()

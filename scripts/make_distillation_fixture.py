"""Writes tests/fixtures/distillation.json: loss and gradient of one update with a teacher, in float64 (norms and angles of positions in
float32, as transformers computes them whatever the model's type).

    python scripts/make_distillation_fixture.py      # needs torch, transformers and peft

The models, adapters and samples are those of tests/fixtures/golden, whose README says how the numbers of other programs are named. All
samples but the first lose their target; the teacher's greedy answer stands in for it.
"""

import json
import math
import pathlib

import peft
import torch
import transformers
from torch.nn.functional import kl_div, log_softmax, nll_loss

FIXTURES = pathlib.Path(__file__).parent.parent / "tests/fixtures"
MODELS = ["tiny-llama", "tiny-qwen3"]
WEIGHT = 0.3
TOKENS = 7
SEED = 20260421


def filler(name, n):
    """`n` numbers of the portable generator, between -1 and 1."""
    mask, start = (1 << 64) - 1, 0xCBF29CE484222325
    for byte in name.encode():
        start = (start ^ byte) * 0x100000001B3 & mask
    for i in range(1, n + 1):
        z = start + i * 0x9E3779B97F4A7C15 & mask
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        yield 2 * ((z ^ z >> 31) >> 40) / 2**24 - 1


def read(model, embeddings, cache):
    """Reads `embeddings` after what `cache` holds: the hidden states after the final norm."""
    out = model(inputs_embeds=embeddings, past_key_values=cache, use_cache=True, output_hidden_states=True)
    return out.hidden_states[-1], out.logits


def student(model, table, rho, steps, agents, target):
    """The final agent's logits at each token of `target`, after the traces of all others."""
    cache = transformers.DynamicCache()
    embed = lambda ids: table[torch.tensor([ids])]
    for ids in agents[:-1]:
        h = read(model, embed(ids), cache)[0][:, -1:]
        for _ in range(steps):
            h = read(model, h * (rho / h.norm(dim=-1, keepdim=True).clamp_min(1e-6)), cache)[0]
    logits = read(model, embed(agents[-1] + target[:-1]), cache)[1]
    return logits[0, -len(target):]


def greedy(model, prompt, stop):
    """The teacher's answer, with the token that ends it, and the smallest distance of the best two scores."""
    ids, gap = [], math.inf
    while len(ids) < TOKENS and (not ids or ids[-1] not in stop):
        best = model(torch.tensor([prompt + ids])).logits[0, -1].topk(2)
        ids.append(best.indices[0].item())
        gap = min(gap, (best.values[0] - best.values[1]).item())
    return ids, gap


def case(name):
    folder = FIXTURES / "golden" / name
    given = json.loads((folder / "input.json").read_text())
    base = transformers.AutoModelForCausalLM.from_pretrained(
        folder / "model", dtype=torch.float64, attn_implementation="eager")
    table = base.get_input_embeddings().weight.detach()
    rho = table.norm(dim=1).mean()
    model = peft.PeftModel.from_pretrained(base, folder / "adapter", is_trainable=True).eval()
    rows = [{"agents": [a["ids"] for a in given["agents"]], "target": given["target"]}] + given["rows"]
    evidence = [sum(row["agents"], []) for row in rows]

    def predicted(row, target):
        return log_softmax(student(model, table, rho, given["latent_steps"], row["agents"], target), -1)

    # The same loss as of the reference, without a teacher.
    expected = json.loads((folder / "expected.json").read_text())["loss"]
    own = nll_loss(predicted(rows[0], rows[0]["target"]), torch.tensor(rows[0]["target"]))
    assert abs(own.item() - expected) < 1e-6, (own.item(), expected)

    answers, gaps, targets, value, divergence, count = [], [], [], 0.0, 0.0, 0
    with model.disable_adapter(), torch.no_grad():
        # One of the answers ends before it is as long as it may be.
        stop = [greedy(model, evidence[2], [])[0][4]]
        for i, prompt in enumerate(evidence):
            answer, gap = greedy(model, prompt, stop) if i > 0 else (None, math.inf)
            answers.append(answer)
            gaps.append(gap)
            targets.append(answer or rows[i]["target"])
        said = [log_softmax(model(torch.tensor([p + t[:-1]])).logits[0, -len(t):], -1)
                for p, t in zip(evidence, targets)]
    for row, answer, target, teacher in zip(rows, answers, targets, said):
        log_p = predicted(row, target)
        w = 1.0 if answer else WEIGHT
        kl = kl_div(log_p, teacher, reduction="sum", log_target=True)
        value = value + w * kl + (1 - w) * nll_loss(log_p, torch.tensor(target), reduction="sum")
        divergence, count = divergence + kl.item(), count + len(target)
    loss = value / count
    loss.backward()

    tensors, squares = {}, 0.0
    for key, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        key = key.replace("base_model.model.", "adapter.default.", 1).replace(".default.weight", "")
        flat = parameter.grad.flatten()
        probe = torch.tensor(list(filler(f"{SEED}/probe/{key}", len(flat))), dtype=torch.float64)
        tensors[key] = [flat.norm().item(), (flat @ probe).item()]
        squares += flat.norm().item() ** 2
    return {
        "model": name, "distill_weight": WEIGHT, "teacher_tokens": TOKENS, "stop_tokens": stop,
        "answers": answers, "gap": min(gaps), "loss": loss.item(), "distillation_loss": divergence / count,
        "grad_norm": math.sqrt(squares), "tensors": tensors,
    }


def main():
    about = f"transformers {transformers.__version__}, peft {peft.__version__}, torch {torch.__version__}; " \
        "scripts/make_distillation_fixture.py"
    lines = ",\n".join(json.dumps(case(name)) for name in MODELS)
    (FIXTURES / "distillation.json").write_text(f'{{"about": {json.dumps(about)}, "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()

"""The numbers of `feed = "slots"` with PyTorch, transformers and PEFT in float64: tests/fixtures/golden/channels/slots.json.

    pip install torch transformers peft safetensors
    python3 scripts/make_slots_fixture.py

A row of a team is one sequence here: the prompts of all agents with their slots in their places, the final agent's prompt, the target. Who sees
what is a mask of four dimensions; where everything stands, explicit position ids. Nothing is cached, and no code is shared with diffmas.
"""

import json
import math
import pathlib

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

ROOT = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures/golden"
MODEL, SEED, DIGITS = "tiny-qwen3", 20260421, 12
HIDDEN = -1e30


def fill(name, n, bound):
    """As `det_fill` of tests/shared/filler.rs."""
    mask = (1 << 64) - 1
    h = 0xCBF29CE484222325
    for b in f"{SEED}/{name}".encode():
        h = ((h ^ b) * 0x100000001B3) & mask
    out = []
    for i in range(1, n + 1):
        z = (h + i * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        out.append(bound * (2.0 * (((z ^ (z >> 31)) >> 40) / float(1 << 24)) - 1.0))
    return out


def ids(name, n):
    return [8 + math.floor((u + 0.5) * 504) for u in fill(name, n, 0.5)]


class Reference:
    def __init__(self):
        base = AutoModelForCausalLM.from_pretrained(ROOT / MODEL / "model", dtype=torch.float64, attn_implementation="eager")
        self.model = PeftModel.from_pretrained(base, ROOT / MODEL / "adapter", is_trainable=True).double().eval()
        self.embed = self.model.get_input_embeddings().weight.detach()
        self.rho = self.embed.norm(dim=1).mean()

    def learned(self, team):
        """Trainable tensors by the names of diffmas."""
        out = {}
        for name, value in self.model.named_parameters():
            if "lora_" in name:
                parts = name.removeprefix("base_model.model.").split(".")
                out["adapter.default." + ".".join(p for p in parts if p not in ("default", "weight"))] = value
        for agent in team["agents"][:-1]:
            steps = agent.get("latent_steps", team["latent_steps"])
            if agent.get("feed", team["feed"]) == "slots" and steps:
                n, width = f"slots.{agent['name']}", self.embed.shape[1]
                bound = math.sqrt(3.0 / steps)
                # As f32 holds it, for diffmas reads f32.
                value = torch.tensor(fill(n, steps * width, bound)).float().double().reshape(steps, width)
                out[n] = value.requires_grad_()
        return out

    def sequence(self, team, row, learned, text, branch=None):
        """Embeddings, position ids, mask and the places of `text`, which follows the final agent's prompt, or, in a branch of its own, that of
        the agent `branch`."""
        names = [a["name"] for a in team["agents"]]
        x, at, agent = [], [], []
        ends, sent = {}, {}
        for j, (a, prompt) in enumerate(zip(team["agents"], row["agents"])):
            last = j + 1 == len(names)
            reads = list(range(j)) if team["topology"] == "sequential" or last else []
            own = [(self.embed[i], False) for i in prompt]
            if f"slots.{a['name']}" in learned:
                z = learned[f"slots.{a['name']}"]
                z = z * (self.rho / z.norm(dim=1, keepdim=True).clamp_min(1e-6))
                n, count = len(prompt), len(z)
                for t in range(count, 0, -1):
                    place = n if team["slot_placement"] == "end" else min(round(t * n / count), n - 1)
                    own.insert(place, (z[t - 1], True))
            # What was built independently is laid one after another; ids of a chain go on where those before end.
            start = max((ends[r] for r in reads), default=0)
            if team["topology"] != "sequential" and not last:
                start = max(ends.values(), default=0)
            if branch is not None and j == branch:
                seen = [i for i, (_, slot) in enumerate(own) if not slot]
                stop = max(seen) + 1
            ends[j] = start + len(own)
            transmit = a.get("transmit", team["transmit"])
            for i, (z, _) in enumerate(own):
                x.append(z), at.append(start + i), agent.append(j)
            sent[j] = [transmit == "all" or (transmit == "latent") == slot for _, slot in own]
            if branch == j:
                left = len(x) - len(own) + stop
                x, at, agent, sent[j] = x[:left], at[:left], agent[:left], sent[j][:stop]
                break
        final = len(sent) - 1
        begin = len(x)
        for i, token in enumerate(text):
            x.append(self.embed[token]), at.append(at[begin - 1] + 1 + i), agent.append(final)
        flat_sent = [s for j in sorted(sent) for s in sent[j]] + [True] * len(text)
        mask = torch.full((len(x), len(x)), HIDDEN, dtype=torch.float64)
        for q in range(len(x)):
            for k in range(q + 1):
                own = agent[q] == agent[k]
                chain = team["topology"] == "sequential" or agent[q] + 1 == len(names)
                if own or (chain and agent[k] < agent[q] and flat_sent[k]):
                    mask[q, k] = 0.0
        return torch.stack(x)[None], torch.tensor(at)[None], mask[None, None], begin

    def logits(self, team, row, learned, text, branch=None):
        """Logits of each token of `text`."""
        x, at, mask, begin = self.sequence(team, row, learned, text, branch)
        out = self.model(inputs_embeds=x, position_ids=at, attention_mask=mask, use_cache=False).logits[0]
        return out[begin - 1 :]

    def nll(self, team, row, learned, text, branch=None):
        logits = self.logits(team, row, learned, text[:-1], branch)
        return torch.nn.functional.cross_entropy(logits, torch.tensor(text), reduction="none")

    def losses(self, team, rows, learned, weight):
        target = torch.cat([self.nll(team, row, learned, row["target"]) for row in rows]).mean()
        of_role = []
        for j, agent in enumerate(team["agents"][:-1]):
            texts = [(row, row["experts"][agent["name"]]) for row in rows if agent["name"] in row.get("experts", {})]
            if weight and texts:
                of_role.append(torch.cat([self.nll(team, row, learned, text, j) for row, text in texts]).mean())
        trajectory = weight * torch.stack(of_role).mean() if of_role else torch.zeros((), dtype=torch.float64)
        return target, trajectory

    def greedy(self, team, row, learned, n):
        out, gap = [], math.inf
        with torch.no_grad():
            for _ in range(n):
                best = self.logits(team, row, learned, out)[-1].topk(2)
                gap = min(gap, float(best.values[0] - best.values[1]))
                out.append(int(best.indices[0]))
        return dict(tokens=out, gap=rounded(gap))


def rounded(x):
    x = x.item() if isinstance(x, torch.Tensor) else x
    return float(f"{x:.{DIGITS}g}")


def case(reference, name, topology, placement, transmit, steps, experts):
    agents = [dict(name=n, latent_steps=t) for n, t in zip(["planner", "critic", "refiner"], steps)]
    team = dict(channel="trace", topology=topology, latent_steps=3, transmit=transmit, feed="slots", slot_placement=placement)
    team["agents"] = [*agents, dict(name="solver")]
    rows = []
    for r, lengths in enumerate([(11, 13, 9, 12), (7, 15, 9, 7), (14, 7, 14, 16)]):
        row = dict(agents=[ids(f"{name}/{r}/{j}", n) for j, n in enumerate(lengths)], target=ids(f"{name}/{r}/target", 10 + r))
        if experts:
            row["experts"] = {a["name"]: ids(f"{name}/{r}/{a['name']}", 5 + r) for a in agents[: 1 + r]}
        rows.append(row)
    learned = reference.learned(team)
    for value in learned.values():
        value.grad = None
    weight = 0.5 if experts else 0.0
    target, trajectory = reference.losses(team, rows, learned, weight)
    (target + trajectory).backward()
    grads = {n: v.grad for n, v in learned.items() if v.grad is not None and v.grad.abs().max() > 0}
    norm = lambda part: rounded(math.sqrt(sum(float(g.norm()) ** 2 for n, g in grads.items() if n.startswith(part))))
    tensors = {
        n: [rounded(g.norm()), rounded((g.flatten() * torch.tensor(fill(f"probe/{n}", g.numel(), 1.0))).sum())] for n, g in grads.items()
    }
    flags = ["--trajectory-weight", weight]
    update = dict(loss=rounded(target + trajectory), trajectory_loss=rounded(trajectory), grad_norm=norm(""))
    update["parts"] = {part: norm(part + ".") for part in ("adapter", "slots")}
    splits = [(3, 1), (1, 3), (2, 2)]
    train = [dict(tag=f"full-{b}x{a}", flags=["--batch-size", b, "--gradient-accumulation-steps", a, *flags], **update) for b, a in splits]
    with torch.no_grad():
        real = [rounded(reference.nll(team, row, learned, row["target"]).mean()) for row in rows]
        greedy = [reference.greedy(team, row, learned, 8) for row in rows]
    return dict(name=name, model=MODEL, adapter=MODEL, scope="shared", team=team, rows=rows, train=train, tensors=tensors, eval=dict(real=real), greedy=greedy, messages=False)


def main():
    reference = Reference()
    cases = []
    for topology in ("sequential", "hierarchical"):
        for placement in ("end", "spread"):
            for transmit in ("all", "latent", "prompt"):
                experts = transmit != "prompt"
                name = f"slots-{topology}-{placement}-{transmit}"
                cases.append(case(reference, name, topology, placement, transmit, (2, 5, 3), experts))
                print(name, cases[-1]["train"][0]["loss"], cases[-1]["train"][0]["parts"])
    path = ROOT / "channels/slots.json"
    path.write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")


if __name__ == "__main__":
    main()

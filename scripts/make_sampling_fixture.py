"""Writes tests/fixtures/sampling.json: what the logits processors of transformers leave of random scores.

    python scripts/make_sampling_fixture.py      # needs torch and transformers

`generate` itself builds the list of processors from the configuration, so the fixture holds their order too.
"""

import itertools
import json
import pathlib

import torch
import transformers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

VOCAB = 24
OUT = pathlib.Path(__file__).parent.parent / "tests/fixtures/sampling.json"


def main():
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCAB, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1))
    settings = [
        dict(temperature=t, top_k=k, top_p=p, min_p=m, repetition_penalty=r)
        for t, (k, p, m), r in itertools.product(
            [0.6, 1.0, 2.5],
            [(0, 1.0, 0.0), (5, 1.0, 0.0), (0, 0.8, 0.0), (0, 1.0, 0.3), (9, 0.9, 0.05), (3, 0.5, 0.9)],
            [1.0, 1.3, 0.8])
    ]
    cases = []
    for config in settings:
        input_ids = torch.randint(VOCAB, (1, 7))
        logits = (torch.randn(1, VOCAB) * 2).round(decimals=3)
        logits[0, 3] = logits[0, 4] = logits[0].topk(5).values[4]  # a tie, where top_k = 5 cuts
        generation = GenerationConfig(do_sample=True, **config)
        model._prepare_special_tokens(generation, device="cpu")
        processors = model._get_logits_processor(generation_config=generation, input_ids_seq_length=7)
        p = processors(input_ids, logits.clone()).softmax(-1)[0]
        cases.append({
            "config": config,
            "input_ids": input_ids[0].tolist(),
            "logits": [round(x, 3) for x in logits[0].tolist()],
            "probabilities": {str(i): round(x, 7) for i, x in enumerate(p.tolist()) if x > 0},
        })
    about = f"transformers {transformers.__version__}, torch {torch.__version__}; scripts/make_sampling_fixture.py"
    lines = ",\n".join(json.dumps(c) for c in cases)
    OUT.write_text(f'{{"about": {json.dumps(about)}, "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()

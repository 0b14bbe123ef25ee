#!/usr/bin/env python3
"""Compares the runs of gpu_suite.sh: gpu_curve.py CUDA AGAIN FLEX, the output folders of one training on CUDA, the same again, and on the CPU."""
import json, pathlib, sys


def losses(folder):
    """The loss of every update, NaN where it is not finite (null in the file)."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [float("nan") if (loss := json.loads(line)["loss"]) is None else loss for line in lines]


def apart(a, b):
    """The largest difference; NaN where there is one."""
    return max((abs(x - y) for x, y in zip(a, b, strict=True)), key=lambda d: (d != d, d))


cuda, again, flex = map(pathlib.Path, sys.argv[1:4])
adapters = [(folder / "adapter/adapter_model.safetensors").read_bytes() for folder in (cuda, again)]
same = "the same bits" if adapters[0] == adapters[1] else "other bits"
a, b, c = map(losses, (cuda, again, flex))
print(f"= {len(a)} updates; cuda twice: {apart(a, b):.1e} apart, adapters of {same}; cuda and flex: {apart(a, c):.1e} apart; "
      f"loss {c[0]:.4f} to {c[-1]:.4f}, cuda to {a[-1]:.4f}")

#!/usr/bin/env python3
"""Runs the program on small inputs from public bug reports and on attacks, where a collection of them is at hand.

Usage: scripts/cases.py PROGRAM [FOLDER]

FOLDER holds `cases/` and `hostile/` with a `check.py` each, which prints a line `NAME: …` for every input that is answered wrongly; without
it, `../shared` beside the repository is looked for. Inputs are copied first, since some commands write beside them. What is wrong must stand
in OPEN with its reason, and what stands there must be wrong: the list stays true. Takes about three minutes.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Refused in a sentence that names the field; the peers take them.
OPEN = {
    "cases": {
        "61": "a GGUF file without its pre-tokenizer: refused, since wrong ids would go unnoticed",
    },
    "hostile": {
        "01": "its check looks for a file that the input itself brings",
    },
}


def wrong(kind, folder, command):
    """Numbers of the inputs that are answered wrongly, and what was said."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / kind
        shutil.copytree(folder / kind, copy)
        run = subprocess.run([sys.executable, copy / "check.py", *command], cwd=copy, capture_output=True, text=True)
    lines = run.stdout.splitlines()
    if not re.match(r"\d+ of \d+ ", lines[-1] if lines else ""):
        sys.exit(f"{kind}: check.py did not end:\n{run.stdout}{run.stderr}")
    print(f"{kind}: {lines[-1]}")
    found = {m[1]: line for line in lines[:-1] if (m := re.match(r"(\d+\w*)-", line))}
    return found


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    program = Path(sys.argv[1]).resolve()
    folder = Path(sys.argv[2]) if len(sys.argv) == 3 else ROOT.parent / "shared"
    if not (folder / "cases/check.py").exists() or not (folder / "hostile/check.py").exists():
        print(f"SKIPPED: there are no cases and attacks in {folder}")
        return
    bad = 0
    for kind, command in [("cases", [program]), ("hostile", [program, ROOT / "assets/tiny-facts"])]:
        found = wrong(kind, folder.resolve(), command)
        for number, line in found.items():
            if number not in OPEN[kind]:
                print(f"WRONG {kind} {line}")
                bad += 1
        for number in OPEN[kind].keys() - found.keys():
            print(f"NOT OPEN ANY MORE {kind} {number}: take it from the list")
            bad += 1
    sys.exit(bad > 0)


main()

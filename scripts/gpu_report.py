#!/usr/bin/env python3
"""What gpu_suite.sh found: gpu_report.py ROWS GPU_CSV LOGS MODULE...

Prints the failed tests of each module with their first panics, then a table of all steps. ROWS holds a file a step: name, exit status, start,
end, note. LOGS holds a log a step. GPU_CSV is what nvidia-smi logged: time, MiB, utilization. Short enough to be read whole in a terminal.
"""
import pathlib, re, sys, time

LINES, WIDTH, ALL, NOTE = 25, 180, 5000, 150


def first_panic(lines):
    """The place and the first line of what the first panic says."""
    for line, message in zip(lines, [*lines[1:], ""]):
        if where := re.search(r"panicked at ([^:]+:\d+)", line):
            return f"{where[1]} {message.strip()}"
    return ""


def failures(log):
    """How many tests passed, and `test: first panic` of each that failed or did not finish."""
    passed, found, test, start, lines = 0, [], None, 0, log.splitlines()

    def failed(how, end):
        # A panic of the backend's own thread comes before those that it causes.
        found.append(f"{test}: {how}{first_panic(lines[start:end]) or 'no message'}"[:WIDTH])

    for i, line in enumerate(lines):
        if begun := re.match(r"test (\S+)(?: - should panic)? \.\.\. ?", line):
            if test:
                failed("no verdict: ", i)
            test, start = begun[1], i
        # The verdict ends the line of the test, or stands alone where the test wrote something.
        if verdict := re.search(r"(?:^|\.\.\. )(ok|ignored|FAILED)$", line):
            passed += verdict[1] == "ok"
            if verdict[1] == "FAILED":
                failed("", i)
            test = None
    if test:
        failed("not finished: ", len(lines))
    return passed, found


def gpu(csv):
    """(time, MiB, utilization) of every line that is whole."""
    for line in csv.read_text().splitlines() if csv.exists() else []:
        fields = [f.strip() for f in line.split(",")]
        try:
            stamp, fraction = fields[0].split(".")
            at = time.mktime(time.strptime(stamp, "%Y/%m/%d %H:%M:%S")) + float(f"0.{fraction}")
            yield at, float(fields[1]), float(fields[2])
        except (ValueError, IndexError):
            continue


rows, csv, logs = map(pathlib.Path, sys.argv[1:4])
out = []
for module in sys.argv[4:]:
    for log in logs.glob(f"*-{module}.log"):
        passed, found = failures(log.read_text(errors="replace"))
        out += [f"-- {module}: {passed} passed, {len(found)} did not", *found[:LINES]]
print("\n".join(out)[:ALL])

samples = list(gpu(csv))
print(f"\n{'step':<14} {'exit':<7} {'s':>6} {'MiB':>6} {'GPU %':>5} {'panics':>6}  note")
for row in sorted(rows.iterdir()):
    name, status, start, end, note = row.read_text().rstrip("\n").split("\t")
    if status == "skipped":
        print(f"{name:<14} skipped")
        continue
    during = [s for s in samples if float(start) <= s[0] <= float(end)]
    memory = max((s[1] for s in during), default=0)
    busy = sum(s[2] for s in during) / max(len(during), 1)
    # A panic of a backend's own thread is only a line in the log: nobody misses the work that it lost.
    log = (logs / f"{row.name}.log").read_text(errors="replace").splitlines()
    panics = sum("panicked at" in line for line in log)
    status = {"0": "ok", "124": "timeout", "137": "timeout"}.get(status, status)
    note = note or first_panic(log) or (log[-1] if log else "")
    print(f"{name:<14} {status:<7} {float(end) - float(start):6.1f} {memory:6.0f} {busy:5.0f} {panics:6}  {note[:NOTE]}")

"""Writes tests/fixtures/parquet/*.parquet: data sets as pyarrow and the Hugging Face hub write them.

    python scripts/make_parquet_fixture.py     # needs pyarrow

`question-*` hold three rows of `question`, `answer` and columns that nobody reads, in each compression; `messages` holds a conversation as a
list of structures, in which a field of some turns is null.
"""

import datetime
import pathlib

import pyarrow
import pyarrow.parquet

OUT = pathlib.Path(__file__).parent.parent / "tests/fixtures/parquet"

ROWS = {
    "id": [7, 8, 9],
    "question": ["ab?", "ba?", "äb?"],
    "answer": ["a", "b", "c"],
    "score": [0.5, float("nan"), None],
    "tags": [["x", "y"], [], None],
    "when": [datetime.datetime(2026, 1, 2, 3, 4, 5)] * 3,
    "choices": [{"label": ["A", "B"], "text": ["a", "b"]}] * 3,
}

MESSAGES = {
    "messages": [
        [
            {"role": "user", "content": "ab?", "name": None},
            {"role": "assistant", "content": "a", "name": None},
        ],
        [
            {"role": "user", "content": "x", "name": "n"},
            {"role": "assistant", "content": "y", "name": None},
            {"role": "user", "content": "ba?", "name": "n"},
            {"role": "assistant", "content": "b", "name": None},
        ],
    ],
}


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for compression in ["none", "snappy", "gzip", "zstd"]:
        table = pyarrow.table(ROWS)
        # Two row groups, as larger files have.
        pyarrow.parquet.write_table(table, OUT / f"question-{compression}.parquet", compression=compression, row_group_size=2)
    pyarrow.parquet.write_table(pyarrow.table(MESSAGES), OUT / "messages.parquet")


if __name__ == "__main__":
    main()

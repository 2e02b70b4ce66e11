"""Write data/ferplus/kaggle_rows.npz from a CSV of Kaggle's file names and rows of fer2013.csv.

    python bench/make_kaggle_rows.py kaggle-rows.csv

The CSV has the columns ``file`` (``Training_3908``; with its folder if two folders have the name)
and ``row`` (counted from 0; -1: FER+ does not have the image). This script skips names with a
folder: ferplus.py lists them.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np

import fer_edge
from fer_edge.data.splits import split_from_prefix


def main() -> None:
    rows = []
    with open(sys.argv[1], encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            name = line["file"]
            if "/" in name:
                continue
            usage = split_from_prefix(name)
            assert usage is not None, name
            rows.append((int(name.partition("_")[2]), int(usage), int(line["row"])))
    number, split, row = (np.array(column, dtype=np.int64) for column in zip(*sorted(rows)))
    out = Path(fer_edge.__file__).with_name("data") / "ferplus" / "kaggle_rows.npz"
    np.savez_compressed(
        out,
        number_steps=np.diff(number, prepend=0).astype(np.uint32),
        split=split.astype(np.uint8),
        row=row.astype(np.int32),
    )
    print(f"{out}: {len(rows):,} names, {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()

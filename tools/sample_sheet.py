"""Draw every class at several budgets with a torch model, from the same noise: what training has learned so far.

Usage: python tools/sample_sheet.py build/training/state.pt sheet.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sample_model import draw, read_average


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state", type=Path)
    parser.add_argument("sheet", type=Path)
    parser.add_argument("--scale", type=float, default=2.5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[3])
    parser.add_argument("--budgets", type=int, nargs="+", default=(1, 2, 4, 8, 16))
    parser.add_argument("--pictures", type=Path, default=Path("build/emoji"))
    args = parser.parse_args()
    model = read_average(args.state, args.pictures)
    draw(model, args.sheet, scale=args.scale, seeds=args.seeds, budgets=args.budgets)


if __name__ == "__main__":
    main()

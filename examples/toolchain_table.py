"""Which toolchain supports which feature of the description? Run all of them, and write the page.

python examples/toolchain_table.py --out docs/toolchains.md         (a few minutes; needs ovonic[all])
python examples/toolchain_table.py --columns snntorch nir           (prints the table of two)
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections import Counter
from pathlib import Path

from ovonic.adapters.files import write_atomically
from ovonic.adapters.toolchains import plugins
from ovonic.validation.support_page import page, table, verdicts
from ovonic.validation.toolchain_support import COLUMNS, Kind, Support


def main() -> int:
    parser = argparse.ArgumentParser(description="The table of what each toolchain supports.")
    parser.add_argument(
        "--columns", nargs="+", choices=(*COLUMNS, *plugins()), default=list(COLUMNS), help="default: all"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the page there instead of printing the table")
    options = parser.parse_args()
    counts: Counter[tuple[str, str]] = Counter()

    def count(column: str, found: Support) -> None:
        counts[column, found.kind] += 1

    found = verdicts(tuple(options.columns), count)
    if options.out:
        write_atomically(options.out, page(found, datetime.date.today()))
    else:
        print(table(found))
    for column in options.columns:
        print(f"{column}: " + ", ".join(f"{counts[column, kind]} {kind}" for kind in Kind), file=sys.stderr)
    return 1 if any(kind is Kind.WRONG for _, kind in counts) else 0


if __name__ == "__main__":
    sys.exit(main())

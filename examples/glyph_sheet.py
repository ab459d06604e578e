"""Draw a sheet of glyphs, beside real Omniglot where its zips are given.

    python examples/glyph_sheet.py docs/glyphs.png [images_background_small1.zip ...]

Left, one alphabet a row, one drawing of each of its first characters; right, a character a row, drawn by its people.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from ovonic.tasks.characters import CharacterSet
from ovonic.tasks.glyphs import glyph_split
from ovonic.tasks.omniglot import load_omniglot

ROWS, COLUMNS, GAP = 8, 14, 3


def tile(images: np.ndarray) -> np.ndarray:
    """Lay images [ROWS, COLUMNS, 28, 28] out on one sheet with grey gaps."""
    framed = np.pad(images.astype(float), ((0, 0), (0, 0), (0, GAP), (0, GAP)), constant_values=52)
    return framed.swapaxes(1, 2).reshape(ROWS * (28 + GAP), COLUMNS * (28 + GAP))


def alphabets_and_drawers(characters: CharacterSet, rng: np.random.Generator) -> list[np.ndarray]:
    """Two sheets: characters by alphabet, and the drawings of a few characters."""
    images, starts = characters.images.numpy(), characters.starts
    names = np.array(characters.alphabets)
    chosen = rng.choice(characters.alphabet_names, ROWS, replace=False)
    across = [images[starts[rng.choice(np.flatnonzero(names == name), COLUMNS, replace=False)]] for name in chosen]
    drawn = [images[start : start + COLUMNS] for start in rng.choice(starts, ROWS, replace=False)]
    return [tile(np.stack(across)), tile(np.stack(drawn))]


def main(target: Path, zips: list[Path]) -> None:
    rng = np.random.default_rng(3)
    sheets = {"Glyphs (generated)": alphabets_and_drawers(glyph_split("test"), rng)}
    if zips:
        sheets["Omniglot (real; Lake et al. 2015)"] = alphabets_and_drawers(load_omniglot(zips), rng)
    figure, axes = plt.subplots(len(sheets), 2, figsize=(12, 3.65 * len(sheets)), squeeze=False, layout="constrained")
    for row, (title, pair) in zip(axes, sheets.items(), strict=True):
        for ax, sheet, what in zip(row, pair, ("alphabets, one a row", "drawers, one character a row"), strict=True):
            ax.imshow(sheet, cmap="gray", vmin=0, vmax=64, interpolation="nearest")
            ax.set_title(f"{title}: {what}", fontsize=10)
            ax.set_axis_off()
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])

"""One example image with the maps of a layer's most selective groups."""

import numpy as np
from matplotlib.figure import Figure

from sgekit.analysis import Example
from sgekit.figures.style import LIGHT, Theme, figure

# Dark to light without a change of hue that colour-blind readers would miss.
_LENGTHS = "cividis"
_GATES = "gray"
# A gate that differs by less over the map is called constant.
FLAT = 1e-3


def gates(example: Example, theme: Theme = LIGHT) -> Figure:
    """The picture, and for each group: vector length before, gate, vector length after.

    Before and after share one scale within a row, so that what the gate dims is seen as dimmer.
    Each gate is drawn from its own smallest to its own largest value, which stand under it; a
    constant one as grey between 0 and 1.
    """
    rows = len(example.maps)
    drawn = figure(4.8, 0.3 + 1.08 * max(rows, 1), theme)
    grid = drawn.add_gridspec(max(rows, 1), 4, width_ratios=(1.5, 1, 1, 1))
    for row, maps in enumerate(example.maps):
        top = float(max(maps.before.max(), maps.after.max(), np.finfo(np.float32).tiny))
        low, high = float(maps.gate.min()), float(maps.gate.max())
        # A constant gate has no smallest and largest worth stretching: show its value instead.
        darkest, lightest = (low, high) if high - low >= FLAT else (0.0, 1.0)
        cells = (
            (maps.before, _LENGTHS, 0.0, top, "before"),
            (maps.gate, _GATES, darkest, lightest, "gate"),
            (maps.after, _LENGTHS, 0.0, top, "after"),
        )
        for column, (values, colours, vmin, vmax, title) in enumerate(cells, start=1):
            axes = drawn.add_subplot(grid[row, column])
            axes.imshow(values, cmap=colours, vmin=vmin, vmax=vmax, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(False)
            if row == 0:
                axes.set_title(title, color=theme.ink, fontsize=10)
            if column == 1:
                axes.set_ylabel(f"group {maps.group}", color=theme.ink, fontsize=9)
            if column == 2:
                axes.set_xlabel(f"{low:.2f} to {high:.2f}", color=theme.muted, fontsize=9)
    axes = drawn.add_subplot(grid[:, 0], anchor="N")
    axes.imshow(np.asarray(example.picture.convert("RGB")), interpolation="nearest")
    axes.set_axis_off()
    axes.set_title("image", color=theme.ink, fontsize=10)
    return drawn

"""How figures look: two themes, colour-blind-safe colours, axes, PNG and SVG.

Built on matplotlib's objects alone: no pyplot, no rcParams, so that a caller's own figures and
settings stay as they are and threads do not meet.
"""

import io
from dataclasses import dataclass

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DPI = 220


@dataclass(frozen=True)
class Theme:
    """Colours of one theme; ``contenders`` after Okabe and Ito, ``baseline`` is neutral."""

    name: str
    background: str
    ink: str
    muted: str
    grid: str
    baseline: str
    contenders: tuple[str, ...]

    def colour(self, index: int) -> str:
        """The colour of the ``index``-th contender, the baseline being 0."""
        if index == 0:
            return self.baseline
        return self.contenders[(index - 1) % len(self.contenders)]


LIGHT = Theme(
    name="light",
    background="#ffffff",
    ink="#1d2430",
    muted="#5b6573",
    grid="#e3e7ec",
    baseline="#6b7280",
    contenders=("#0072b2", "#d55e00", "#009e73", "#aa4499", "#8a6d00", "#332288"),
)
DARK = Theme(
    name="dark",
    background="#171c24",
    ink="#e8ecf2",
    muted="#a3adba",
    grid="#2c3440",
    baseline="#a3adba",
    contenders=("#56b4e9", "#f0883e", "#2fc79a", "#e08fc4", "#f0d34c", "#9d94e8"),
)


def figure(width: float, height: float, theme: Theme) -> Figure:
    """An empty figure, size in inches, with the theme's background and an Agg canvas."""
    drawn = Figure(
        figsize=(width, height),
        dpi=DPI,
        facecolor=theme.background,
        layout="constrained",
    )
    FigureCanvasAgg(drawn)
    return drawn


def style(axes: Axes, theme: Theme, *, grid: str | None = "y") -> None:
    """Quiet axes: a thin frame below, muted ticks, and grid lines along ``grid`` (x, y or none)."""
    axes.set_facecolor(theme.background)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.grid)
    axes.tick_params(colors=theme.muted, length=0, labelsize=10)
    axes.set_axisbelow(True)
    if grid == "x":
        axes.xaxis.grid(True, color=theme.grid, linewidth=0.8)
    elif grid == "y":
        axes.yaxis.grid(True, color=theme.grid, linewidth=0.8)
    for label in (axes.xaxis.label, axes.yaxis.label, axes.title):
        label.set_color(theme.ink)
        label.set_fontsize(10.5)


def note(axes: Axes, text: str, theme: Theme) -> None:
    """Empty axes that say why there is nothing to see."""
    axes.set_axis_off()
    axes.text(
        0.5,
        0.5,
        text,
        ha="center",
        va="center",
        color=theme.muted,
        transform=axes.transAxes,
    )


def tick(value: float, _: object = None) -> str:
    """A number on an axis of differences: signed, and 0 without a sign."""
    return f"{round(value, 6):+g}".replace("-", "−") if abs(value) > 1e-6 else "0"


def png(drawn: Figure) -> bytes:
    """The figure as PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    drawn.savefig(
        buffer,
        format="png",
        facecolor=drawn.get_facecolor(),
        metadata={"Software": None},
    )
    return buffer.getvalue()


def svg(drawn: Figure) -> bytes:
    """The figure as SVG, its text as text; the same bytes for the same figure."""
    buffer = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "sgekit"}):
        drawn.savefig(
            buffer,
            format="svg",
            facecolor=drawn.get_facecolor(),
            metadata={"Date": None, "Creator": None},
        )
    return buffer.getvalue()

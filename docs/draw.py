"""Draw the diagrams of these pages: `.venv/bin/python docs/draw.py`."""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

HERE = Path(__file__).parent
INK, BLUE, ORANGE, PAPER = "#333333", "#0072B2", "#E69F00", "#F6F6F4"
CLICKS = [
    ("Open in Kaggle", "the notebook's badge", "or Copy & Edit"),
    ("Add Input", "Deepfake Detection -", "Faces - Part 0_0   (+)"),
    ("Accelerator", "Settings >", "GPU T4 x2"),
    ("Internet on", "Settings >", "Internet"),
    ("Run All", "and read along", ""),
]


def box(ax: Axes, x: float, y: float, width: float, height: float, lines: list[str]) -> None:
    """A box with a bold first line."""
    frame = plt.Rectangle((x, y), width, height, facecolor=PAPER, edgecolor=INK, lw=1.2)
    ax.add_patch(frame)
    step = height / (len(lines) + 1)
    for row, line in enumerate(lines, 1):
        weight = "bold" if row == 1 else "normal"
        place = (x + width / 2, y + height - row * step)
        ax.text(*place, line, ha="center", va="center", fontsize=10, color=INK, weight=weight)


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], color: str = INK) -> None:
    """An arrow from one place to another."""
    ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": color, "lw": 1.6})


def canvas(width: float, height: float) -> Axes:
    """Axes in inches, without ticks."""
    figure = plt.figure(figsize=(width, height))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height))
    ax.set_axis_off()
    return ax


def save(name: str) -> None:
    """Write the figure beside this file."""
    plt.savefig(HERE / name, dpi=110, facecolor="white")
    plt.close()


def clicks() -> None:
    """The first run in five steps."""
    ax = canvas(11, 1.9)
    for number, (title, *rest) in enumerate(CLICKS):
        x = 0.3 + number * 2.14
        box(ax, x, 0.25, 1.9, 1.2, [title, *rest])
        ax.add_patch(plt.Circle((x + 0.02, 1.48), 0.2, color=BLUE, zorder=3))
        text = {"color": "white", "weight": "bold", "ha": "center", "va": "center", "zorder": 4}
        ax.text(x + 0.02, 1.47, str(number + 1), **text)
        if number:
            arrow(ax, (x - 0.23, 0.85), (x - 0.01, 0.85))
    save("kaggle_clicks.png")


def chain() -> None:
    """The kernels, what they attach, and whose output they read."""
    ax = canvas(11, 3.1)
    names = ["00 extract faces", "01 explore data", "02 augment"]
    names += ["03 train", "04 evaluate", "05 inference"]
    left = {name: 0.15 + number * 1.82 for number, name in enumerate(names)}
    for name, x in left.items():
        box(ax, x, 1.6, 1.55, 0.8, [name])
    middle = {name[:2]: x + 0.775 for name, x in left.items()}
    for source, reader in ("12", "23", "34", "45"):
        arrow(ax, (middle[f"0{source}"] + 0.78, 2.0), (middle[f"0{reader}"] - 0.78, 2.0), BLUE)
    for title, readers, x, width in (
        ("competition: raw videos", ("00", "05"), 0.15, 2.3),
        ("data set: face crops", ("01", "02", "03", "04", "05"), 4.0, 2.4),
    ):
        box(ax, x, 0.2, width, 0.6, [title])
        for reader in readers:
            arrow(ax, (x + width / 2, 0.82), (middle[reader], 1.58), ORANGE)
    ax.text(0.15, 2.75, "blue: reads the output of", color=BLUE, fontsize=10)
    ax.text(3.0, 2.75, "orange: attaches", color="#9A6A00", fontsize=10)
    ax.text(5.0, 2.75, "all attach the data set with utils and wheels", color=INK, fontsize=10)
    save("kaggle_chain.png")


def resume() -> None:
    """Two sessions of 03."""
    ax = canvas(11, 2.0)
    box(ax, 0.2, 0.3, 3.0, 1.3, ["session 1 of 03", "stops after 500 minutes", "RESUME = False"])
    box(ax, 4.2, 0.3, 2.6, 1.3, ["its output", "checkpoint/  model/", "index.csv  augment.json"])
    box(ax, 7.8, 0.3, 3.0, 1.3, ["session 2 of 03", "goes on with the next step", "RESUME = True"])
    arrow(ax, (3.22, 0.95), (4.18, 0.95), BLUE)
    arrow(ax, (6.82, 0.95), (7.78, 0.95), BLUE)
    ax.text(7.3, 1.72, "Add Input > Your Work", ha="center", color=BLUE, fontsize=10)
    save("kaggle_resume.png")


if __name__ == "__main__":
    clicks()
    chain()
    resume()

"""The picture at the top of README.md, cut from the committed grid of one style.

    python docs/picture.py    # reports/atelier/grids/style-monet.png -> docs/pictures/front.png

Four of its eight rows, and of each section the first columns; lethe/report/grids.py has taken those at even steps from
the prompt files, so nobody picks the good ones.
"""

from pathlib import Path

from PIL import Image

from lethe.report.grids import CAPTION, EDGE, GAP, PAPER, SECTION, SMALL

ROOT = Path(__file__).resolve().parents[1]
GRID, PICTURE = ROOT / "reports/atelier/grids/style-monet.png", ROOT / "docs/pictures/front.png"
ROWS = [0, 2, 4, 7]  # base, distill, uce, bilevel
COLUMNS = [3, 3, 2]  # of the style itself, of its neighbours, of others
EACH = 4  # columns of a section in the grid (report.grid_prompts)
TOP, LEFT = 103, 161  # of the first picture


def main() -> None:
    grid = Image.open(GRID).convert("RGB")
    wide, high = SMALL + GAP, SMALL + CAPTION + GAP
    spans = [(0, LEFT)]
    for section, count in enumerate(COLUMNS):
        start = LEFT + section * (EACH * wide - GAP + SECTION)
        spans.append((start, start + count * wide - GAP))
    bands = [(0, TOP), *((TOP + row * high, TOP + (row + 1) * high) for row in ROWS)]
    width = sum(right - left for left, right in spans) + SECTION * (len(COLUMNS) - 1) + EDGE
    front = Image.new("RGB", (width, sum(lower - upper for upper, lower in bands) + EDGE - GAP), PAPER)
    y = 0
    for upper, lower in bands:
        x = 0
        for number, (left, right) in enumerate(spans):
            front.paste(grid.crop((left, upper, right, lower)), (x, y))
            x += right - left + (SECTION if number else 0)
        y += lower - upper
    PICTURE.parent.mkdir(exist_ok=True)
    front.save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()

"""Draw this model's pictures: label maps of imagined facades, in the data set's colours.

    python draw_inputs.py FOLDER

writes FOLDER/inputs (three by hand, to look at) and FOLDER/calibration (twelve at random, seeded,
to measure the ranges of INT8 artifacts on). Nothing here is taken from the data set but its
colour code, so the pictures are free to ship.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw

BACKGROUND, FACADE, WINDOW, DOOR = (0, 0, 221), (0, 51, 255), (0, 136, 255), (0, 204, 255)
CORNICE, SILL, BALCONY = (34, 255, 221), (119, 255, 144), (187, 255, 68)
BLIND, DECORATION, MOLDING = (255, 238, 0), (255, 157, 0), (255, 81, 0)
PILLAR, SHOP = (255, 0, 0), (170, 0, 0)
SIZE = 256


def canvas(
    left: int, top: int, right: int, bottom: int = SIZE
) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Return a sheet of background with the facade's rectangle on it."""
    sheet = Image.new("RGB", (SIZE, SIZE), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((left, top, right, bottom), FACADE)
    return sheet, draw


def window(draw: ImageDraw.ImageDraw, x: int, y: int, width: int, height: int) -> None:
    """Draw a window with a cornice above it and a sill below."""
    draw.rectangle((x - 3, y - 9, x + width + 3, y - 3), CORNICE)
    draw.rectangle((x, y, x + width, y + height), WINDOW)
    draw.rectangle((x - 3, y + height, x + width + 3, y + height + 6), SILL)


def townhouse() -> Image.Image:
    """Return four floors of five windows over a row of shops."""
    sheet, draw = canvas(10, 14, 246)
    draw.rectangle((10, 14, 246, 26), MOLDING)
    for row in range(3):
        for column in range(5):
            window(draw, 24 + column * 45, 44 + row * 50, 24, 32)
    draw.rectangle((10, 186, 246, 194), MOLDING)
    for x in (20, 146):
        draw.rectangle((x, 204, x + 90, 250), SHOP)
    draw.rectangle((116, 206, 140, 256), DOOR)
    return sheet


def villa() -> Image.Image:
    """Return two floors with blinds, a balcony over the door and decorations."""
    sheet, draw = canvas(26, 36, 230)
    draw.rectangle((26, 36, 230, 52), MOLDING)
    for y in (74, 160):
        for x in (48, 180):
            window(draw, x, y, 28, 48)
            draw.rectangle((x - 12, y, x - 1, y + 48), BLIND)
            draw.rectangle((x + 29, y, x + 40, y + 48), BLIND)
    window(draw, 112, 70, 32, 50)
    draw.rectangle((98, 116, 158, 140), BALCONY)
    draw.rectangle((106, 170, 150, 256), DOOR)
    for x in (90, 158):
        draw.rectangle((x, 150, x + 9, 164), DECORATION)
    return sheet


def office() -> Image.Image:
    """Return a tight grid of windows in a facade that fills the picture."""
    sheet, draw = canvas(0, 0, 256)
    for row in range(5):
        draw.rectangle((0, 42 + row * 48, 256, 46 + row * 48), MOLDING)
        for column in range(6):
            draw.rectangle((8 + column * 42, 8 + row * 48, 36 + column * 42, 36 + row * 48), WINDOW)
    draw.rectangle((108, 206, 148, 256), DOOR)
    return sheet


def imagined(seed: int) -> Image.Image:
    """Return a facade of random floors, windows and ornaments.

    Every other one is small on its sheet: where so much is background, values reach further.
    """
    rng = random.Random(seed)  # noqa: S311 - no secret
    small = seed % 2 == 1
    left, top = (
        (rng.randrange(50, 90), rng.randrange(60, 110))
        if small
        else (rng.randrange(0, 40), rng.randrange(0, 50))
    )
    right = SIZE - (rng.randrange(40, 80) if small else rng.randrange(0, 40))
    bottom = SIZE - (rng.randrange(0, 50) if small else 0)
    sheet, draw = canvas(left, top, right, bottom)
    floors, columns = rng.randrange(2, 8), rng.randrange(2, 8)
    row, column = (bottom - top - 30) // floors, (right - left - 10) // columns
    width, height = column * rng.randrange(35, 65) // 100, row * rng.randrange(40, 65) // 100
    ornaments = rng.sample([BLIND, BALCONY, DECORATION, PILLAR, None], 2)
    if rng.random() < 0.8:  # noqa: PLR2004 - most of them
        draw.rectangle((left, top, right, top + rng.randrange(6, 28)), MOLDING)
    for i in range(floors):
        y = top + 26 + i * row
        for j in range(columns):
            x = left + 10 + j * column
            ornament = ornaments[(i + j) % 2]
            window(draw, x, y, width, height)
            if ornament is BLIND:
                draw.rectangle((x - width // 3, y, x - 1, y + height), BLIND)
            elif ornament is PILLAR:
                draw.rectangle((x + width + 4, y - 9, x + width + 7, y + row - 12), PILLAR)
            elif ornament and rng.random() < 0.4:  # noqa: PLR2004 - some windows
                draw.rectangle((x - 5, y + height - 8, x + width + 5, y + height + 8), ornament)
        if rng.random() < 0.5:  # noqa: PLR2004 - every other floor
            draw.rectangle((left, y + row - 10, right, y + row - 5), MOLDING)
    if rng.random() < 0.6:  # noqa: PLR2004 - more than half
        draw.rectangle((left + 8, bottom - 44, right - 8, bottom - 6), SHOP)
    middle = rng.randrange(left + 20, right - 50)
    draw.rectangle((middle, bottom - 56, middle + 30, bottom), DOOR)
    return sheet


def main() -> None:
    """Write the pictures into the folder that the command line names."""
    drawn = {f"inputs/{draw.__name__}": draw() for draw in (townhouse, villa, office)}
    drawn |= {f"calibration/{seed:02d}": imagined(seed) for seed in range(12)}
    for name, picture in drawn.items():
        path = Path(sys.argv[1], f"{name}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, optimize=True)


if __name__ == "__main__":
    main()

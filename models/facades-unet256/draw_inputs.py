"""Draw this model's input pictures: label maps of imagined facades, in the data set's colours.

    python draw_inputs.py FOLDER

Nothing here is taken from the data set but its colour code, so the pictures are free to ship.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw

BACKGROUND, FACADE, WINDOW, DOOR = (0, 0, 221), (0, 51, 255), (0, 136, 255), (0, 204, 255)
CORNICE, SILL, BALCONY = (34, 255, 221), (119, 255, 144), (187, 255, 68)
BLIND, DECORATION, MOLDING = (255, 238, 0), (255, 157, 0), (255, 81, 0)
SHOP = (170, 0, 0)
SIZE = 256


def canvas(left: int, top: int, right: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Return a sheet of background with the facade's rectangle on it."""
    sheet = Image.new("RGB", (SIZE, SIZE), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((left, top, right, SIZE), FACADE)
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


def main() -> None:
    """Write the pictures into the folder that the command line names."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for draw in (townhouse, villa, office):
        draw().save(folder / f"{draw.__name__}.png", optimize=True)


if __name__ == "__main__":
    main()

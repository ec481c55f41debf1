"""Draw this model's pictures: label maps of imagined facades, in the data set's colours.

    python draw_inputs.py FOLDER

writes FOLDER/inputs (three by hand, to look at) and FOLDER/calibration (twelve at random, seeded,
to measure the ranges of INT8 artifacts on). Nothing here is taken from the data set but its
colour code, so the pictures are free to ship.
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]

BACKGROUND, FACADE, WINDOW, DOOR = (0, 0, 221), (0, 51, 255), (0, 136, 255), (0, 204, 255)
CORNICE, SILL, BALCONY = (34, 255, 221), (119, 255, 144), (187, 255, 68)
BLIND, DECORATION, MOLDING = (255, 238, 0), (255, 157, 0), (255, 81, 0)
PILLAR, SHOP = (255, 0, 0), (170, 0, 0)
SIZE = 256

CALIBRATION = (0, 36, 49, 51, 61, 70, 78, 96, 97, 104, 114, 117)
"""The seeds of what is calibrated on: of 120 facades, those that make this model's values reach
furthest together, taken one by one, the next that adds most to the logarithm of all layers' 99.9 %
reaches."""


def canvas(
    left: int, top: int, right: int, bottom: int = SIZE
) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Return a sheet of background with the facade's rectangle on it."""
    sheet = Image.new("RGB", (SIZE, SIZE), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((left, top, right, bottom), FACADE)
    return sheet, draw


def window(
    draw: ImageDraw.ImageDraw,
    x: int,
    y: int,
    width: int,
    height: int,
    above: int = 6,
    below: int = 6,
) -> None:
    """Draw a window with a cornice above it and a sill below, as high as is said."""
    if above:
        draw.rectangle((x - 3, y - above - 3, x + width + 3, y - 3), CORNICE)
    draw.rectangle((x, y, x + width, y + height), WINDOW)
    if below:
        draw.rectangle((x - 3, y + height, x + width + 3, y + height + below), SILL)


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


@dataclass(frozen=True)
class Front:
    """A facade's rectangle on the sheet, and how its floors divide what is between head and foot.

    All in pixels but `floors` and `columns`.
    """

    left: int
    top: int
    right: int
    bottom: int
    head: int
    foot: int
    floors: int
    columns: int

    @property
    def row(self) -> int:
        """The height of a floor."""
        return (self.bottom - self.foot - self.top - self.head) // self.floors

    @property
    def column(self) -> int:
        """The width that each window has for itself."""
        return (self.right - self.left) // self.columns

    def floor(self, i: int) -> int:
        """Return where floor `i` begins, from above."""
        return self.top + self.head + i * self.row


def imagined(seed: int) -> Image.Image:
    """Return a facade of random floors, windows and ornaments.

    One of three fills the sheet, one stands on it, and one is small: where so much is background,
    values reach further. So they do where mouldings and cornices are broad.
    """
    rng = random.Random(seed)  # noqa: S311 - no secret
    least, most, above, below = ((0, 12, 30, 20), (15, 60, 60, 20), (40, 80, 110, 50))[seed % 3]
    front = Front(
        left=rng.randrange(least, most),
        top=rng.randrange(above // 3, above),
        right=SIZE - rng.randrange(least, most),
        bottom=SIZE - rng.randrange(0, below),
        head=rng.choice((0, *range(10, 40))),
        foot=rng.randrange(24, 50),
        floors=rng.randrange(3, 8),
        columns=rng.randrange(3, 9),
    )
    sheet, draw = canvas(front.left, front.top, front.right, front.bottom)
    _draw_head(draw, front, rng)
    pillars = rng.random() < 0.35  # noqa: PLR2004 - a third of them
    for i in range(front.floors):
        _draw_floor(draw, front, i, rng)
        for j in range(front.columns if pillars else 0):
            x = front.left + j * front.column
            draw.rectangle((x - 3, front.floor(i), x + 3, front.floor(i + 1)), PILLAR)
    _draw_foot(draw, front, rng)
    if seed % 3 and rng.random() < 0.6:  # noqa: PLR2004 - more than half of those with room
        _draw_neighbours(draw, front, rng)
    return sheet


def _draw_head(draw: ImageDraw.ImageDraw, front: Front, rng: random.Random) -> None:
    """Draw the moulding under the roof, at times with small windows or ornaments in it."""
    if not front.head:
        return
    draw.rectangle((front.left, front.top, front.right, front.top + front.head), MOLDING)
    if rng.random() < 0.4:  # noqa: PLR2004 - some
        y = front.top + front.head // 3
        for j in range(front.columns):
            x = front.left + j * front.column + front.column // 5
            corners = x, y, x + front.column * 3 // 5, y + front.head // 3
            draw.rectangle(corners, rng.choice((DECORATION, WINDOW)))


def _draw_floor(draw: ImageDraw.ImageDraw, front: Front, i: int, rng: random.Random) -> None:
    """Draw a floor's windows, alike in size, their ornaments, and the moulding beneath them."""
    row, column = front.row, front.column
    width, height = column * rng.randrange(35, 70) // 100, row * rng.randrange(35, 60) // 100
    above = rng.choice((0, height * rng.randrange(15, 70) // 100))
    below = rng.choice((0, height * rng.randrange(10, 35) // 100))
    ornament = rng.choice((BLIND, BALCONY, DECORATION, None, None))
    often = rng.choice((0.2, 0.5, 1.0))
    y = front.floor(i) + row * 3 // 10
    for j in range(front.columns):
        x = front.left + j * column + (column - width) // 2
        window(draw, x, y, width, height, above, below)
        if ornament and rng.random() < often:
            _draw_ornament(draw, ornament, x, y, width, height)
    if rng.random() < 0.3:  # noqa: PLR2004 - every third floor
        first = rng.randrange(front.columns)
        last = rng.randrange(first, front.columns)
        x, end = front.left + first * column + 4, front.left + (last + 1) * column - 4
        draw.rectangle((x, y + height * 2 // 3, end, y + height + 8), BALCONY)
    if rng.random() < 0.6:  # noqa: PLR2004 - more than half of the floors
        thick = row * rng.randrange(8, 30) // 100
        draw.rectangle(
            (front.left, front.floor(i + 1) - thick, front.right, front.floor(i + 1)), MOLDING
        )


def _draw_ornament(
    draw: ImageDraw.ImageDraw, colour: Colour, x: int, y: int, width: int, height: int
) -> None:
    """Draw what a window has beside it (blinds), before it (a balcony) or over it."""
    if colour == BLIND:
        draw.rectangle((x - width // 3, y, x - 1, y + height), colour)
        draw.rectangle((x + width + 1, y, x + width + width // 3, y + height), colour)
    elif colour == BALCONY:
        draw.rectangle((x - width // 5, y + height // 2, x + width * 6 // 5, y + height), colour)
    else:
        draw.rectangle((x + width // 8, y - 8, x + width * 7 // 8, y), colour)


def _draw_foot(draw: ImageDraw.ImageDraw, front: Front, rng: random.Random) -> None:
    """Draw shops, doors and the moulding on which all stands."""
    y = front.bottom - front.foot
    for _ in range(rng.choice((0, 0, 1, 2, 3))):
        x = rng.randrange(front.left, front.right - 30)
        end = min(front.right, x + rng.randrange(20, 160))
        draw.rectangle((x, y + 4, end, front.bottom - 4), SHOP)
    for _ in range(rng.randrange(1, 3)):
        x = rng.randrange(front.left + 4, front.right - 24)
        corners = x, y + rng.randrange(0, 16), x + rng.randrange(14, 28), front.bottom
        draw.rectangle(corners, DOOR)
    if rng.random() < 0.4:  # noqa: PLR2004 - some
        draw.rectangle((front.left, front.bottom - 8, front.right, front.bottom), MOLDING)


def _draw_neighbours(draw: ImageDraw.ImageDraw, front: Front, rng: random.Random) -> None:
    """Draw what is seen of the houses at both sides."""
    row = front.row
    for x in (front.left - rng.randrange(10, 24), front.right + 6):
        for i in range(front.floors):
            y = front.floor(i) + row * 3 // 10
            window(draw, x, y, 8, row * 2 // 5, row // 7, row // 10)
            if rng.random() < 0.3:  # noqa: PLR2004 - some
                colour = rng.choice((BALCONY, DECORATION, PILLAR))
                draw.rectangle((x - 2, y, x + 10, y + row * 2 // 5), colour)


def main() -> None:
    """Write the pictures into the folder that the command line names."""
    drawn = {f"inputs/{draw.__name__}": draw() for draw in (townhouse, villa, office)}
    drawn |= {f"calibration/{i:02d}": imagined(seed) for i, seed in enumerate(CALIBRATION)}
    for name, picture in drawn.items():
        path = Path(sys.argv[1], f"{name}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, optimize=True)


if __name__ == "__main__":
    main()

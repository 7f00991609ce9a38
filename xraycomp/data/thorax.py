"""The anatomy of a thorax phantom: a healthy chest, drawn by arithmetic.

The drawing plane runs from -1 to 1 in x (left to right on the film, so the patient's left is
positive) and in y (head to feet). Densities are film whiteness: 0 is air, 1 is bone on tissue.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Plane = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Thorax:
    """A patient's anatomy on one film, the finding not yet drawn.

    x, y : coordinates of every pixel in the patient's own plane, the pose undone
    density : film whiteness of everything
    chest_wall : the same without what lies inside the lungs (vessels), which a collapsed lung bares
    lung : how much of a pixel is lung, from 0 to 1
    edge : distance in from the lungs' outer wall, in plane units; negative outside
    floor : y of the diaphragm at each x
    """

    x: Plane
    y: Plane
    density: Plane
    chest_wall: Plane
    lung: Plane
    edge: Plane
    floor: Plane


def plane(size: int) -> tuple[Plane, Plane]:
    """Pixel centres on the drawing plane: x of shape (1, size), y of shape (size, 1)."""
    ticks = ((np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1).astype(np.float32)
    return ticks[None, :], ticks[:, None]


def inside(distance: Plane, softness: float) -> Plane:
    """A soft step: 0 where ``distance`` is well below zero, 1 well above it."""
    step: Plane = 0.5 + 0.5 * np.tanh(distance * (2 / softness))
    return step


def turned(x: Plane, y: Plane, angle: float) -> tuple[Plane, Plane]:
    """Coordinates along axes that are turned by ``angle`` radians."""
    c, s = math.cos(angle), math.sin(angle)
    return c * x + s * y, c * y - s * x


def draw_thorax(body: Generator, pose: Generator, size: int) -> Thorax:
    """Draw the healthy chest: ``body`` decides the patient, ``pose`` how this film shows them."""
    u, v = plane(size)
    zoom = pose.uniform(0.96, 1.16)
    u, v = (u - pose.uniform(-0.07, 0.07)) / zoom, (v - pose.uniform(-0.06, 0.06)) / zoom
    x, y = turned(u, v, math.radians(pose.normal(0, 2.5)))
    x, y = x / body.uniform(0.92, 1.06), y / body.uniform(0.92, 1.06)
    side = np.abs(x)

    # Breath sets the diaphragm, and the patient's right dome (x < 0) stands a little higher.
    breath = pose.uniform(-0.06, 0.08)
    high = body.uniform(0.02, 0.09)
    dome = (side - 0.42) / 0.42
    floor = 0.56 + breath + high * np.tanh(6 * x) / 2 + body.uniform(0.14, 0.24) * dome**2

    width, squareness = body.uniform(0.33, 0.38), body.uniform(2.2, 2.8)
    upper = (np.abs(side - 0.43) / width) ** squareness
    reach = (np.abs(y - 0.12) / body.uniform(0.84, 0.92)) ** squareness
    edge = (1 - (upper + reach) ** (1 / squareness)) * width
    lung = inside(edge, 0.05) * inside(floor - y, 0.04)

    flesh = draw_flesh(x, y, body)
    bones = draw_bones(x, y, edge, body)
    heart = draw_heart(x, y, body, breath)
    lung *= 1 - heart
    chest_wall = flesh - body.uniform(0.33, 0.42) * lung + bones
    vessels = draw_vessels(x, y, body) * lung
    return Thorax(x, y, chest_wall + vessels, chest_wall, lung, edge, floor)


def draw_flesh(x: Plane, y: Plane, body: Generator) -> Plane:
    """Neck, shoulders and trunk, denser towards the abdomen, with the breasts' soft shadow."""
    slope = inside(y + body.uniform(0.72, 0.8), 0.35)
    outline = 0.24 + body.uniform(0.7, 0.86) * slope - 0.08 * inside(y - 0.1, 1.2)
    trunk = inside(outline - np.abs(x), 0.07)
    abdomen = 0.12 * inside(y - 0.6, 0.4)
    breast = ((np.abs(x) - 0.45) / 0.34) ** 2 + ((y - body.uniform(0.28, 0.42)) / 0.3) ** 2
    shadow = body.uniform(0.0, 0.09) * inside(1 - breast, 0.8)
    return trunk * (body.uniform(0.52, 0.6) + abdomen + shadow)


def draw_bones(x: Plane, y: Plane, edge: Plane, body: Generator) -> Plane:
    """Ribs, spine, collar bones and the inner borders of the shoulder blades."""
    side = np.abs(x)
    spacing, strength = body.uniform(0.165, 0.2), body.uniform(0.06, 0.13)
    # Back ribs fall gently outwards and front ribs steeply inwards; each set is one periodic wave.
    back = (y - 0.9 * (side - 0.28) ** 2 + 0.12 * side) / spacing + body.uniform(0, 1)
    front = (y + 0.55 * side + 0.5 * (side - 0.6) ** 2) / (1.15 * spacing) + body.uniform(0, 1)
    cage = inside(edge + 0.05, 0.06) * inside(0.72 - y, 0.15)
    ribs = 0.75 * rim(back, 0.24) + 0.4 * rim(front, 0.26) * inside(side - 0.3, 0.15)

    column = inside(0.085 - side, 0.04)
    discs = 0.75 + 0.25 * np.cos(2 * np.pi * y / body.uniform(0.13, 0.16))
    spine = body.uniform(0.1, 0.2) * column * discs

    bar = y + body.uniform(0.6, 0.68) + body.uniform(0.1, 0.25) * (side - 0.3)
    collar = inside(0.032 - np.abs(bar), 0.03) * inside(side - 0.1, 0.06) * inside(0.68 - side, 0.1)
    blade = inside(side - 0.62 - 0.14 * y + body.uniform(-0.05, 0.1), 0.03)
    blade *= inside(0.35 - np.abs(y + 0.35), 0.2)
    bones: Plane = strength * ribs * cage + spine + 0.13 * collar
    return bones + body.uniform(0.02, 0.06) * blade


def rim(phase: Plane, half_width: float) -> Plane:
    """Bands at whole numbers of ``phase``, brighter at their borders as hollow bones are."""
    away = np.abs(phase - np.round(phase))
    border = np.exp(-(((away - 0.8 * half_width) / (0.3 * half_width)) ** 2))
    band: Plane = 0.6 * inside(half_width - away, 0.12) + 0.4 * border
    return band


def draw_heart(x: Plane, y: Plane, body: Generator, breath: float) -> Plane:
    """The heart with the vessels above it: 1 where they hide the lung, 0 elsewhere."""
    tilt, width = body.uniform(0.4, 0.7), body.uniform(0.31, 0.41)
    across, along = turned(x - 0.15, y - 0.33 - 0.6 * breath, tilt)
    heart = inside(1 - np.hypot(across / width, along / 0.29), 0.15)
    band = inside(body.uniform(0.11, 0.15) - np.abs(x - 0.02) + 0.03 * np.cos(6 * y), 0.06)
    knob = inside(1 - np.hypot((x - 0.12) / 0.09, (y + 0.25) / 0.1), 0.4)
    return 1 - (1 - heart) * (1 - band) * (1 - knob)


def draw_vessels(x: Plane, y: Plane, body: Generator) -> Plane:
    """Branches that fan out of each root and fade, and a few vessels seen end on, as small discs.

    The discs are what makes a small nodule hard to call.
    """
    side = np.abs(x) - 0.17
    down = y - body.uniform(-0.02, 0.08)
    radius = np.hypot(side, down) + 0.02
    bearing = np.arctan2(down, side) + (x > 0) * 0.4  # so that the two lungs are no mirror images
    bend = body.uniform(-0.6, 0.6)
    # Bearings are folded onto one branch and its spacing: nine branches for the price of one.
    turn = (bearing + bend * radius) / body.uniform(0.34, 0.42) + body.uniform(0, 1)
    away = (turn - np.round(turn)) * radius * 0.38
    branches = np.exp(-((away / 0.016) ** 2))
    root = 0.08 * np.exp(-((radius / 0.12) ** 2))
    vessels: Plane = 0.14 * branches * np.exp(-radius / 0.3) + root
    for _ in range(3):
        across = x - either_side(body) * body.uniform(0.22, 0.42)
        disc = 1 - np.hypot(across, y - body.uniform(-0.2, 0.3)) / body.uniform(0.015, 0.028)
        vessels += body.uniform(0.04, 0.09) * inside(disc, 0.8)
    return vessels


def either_side(rng: Generator) -> float:
    """The sign of x in the patient's right lung (-1) or left lung (+1), equally often."""
    return math.copysign(1.0, rng.uniform(-1, 1))

"""The look of each norm's lines: one color, dash and marker per norm, the same in every figure.

Colors are those of Okabe & Ito's color-blind safe palette (https://jfly.uni-koeln.de/color/), less its black and its
yellow, which vanish on a dark or a white page, plus four that stay apart from them in lightness. Thirty norms cannot
have thirty colors that everyone can tell apart, so dash and marker always say it too.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

Dash = tuple[float, ...]

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY = "#E69F00", "#56B4E9"
WINE, OLIVE, INDIGO, GRAY = "#882255", "#8A8A1F", "#6A51C4", "#7A7A7A"
COLORS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, WINE, OLIVE, INDIGO, GRAY)

ON_DARK: Mapping[str, str] = MappingProxyType(
    {BLUE: "#3D9BD6", VERMILLION: "#F07A2B", GREEN: "#1FBF94", WINE: "#CC5C93", OLIVE: "#B5B54A", INDIGO: "#9A86EA"}
)
"""The colors that a dark page would swallow, each with its replacement there."""

SOLID: Dash = ()
DASHED: Dash = (5, 1.6)
DOTTED: Dash = (1.2, 1.4)
DASH_DOT: Dash = (6, 1.5, 1.2, 1.5)
LONG_DASHED: Dash = (9, 2)
DASH_DOT_DOT: Dash = (6, 1.5, 1.2, 1.5, 1.2, 1.5)
DASHES = (SOLID, DASHED, DASH_DOT, DOTTED, LONG_DASHED, DASH_DOT_DOT)

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")


@dataclass(frozen=True)
class Style:
    """A line's look. `dash` is on, off, ... in line widths; empty for a solid line."""

    color: str
    dash: Dash
    marker: str


STYLES: Mapping[str, Style] = MappingProxyType(
    {
        "bn": Style(BLUE, SOLID, "o"),
        "ln": Style(VERMILLION, DASHED, "s"),
        "in": Style(GREEN, DOTTED, "^"),
        "gn": Style(PURPLE, DASH_DOT, "D"),
        "none": Style(GRAY, SOLID, "X"),
        "bn_nostats": Style(SKY, LONG_DASHED, "o"),
        "ghost_bn": Style(SKY, SOLID, "v"),
        "brn": Style(ORANGE, SOLID, "P"),
        "frozen_bn": Style(GRAY, DASHED, "o"),
        "custom_bn": Style(OLIVE, DASHED, "o"),
        "ln_chw": Style(VERMILLION, SOLID, "p"),
        "ln2d": Style(VERMILLION, DASH_DOT, "h"),
        "rms2d": Style(WINE, SOLID, "s"),
        "pono": Style(WINE, DASHED, "p"),
        "group_rms": Style(PURPLE, SOLID, "<"),
        "sn": Style(OLIVE, SOLID, ">"),
        "bin": Style(OLIVE, DASH_DOT, "^"),
        "ibn": Style(GREEN, SOLID, "h"),
        "bcn": Style(GREEN, LONG_DASHED, "P"),
        "frn": Style(WINE, LONG_DASHED, "*"),
        "evonorm_b0": Style(INDIGO, DASHED, "v"),
        "evonorm_b1": Style(INDIGO, DASH_DOT, "<"),
        "evonorm_b2": Style(INDIGO, DOTTED, ">"),
        "evonorm_s0": Style(INDIGO, SOLID, "*"),
        "evonorm_s1": Style(INDIGO, LONG_DASHED, "p"),
        "evonorm_s2": Style(INDIGO, DASH_DOT_DOT, "h"),
        "dyt": Style(ORANGE, DASHED, "D"),
        "derf": Style(GREEN, DASH_DOT, "s"),
        "lrn": Style(GRAY, DASH_DOT, "P"),
        "gn+ws": Style(OLIVE, DASH_DOT_DOT, "D"),
        "bn+ws": Style(BLUE, LONG_DASHED, "P"),
        "ln+ws": Style(VERMILLION, DASH_DOT_DOT, "X"),
        "in+ws": Style(GREEN, DASH_DOT_DOT, "v"),
        "gn+sws": Style(SKY, DASH_DOT, "D"),
        "bn+sws": Style(BLUE, DASH_DOT, "h"),
        "none+ws": Style(GRAY, DOTTED, "*"),
        "none+sws": Style(GRAY, LONG_DASHED, "<"),
    }
)


def style(norm: str) -> Style:
    """Return the style of a norm's key; for one that is not in the table, always the same, derived from its name."""
    if norm in STYLES:
        return STYLES[norm]
    taken = set(STYLES.values())
    number = zlib.crc32(norm.encode())
    while True:
        candidate = Style(
            COLORS[number % len(COLORS)],
            DASHES[number // len(COLORS) % len(DASHES)],
            MARKERS[number // (len(COLORS) * len(DASHES)) % len(MARKERS)],
        )
        if candidate not in taken:
            return candidate
        number += 1


def styles(lines: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Style]:
    """Return a style per ``(norm key, label)``.

    The first line of a norm gets the norm's own style; variants of it (other options) keep its color and get another
    dash and marker.
    """
    chosen: dict[tuple[str, str], Style] = {}
    num_of_norm: dict[str, int] = {}
    for line in lines:
        if line in chosen:
            continue
        variant = num_of_norm.get(line[0], 0)
        num_of_norm[line[0]] = variant + 1
        base = style(line[0])
        chosen[line] = replace(
            base,
            dash=DASHES[(DASHES.index(base.dash) + variant) % len(DASHES)],
            marker=MARKERS[(MARKERS.index(base.marker) + variant) % len(MARKERS)],
        )
    return chosen

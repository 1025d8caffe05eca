#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Draws the JSON of bench/run (ratios per workload) or of bench/scale (figures over n) as SVG.

usage: plot.py RESULTS.json OUT.svg [--mode root|rootless]
"""

import argparse
import json
import math
import sys
from xml.sax.saxutils import escape

FONT = "font-family='system-ui,Helvetica,Arial,sans-serif'"
INK, FAINT, GRID = "#1f2328", "#59636e", "#d8dee4"
COLOURS = ["#0969da", "#e07b39", "#8250df", "#1a7f37", "#cf222e", "#57606a"]


class Svg:
    def __init__(self, width, height):
        self.width, self.height, self.parts = width, height, []

    def rect(self, x, y, w, h, fill, extra=""):
        self.parts.append("<rect x='%.1f' y='%.1f' width='%.1f' height='%.1f' fill='%s' %s/>" % (x, y, w, h, fill, extra))

    def line(self, x1, y1, x2, y2, colour=GRID, width=1.0, extra=""):
        self.parts.append("<line x1='%.1f' y1='%.1f' x2='%.1f' y2='%.1f' stroke='%s' stroke-width='%.1f' %s/>" % (
            x1, y1, x2, y2, colour, width, extra))

    def text(self, x, y, text, size=12, colour=INK, anchor="start", extra=""):
        self.parts.append("<text x='%.1f' y='%.1f' font-size='%g' fill='%s' text-anchor='%s' %s>%s</text>" % (
            x, y, size, colour, anchor, extra, escape(text)))

    def path(self, points, colour, width=2.0):
        self.parts.append("<polyline points='%s' fill='none' stroke='%s' stroke-width='%.1f' stroke-linejoin='round'/>" % (
            " ".join("%.1f,%.1f" % p for p in points), colour, width))

    def dot(self, x, y, r, colour):
        self.parts.append("<circle cx='%.1f' cy='%.1f' r='%.1f' fill='%s'/>" % (x, y, r, colour))

    def save(self, path):
        with open(path, "w") as f:
            f.write("<svg xmlns='http://www.w3.org/2000/svg' width='%d' height='%d' viewBox='0 0 %d %d' %s>\n"
                    "<rect width='100%%' height='100%%' fill='white'/>\n%s\n</svg>\n" % (
                        self.width, self.height, self.width, self.height, FONT, "\n".join(self.parts)))


class Log:
    """A logarithmic axis from LOW to HIGH on pixels A to B."""

    def __init__(self, low, high, a, b):
        self.low, self.high, self.a, self.b = low, high, a, b

    def __call__(self, v):
        v = min(max(v, self.low), self.high)
        return self.a + (self.b - self.a) * math.log(v / self.low) / math.log(self.high / self.low)


# ---- ratios per workload ----

LABELS, ROW, PLOT_WIDTH, VALUES = 270, 24, 560, 52
TOP, BOTTOM = 92, 44


def ratio(cells, side, key="seconds"):
    cell, kernel = cells.get(side, {}), cells.get("kernel", {})
    if key not in cell or not kernel.get("seconds"):
        return None
    return cell[key] / cell["count"] / (kernel["seconds"] / kernel["count"])


def bar(svg, x, y, height, cells, side, colour):
    r = ratio(cells, side)
    if r is None:
        return
    a, b = sorted((x(1), x(r)))
    svg.rect(a, y, max(b - a, 1.5), height, colour)
    low, high = ratio(cells, side, "min"), ratio(cells, side, "max")
    if low and high and high > low * 1.02:
        svg.line(x(low), y + height / 2, x(high), y + height / 2, INK, 1, "opacity='0.6'")


def value_text(cells, side):
    r = ratio(cells, side)
    if r is None:
        return "failed" if "error" in cells.get(side, {}) else "–"
    return "%.2f" % r if r < 10 else "%.0f" % r


def plot_ratios(data, mode, out):
    mode = mode if mode in data["modes"] else next(iter(data["modes"]))
    works = [w for w in data["modes"][mode].values() if ratio(w["cells"], "ours") is not None]
    sides = ["ours"] + [s for s in dict.fromkeys(s for w in works for s in w["cells"]) if s not in ("ours", "native", "kernel")]
    values = [v for w in works for s in sides for v in (ratio(w["cells"], s, "min"), ratio(w["cells"], s, "max")) if v]
    high = max(12, min(max(values, default=1) * 1.5, 100))
    low = min(0.4, max(min(values, default=1) / 1.5, 0.05))
    svg = Svg(LABELS + PLOT_WIDTH + 20 + VALUES * len(sides), TOP + ROW * len(works) + BOTTOM)
    x = Log(low, high, LABELS + 6, LABELS + PLOT_WIDTH)
    svg.text(12, 26, "Time as a ratio to kernel overlayfs, %s" % ("as root" if mode == "root" else "in a user namespace"), 17,
             extra="font-weight='600'")
    spread = "" if data["reps"] == 1 or data["best"] else " The thin line is from the least to the most of %d." % data["reps"]
    svg.text(12, 46, "1 is as fast as kernel overlayfs, 2 takes twice as long. The scale is logarithmic." + spread, 11, FAINT)
    at = 12
    for side, colour in zip(sides, COLOURS):
        name = "fuse-overlay" if side == "ours" else data["versions"].get(side, side).replace(" version", "").replace(":", "")
        svg.rect(at, 59, 11, 11, colour)
        svg.text(at + 16, 69, name, 12)
        at += 36 + 7 * len(name)
    svg.rect(at + 5, 58, 3, 13, INK)
    svg.text(at + 16, 69, "goal", 12)
    end = TOP + ROW * len(works)
    for v in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100):
        if low <= v <= high:
            svg.line(x(v), TOP - 6, x(v), end, FAINT if v == 1 else GRID, 1.5 if v == 1 else 1)
            svg.text(x(v), end + 16, "%g" % v, 11, FAINT, "middle")
    svg.text(x(1), end + 33, "kernel overlayfs", 11, FAINT, "middle")
    height = (ROW - 8) / len(sides)
    for n, w in enumerate(works):
        y = TOP + n * ROW
        if n % 2:
            svg.parts.insert(0, "<rect x='0' y='%d' width='%d' height='%d' fill='#f6f8fa'/>" % (y, svg.width, ROW))
        svg.text(LABELS - 6, y + ROW / 2 + 4, w["title"], 12, anchor="end")
        for k, (side, colour) in enumerate(zip(sides, COLOURS)):
            bar(svg, x, y + 4 + k * height, height - 1, w["cells"], side, colour)
            svg.text(LABELS + PLOT_WIDTH + 12 + VALUES * (k + 1), y + ROW / 2 + 4, value_text(w["cells"], side), 12, colour, "end")
        if w["target"]:
            svg.rect(x(w["target"]) - 1.5, y + 2, 3, ROW - 4, INK, "stroke='white' stroke-width='1' paint-order='stroke'")
    svg.save(out)


# ---- figures over n ----

PANEL_W, PANEL_H, COLUMNS = 420, 250, 2


def short(v):
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if v >= limit:
            return "%g%s" % (round(v / limit, 2), letter)
    return "%g" % v


def unit_text(v, unit):
    if unit == "s":
        for limit, name in ((1e-6, "ns"), (1e-3, "µs"), (1, "ms")):
            if v < limit:
                return "%g %s" % (round(v / limit * 1000, 2), name)
        return "%g s" % v
    return "%g MiB" % round(v, 2) if unit == "KiB" else short(v)


def decades(low, high):
    a, b = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    return 10.0 ** a, 10.0 ** max(b, a + 1)


def panel(svg, left, top, p):
    """A log-log diagram; a straight rise of one decade a decade is what grows with n."""
    divide = 1024 if p["unit"] == "KiB" else 1
    all_series = {name: [(n, v / divide) for n, v in s if v > 0] for name, s in p["series"].items()}
    points = [pt for s in all_series.values() for pt in s]
    a, b = left + 66, left + PANEL_W - 20
    svg.text(left + 12, top + 20, p["title"], 13, extra="font-weight='600'")
    if not points:
        return
    base = top + PANEL_H - 62
    xs = sorted({n for n, _ in points})
    x = Log(xs[0], max(xs[-1], xs[0] * 1.01), a, b)
    low, high = decades(min(v for _, v in points), max(v for _, v in points))
    y = Log(low, high, base, top + 34)
    v = low
    while v <= high * 1.01:
        svg.line(a, y(v), b, y(v))
        svg.text(a - 6, y(v) + 4, unit_text(v, p["unit"]), 10, FAINT, "end")
        v *= 10
    for n in xs:
        svg.line(x(n), base, x(n), base + 4, FAINT)
        svg.text(x(n), base + 16, short(n), 10, FAINT, "middle")
    svg.text((a + b) / 2, base + 30, p["n"], 10, FAINT, "middle")
    at = a
    for (name, series), colour in zip(all_series.items(), COLOURS):
        good = [(x(n), y(v)) for n, v in series]
        svg.path(good, colour)
        for pt in good:
            svg.dot(*pt, 3, colour)
        svg.rect(at, base + 38, 9, 9, colour)
        svg.text(at + 13, base + 46.5, name, 10.5)
        at += 24 + 6 * len(name)


def plot_scale(data, out):
    panels = data["panels"]
    rows = (len(panels) + COLUMNS - 1) // COLUMNS
    svg = Svg(PANEL_W * COLUMNS, PANEL_H * rows + 12)
    for n, p in enumerate(panels):
        panel(svg, n % COLUMNS * PANEL_W, n // COLUMNS * PANEL_H, p)
    svg.save(out)


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("results", help="what bench/run --json or bench/scale --json wrote")
    ap.add_argument("out", help="the SVG to write")
    ap.add_argument("--mode", help="root or rootless, if that was measured; else the first that was")
    args = ap.parse_args()
    with open(args.results) as f:
        data = json.load(f)
    if "panels" in data:
        plot_scale(data, args.out)
    else:
        plot_ratios(data, args.mode, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

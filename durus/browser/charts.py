"""Plots of a database, as SVG: its size over time, and its largest classes."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from durus.browser import svg
from durus.browser.timeline import Point
from durus.browser.values import class_title

STYLE = """
.plot { --ink: #1c2430; --faint: #5d6b7c; --rule: #d5dbe3; --first: #2563a8; --second: #c2590c; --paper: #fff;
  font: 13px system-ui, sans-serif; }
.plot text { fill: var(--ink); } .plot .faint { fill: var(--faint); } .plot .end { text-anchor: end; }
.plot .middle { text-anchor: middle; } .plot .rule { stroke: var(--rule); fill: none; }
.plot .first { stroke: var(--first); } .plot .second { stroke: var(--second); stroke-dasharray: 5 3; }
.plot .line { fill: none; stroke-width: 2; } .plot .paper { fill: var(--paper); } .plot .bar { fill: var(--first); }
.plot .track { fill: var(--rule); }
@media (prefers-color-scheme: dark) {
  .plot { --ink: #e6eaf0; --faint: #9eabbb; --rule: #3a4553; --first: #74b0f4; --second: #f0a163; --paper: #12171e; }
}
"""
"""How plots look, and graphs too."""

_WIDTH = 480
_HEIGHT = 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 34, 32
_ROW = 38
_MAX_CLASSES = 12


def size_text(size: float) -> str:
    """Return a number of bytes as people read it."""
    if size < 1000:
        return f"{size:.0f} bytes" if size != 1 else "1 byte"
    units = ["TB", "GB", "MB", "kB"]
    while (size := size / 1000) >= 999.5 and len(units) > 1:
        units.pop()
    return f"{size:.3g} {units[-1]}"


def over_time(points: Sequence[Point]) -> svg.Picture:
    """Return the plot of a file's size, and of what newer records have replaced in it."""
    times = [point.time for point in points if point.time is not None]
    has_times = bool(times) and len(times) == len(points) and times[0] < times[-1]
    places = times if has_times else [float(point.number) for point in points]
    top = max(point.size for point in points)
    first, last = min(places), max(places)

    def x(place: float) -> float:
        return _LEFT + (place - first) / ((last - first) or 1) * (_WIDTH - _LEFT - _RIGHT)

    def y(size: float) -> float:
        return _HEIGHT - _BOTTOM - size / top * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for size in (0, top / 2, top):
        parts.append(svg.tag("path", class_="rule", d=f"M{_LEFT} {y(size):.1f}H{_WIDTH - _RIGHT}"))
        parts.append(svg.text(size_text(size), _LEFT - 8, y(size) + 4, class_="faint end"))
    start, end = (_time_text(first), _time_text(last)) if has_times else (f"commit {first:.0f}", f"commit {last:.0f}")
    parts.append(svg.text(start, _LEFT, _HEIGHT - 10, class_="faint"))
    parts.append(svg.text(end, _WIDTH - _RIGHT, _HEIGHT - 10, class_="faint end"))
    parts.append(_line("first", ((x(place), y(point.size)) for place, point in zip(places, points, strict=True))))
    parts.append(_line("second", ((x(place), y(point.replaced)) for place, point in zip(places, points, strict=True))))
    parts += _legend("first", _LEFT, "size of the file") + _legend("second", _LEFT + 150, "replaced by newer states")
    label = (
        f"From {start} to {end} the file has grown to {size_text(points[-1].size)}, "
        f"of which {size_text(points[-1].replaced)} were replaced by newer states."
    )
    return svg.Picture(label, _WIDTH, _HEIGHT, parts, "plot")


def of_classes(sizes: Iterable[tuple[str, int]]) -> svg.Picture:
    """Return the plot of the largest of some classes; `sizes` has the bytes of each."""
    largest = sorted(sizes, key=lambda pair: (-pair[1], pair[0]))
    rest = sum(size for _, size in largest[_MAX_CLASSES:])
    rows = [(class_title(name), size) for name, size in largest[:_MAX_CLASSES]]
    if rest:
        rows.append((f"{len(largest) - _MAX_CLASSES} other classes", rest))
    most = max((size for _, size in rows), default=1)
    parts = []
    for number, (name, size) in enumerate(rows):
        y = number * _ROW + 16
        parts.append(svg.text(name if len(name) <= 48 else f"{name[:47]}…", 0, y))
        parts.append(svg.text(size_text(size), _WIDTH, y, class_="faint end"))
        parts.append(svg.tag("rect", class_="track", x=0, y=y + 6, width=_WIDTH, height=8, rx=4))
        parts.append(svg.tag("rect", class_="bar", x=0, y=y + 6, width=max(2, _WIDTH * size / most), height=8, rx=4))
    listed = ", ".join(f"{name} {size_text(size)}" for name, size in rows)
    return svg.Picture(f"Bytes by class: {listed}", _WIDTH, max(1, len(rows)) * _ROW, parts, "plot")


def standalone(title: str, plots: Sequence[svg.Picture]) -> str:
    """Return a file with a title and plots, one below the other."""
    parts = [svg.tag("style", STYLE), svg.tag("rect", class_="paper", width="100%", height="100%")]
    parts.append(svg.text(title, 20, 32))
    bottom = 50
    for plot in plots:
        parts.append(plot.svg(x=20, y=bottom, width=plot.width, height=plot.height))
        bottom += plot.height + 24
    width = _WIDTH + 40
    return svg.picture(title, width, bottom, *parts, class_="plot", width=width, height=bottom) + "\n"


def _line(name: str, points: Iterable[tuple[float, float]]) -> str:
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return svg.tag("path", class_=f"line {name}", d=f"M{path}h.1")


def _legend(name: str, x: int, content: str) -> list[str]:
    line = svg.tag("path", class_=f"line {name}", d=f"M{x} 14h24")
    return [line, svg.text(content, x + 30, 18)]


def _time_text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")

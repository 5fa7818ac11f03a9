"""The equity curve as an SVG picture."""

from collections.abc import Sequence
from decimal import Decimal
from html import escape
from typing import Final

from manager.trading.report import EquityPoint

_WIDTH: Final = 900
_HEIGHT: Final = 320
_LEFT: Final = 90
_RIGHT: Final = 20
_TOP: Final = 40
_BOTTOM: Final = 40
#: A picture has no room for more columns of points; each has its lowest and highest value.
_COLUMNS: Final = 780


def equity_svg(points: Sequence[EquityPoint], title: str) -> str:
    """Return the equity curve as an SVG document.

    The axes carry the first and last time, and the lowest and highest equity. With less than two points
    there is a text instead of a curve.
    """
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text(_LEFT, 24, title, size=15),
    ]
    if len(points) < 2:
        lines.append(_text(_LEFT, _HEIGHT // 2, "no equity curve: less than two points"))
    else:
        lines += _curve(points)
    return "\n".join([*lines, "</svg>", ""])


def _curve(points: Sequence[EquityPoint]) -> list[str]:
    first, last = points[0].at, points[-1].at
    lowest = min(point.equity for point in points)
    highest = max(point.equity for point in points)
    duration = (last - first).total_seconds() or 1.0
    height = float(highest - lowest) or 1.0
    inner_width, inner_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    places = [
        (
            _LEFT + inner_width * (point.at - first).total_seconds() / duration,
            _TOP + inner_height * float(highest - point.equity) / height,
        )
        for point in _thinned(points)
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    base = _HEIGHT - _BOTTOM
    return [
        f'<path d="M{_LEFT},{_TOP} V{base} H{_WIDTH - _RIGHT}" fill="none" stroke="#888"/>',
        f'<polyline points="{path}" fill="none" stroke="#1f5fa8" stroke-width="1.5"/>',
        _text(_LEFT - 8, _TOP + 4, _money(highest), anchor="end"),
        _text(_LEFT - 8, base, _money(lowest), anchor="end"),
        _text(_LEFT, base + 20, f"{first:%Y-%m-%d %H:%M}"),
        _text(_WIDTH - _RIGHT, base + 20, f"{last:%Y-%m-%d %H:%M} UTC", anchor="end"),
    ]


def _thinned(points: Sequence[EquityPoint]) -> list[EquityPoint]:
    """Return the points, or each column's extremes if there are too many."""
    if len(points) <= 2 * _COLUMNS:
        return list(points)
    kept: list[EquityPoint] = [points[0]]
    for column in range(_COLUMNS):
        part = points[column * len(points) // _COLUMNS : (column + 1) * len(points) // _COLUMNS]
        ends = {id(p): p for p in (min(part, key=_equity), max(part, key=_equity))}
        kept += sorted(ends.values(), key=lambda point: point.at)
    return [*kept, points[-1]]


def _equity(point: EquityPoint) -> Decimal:
    return point.equity


def _money(value: Decimal) -> str:
    return f"{value:,.2f}"


def _text(x: int, y: int, text: str, *, anchor: str = "start", size: int = 12) -> str:
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}" fill="#333">{escape(text)}</text>'
    )

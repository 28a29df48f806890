"""Numbers as people read them; plain ASCII, so that every terminal can show them."""

from __future__ import annotations

import math

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(value: float) -> str:
    """A whole number with separators: ``40,813,184``."""
    return f"{value:,.0f}" if math.isfinite(value) else str(value)


def short(value: float) -> str:
    """Three digits and a prefix: ``40.8 M``; ``k`` is 1,000."""
    for scale, prefix in _PREFIXES:
        if abs(value) >= 0.9995 * scale:
            return f"{_three(value / scale)} {prefix}"
    return _three(value)


def size(num_bytes: float) -> str:
    """Bytes with a prefix: ``271 kB``; kB is 1,000 bytes."""
    text = short(num_bytes)
    return f"{text}B" if text[-1].isalpha() else f"{text} B"


def percent(value: float, digits: int = 2) -> str:
    """A number that is in percent already: ``91.73 %``."""
    return f"{value:.{digits}f} %"


def share(new: float, original: float) -> str:
    """``new`` as a share of ``original``: ``49.9 %``; a dash where there is no original."""
    return f"{100.0 * new / original:.1f} %" if original else "-"


def seconds(value: float) -> str:
    """A duration: ``0.4 s``, ``38 s``, ``12 min``, ``3 h 05 min``."""
    if value < 9.95:
        return f"{value:.1f} s"
    if value < 99.5:
        return f"{value:.0f} s"
    minutes = round(value / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def milliseconds(value: float) -> str:
    """A latency with three digits: ``3.21 ms``."""
    return f"{_three(value)} ms"


def p_value(value: float) -> str:
    """A probability: ``0.034``, ``below 0.0001``."""
    return "below 0.0001" if value < 1e-4 else f"{value:.2g}"


def score(value: float) -> str:
    """A user's score, whatever its unit: five digits."""
    return f"{value:.5g}"


def signed(value: float, digits: int = 2) -> str:
    """A difference with its sign; nothing is ``-0.00``."""
    text = f"{value:+.{digits}f}"
    return text if float(text) else text.replace("-", "+")


def shorten(name: str, length: int = 26) -> str:
    """A name cut in its middle, so that beginning and end stay readable."""
    if len(name) <= length:
        return name
    tail = length // 2
    return f"{name[: length - tail - 2]}..{name[-tail:]}"


def _three(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1000:
        return f"{int(value)}"
    if abs(value) < 0.9995:
        return f"{value:.3g}"
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f}"

"""Pages of HTML in which a network is drawn and its derivatives can be followed: one file each, nothing from elsewhere.

The scripts beside this file: `engine` (the maths), `drawing` (the network as an SVG), `panels` (what is shown of a
step), and one for each page, `step` and `circles`. A page is its template with its style, its scripts and its data put
in, so that it can be sent and opened anywhere.
"""

import html
import itertools
import json
import math
from collections.abc import Mapping
from importlib import resources
from string import Template
from typing import Any

import numpy as np

MOST_UNITS, MOST_WEIGHTS, MOST_SAMPLES = 24, 1000, 200  # of a network that can be drawn


def too_large(sizes: tuple[int, ...], n_samples: int, members: int = 0) -> str:
    """Why a network cannot be drawn, "" where it can."""
    weights = sum(m * n for m, n in itertools.pairwise(sizes))
    if max(sizes) > MOST_UNITS or weights > MOST_WEIGHTS:
        return (
            f"a page draws every weight: layers of at most {MOST_UNITS} units and {MOST_WEIGHTS:,} weights; this "
            f"network has layers of up to {max(sizes)} units and {weights:,} weights."
        )
    if n_samples * max(members, 1) > MOST_SAMPLES:
        got = f"{n_samples} in each of {members} members" if members else f"{n_samples}"
        return f"a page holds at most {MOST_SAMPLES} samples; got {got}. Explain some of them: X[:20], y[:20]."
    return ""


def document(name: str, data: Mapping[str, Any], **words: str) -> str:
    """The page `name` ("step" or "circles") with its data; arrays become lists, every digit kept."""
    # "</" would end the script element, wherever it stands
    encoded = json.dumps(_plain(data), allow_nan=False).replace("</", "<\\/")
    scripts = "\n".join(_text(f"{it}.js") for it in ("engine", "drawing", "panels", name))
    known = {"css": _text("page.css"), "data": encoded, "script": scripts}
    return Template(_text(f"{name}.html")).substitute(known | {key: html.escape(it) for key, it in words.items()})


def inline(page: str, height: int) -> str:
    """The page as a part of another, its names and styles kept apart."""
    return (
        f'<iframe title="One step of a network, opened" sandbox="allow-scripts" '
        f'style="width:100%;height:{height}px;border:0" srcdoc="{html.escape(page)}"></iframe>'
    )


def _text(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _plain(value: Any) -> Any:
    """What JSON can hold: what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {key: _plain(it) for key, it in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(it) for it in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

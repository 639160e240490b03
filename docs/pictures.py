"""Pictures on a narrow screen: as large as they must be to be read, in a frame that scrolls, not shrunk to fit."""

import re
from typing import Any

PICTURE = re.compile(r"<img [^>]*\bsphx-glr-(?:single|multi)-img\b[^>]*>")


def frame(app: Any, name: str, template: str, context: dict[str, Any], doctree: Any) -> None:  # noqa: ARG001
    """Put a frame around each picture of the gallery; pages.css says how it looks."""
    if "body" in context:
        context["body"] = PICTURE.sub(r'<div class="picture" tabindex="0">\g<0></div>', context["body"])


def setup(app: Any) -> dict[str, bool]:
    """Tell sphinx."""
    app.connect("html-page-context", frame)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

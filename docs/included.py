"""A directive that lists what stands in the tables of the package, so that the list cannot go stale."""

from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from xpmlp.backends import BACKENDS
from xpmlp.network.activations import ACTIVATIONS
from xpmlp.network.initializers import INITIALIZERS
from xpmlp.network.losses import LOSSES
from xpmlp.optim.optimizers import OPTIMIZERS
from xpmlp.optim.schedules import SCHEDULES

TABLES = {
    "Activations": ACTIVATIONS,
    "Losses": LOSSES,
    "Optimizers": OPTIMIZERS,
    "Schedules": SCHEDULES,
    "Initializers": INITIALIZERS,
    "Backends": BACKENDS,
}


def rows(table: dict[str, Any]) -> list[tuple[str, str]]:
    """Each name with its parameters."""
    found = []
    for name, row in table.items():
        parameters = getattr(row, "parameters", {})
        found.append((name, ", ".join(f"{key}={value!r}" for key, value in parameters.items())))
    return found


class Tables(SphinxDirective):
    """`.. tables::`"""

    def run(self) -> list[nodes.Node]:
        """One list of definitions."""
        made = nodes.definition_list()
        for title, table in TABLES.items():
            item = nodes.definition_list_item()
            item += nodes.term("", title)
            paragraph = nodes.paragraph()
            for i, (name, parameters) in enumerate(rows(table)):
                paragraph += nodes.Text(", " if i else "")
                paragraph += nodes.literal(text=f"{name}({parameters})" if parameters else name)
            item += nodes.definition("", paragraph)
            made += item
        return [made]


def setup(app: Any) -> dict[str, bool]:
    """Tell sphinx."""
    app.add_directive("tables", Tables)
    return {"parallel_read_safe": True}

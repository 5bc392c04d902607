"""Templates, and what becomes an answer of them."""

from __future__ import annotations

from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

from worker.dashboard import words
from worker.plain import masked, readable
from worker.telling import ago, moment, span

__all__ = ["render"]

_templates: Final = Environment(
    loader=PackageLoader("worker.dashboard"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters.update(
    ago=ago,
    count=words.count,
    masked=masked,
    moment=moment,
    readable=readable,
    span=span,
)


def render(template: str, *, is_fragment: bool = False, status: int = 200, **values: Any) -> HTMLResponse:  # noqa: ANN401 - a template's
    """The page of *template*, or only what lives on it."""
    shell = "fragment.html" if is_fragment else "layout.html"
    text = _templates.get_template(template).render(shell=shell, **values)
    return HTMLResponse(text, status, headers={"vary": "HX-Request"})

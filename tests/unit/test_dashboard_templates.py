"""Nothing is in the templates of the admin page that the tour through it in Chromium does not name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from html import unescape
from importlib.resources import files
from itertools import chain
from typing import Final

import pytest
from jinja2 import Environment, nodes

from tests.integration.dashboard.tour import LINKS, STOPS, is_selector, sights
from worker.dashboard.deeds import OF_ACCOUNTS, OF_OPERATIONS

TEMPLATES: Final = {
    each.name: each.read_text(encoding="utf-8")
    for each in (files("worker.dashboard") / "templates").iterdir()
}
NAMED: Final = frozenset(
    chain.from_iterable(
        sights(f"{stop.shows}\n{stop.wide}\n{stop.ada}\n{stop.rita}") + [each for each, _ in stop.via]
        for stop in STOPS
    )
) | {named for link in LINKS for named in (link.selector, link.to)}
MARKS: Final = frozenset(
    mark for named in NAMED for pair in re.findall(r'[.\[]([\w-]+)|="([^"]+)"', named) for mark in pair
)
"""The classes and attributes in what is named."""
EXPRESSION: Final = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)


def ids(source: str) -> set[str]:
    """The ids in a template; what differs is ``*``."""
    plain = EXPRESSION.sub("*", source)
    return {f"#{each}" for each in re.findall(r'\bid="([^"]+)"', plain)}


def buttons(source: str) -> set[str]:
    """What stands on its buttons."""
    plain = EXPRESSION.sub("*", source)
    found = re.findall(r'<(?:button\b|a class="button)[^>]*>(.*?)<', plain)
    return {text for each in found if (text := each.strip("* "))}


def alternatives(source: str) -> Iterator[list[str]]:
    """For each way that a template can take, the words by which it is known; if it has any."""
    tree = Environment(autoescape=True).parse(source)
    for node in tree.find_all(nodes.Node):
        for way in ways(node):
            if words := [word for each in way for word in constant(each)]:
                yield words


def ways(node: nodes.Node) -> list[list[nodes.Node]]:
    """What comes of *node* in one case or the other."""
    match node:
        case nodes.If():
            return [node.body, node.else_]
        case nodes.For() if node.else_:
            return [node.body, node.else_]
        case nodes.CondExpr():
            return [[node.expr1], [node.expr2] if node.expr2 else []]
        case nodes.Or():
            return [[node.left], [node.right]]
        case nodes.Call(node=nodes.Getattr(node=nodes.Dict() as table)):
            return [[each] for each in (*(pair.value for pair in table.items), *node.args[1:])]
    return []


def constant(node: nodes.Node) -> list[str]:
    """The words of *node* that are the same each time: text, labels, and what an expression can say."""
    marked = _flat(node)
    labels = re.findall(r'aria-label="([^"\0]+)', marked)
    pieces = re.sub(r"<[^>]*(?:>|$)|%[dg]", "\0", marked, flags=re.DOTALL).split("\0")
    said = [" ".join(unescape(each).split()).strip(' ,.:;"') for each in pieces + labels]
    return [each for each in said if re.search(r"[^\W\d_]{2}", each)]


def _flat(node: nodes.Node) -> str:
    match node:
        case nodes.TemplateData():
            return node.data
        case nodes.Const():
            return f"\0{node.value}\0" if isinstance(node.value, str) else "\0"
        case nodes.Include():
            return ""
    return "\0".join(_flat(each) for each in node.iter_child_nodes())


def is_named(words: str) -> bool:
    """Whether the tour names *words*: several as a part of what is seen, a lone one at either end of it."""
    if re.search(r"[ /=]", words):
        return any(words in each for each in NAMED)
    lone = re.compile(rf"(?:.*[\s,])?{re.escape(words)}\W?|{re.escape(words)}[\s,].*", re.DOTALL)
    return words in MARKS or any(lone.fullmatch(each) for each in NAMED if not is_selector(each))


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_id_button_and_alternative_is_on_the_tour_through_chromium(template: str) -> None:
    assert unnamed(TEMPLATES[template]) == []


def test_every_deed_is_on_the_tour() -> None:
    chosen = {f"#deed-{name}" for name in OF_OPERATIONS} | {f"#{name}-*" for name in OF_ACCOUNTS}
    assert [each for each in chosen if not is_there(each)] == []


def test_what_is_not_on_the_tour_is_found() -> None:
    source = """
    {% if other %}<i>In other light</i>{% elif third %}Seen{% else %}{{ "askew" if x else "flat" }}{% endif %}
    {% for each in all %}Find{% else %}Nothing of it{% endfor %}<b id="new-{{ it }}">{{ x or "unheard" }}</b>
    <button>Push</button> <a class="button" href="/">Pull {{ it }}</a>
    {{ {1: "one of", 2: "them"}.get(x, "rest") }}
    {% if x %}<pre aria-label="Sound of it">{{ x }}</pre>{% endif %}
    """
    told = "\n".join(unnamed(source))
    for each in (
        *("#new-*", "Push", "Pull", "In other light", "Seen", "askew", "flat", "Nothing of it"),
        *("unheard", "one of", "them", "rest", "Sound of it"),
    ):
        assert each in told
    assert "Find" not in told


def unnamed(source: str) -> list[str]:
    """What the tour does not name of a template."""
    texts = sorted(each for each in buttons(source) if not any(each in named for named in NAMED))
    lost = [words for words in alternatives(source) if not any(is_named(each) for each in words)]
    return sorted(each for each in ids(source) if not is_there(each)) + texts + [str(each) for each in lost]


def is_there(pattern: str) -> bool:
    """Whether the tour goes to an id."""
    found = {each for named in NAMED for each in re.findall(r"#[\w-]+", named)}
    return any(fnmatchcase(each, pattern) for each in found)

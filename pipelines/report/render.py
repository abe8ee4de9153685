"""Templates, style and script as pages: everything inlined, nothing fetched.

Every text passes through the templates' escaping, and a content security policy that names the
hash of a page's own script keeps any other script inert.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from radloom import __version__
from radloom.pipelines.report import words
from radloom.pipelines.report.bars import bar_of, bins_of, dots_of
from radloom.pipelines.report.pictures import CAPTIONS

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["as_data", "render", "revision"]

SCRIPTS: Mapping[str, tuple[str, ...]] = {
    "page": ("common.js", "page.js"),
    "study": ("common.js",),
    "cohort": ("common.js", "cohort.js"),
}
"""Page -> what its script is made of."""


def render(page: str, **values: Any) -> str:
    """The HTML of ``page``, ``study`` or ``cohort``."""
    from markupsafe import Markup

    script = "".join(_read(name) for name in SCRIPTS[page])
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template(page)
        .render(
            style=Markup(_read("page.css")),  # noqa: S704 - our own file
            script=Markup(script),  # noqa: S704 - our own file
            script_hash=digest,
            version=__version__,
            **values,
        )
    )


def as_data(value: Any) -> str:
    """JSON that a script element can hold: no ``<`` in it ends the element."""
    from markupsafe import Markup

    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - nothing is left in it that HTML would read


@cache
def revision() -> str:
    """A digest of all that makes a page from what it shows."""
    parts = [__version__, *(_read(name) for name in ("page.css", *SCRIPTS["study"]))]
    parts += [_read(f"{name}.html.jinja") for name in ("parts", "study")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@cache
def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    from jinja2 import DictLoader, Environment, StrictUndefined

    names = ("parts", *SCRIPTS)
    environment = Environment(
        loader=DictLoader({name: _read(f"{name}.html.jinja") for name in names}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": words.number_text, "seconds": words.seconds_text, "bytes": words.bytes_text,
        "range": words.range_text, "triple": words.triple_text, "words": words.words_text,
        "count": words.count_text, "url": lambda path: quote(path, safe="/"),
    }  # fmt: skip
    environment.globals |= {
        "bar": bar_of, "dots": dots_of, "bins": bins_of, "captions": CAPTIONS,
        "version": __version__,
        "dump": lambda value: json.dumps(value, indent=2, sort_keys=True),
    }  # fmt: skip
    return environment

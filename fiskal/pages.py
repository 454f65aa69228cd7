"""HTML pages from the templates of a package. Needs ``pip install 'fiskal[report]'``."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from fiskal.extras import needs

with needs("report"):
    from jinja2 import Environment, PackageLoader, StrictUndefined


@cache
def _environment(package: str) -> Environment:
    return Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render(package: str, template: str, values: dict[str, Any], **filters: Callable[..., Any]) -> str:
    """The page that ``templates/<template>`` of ``package`` makes of ``values``. Everything is escaped that is not
    marked as markup, and a name that is missing is an error."""
    environment = _environment(package).overlay()
    environment.filters = {**environment.filters, **filters}
    return environment.get_template(template).render(values)

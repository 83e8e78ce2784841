"""How every page is made from its template: names of the user are escaped, and a missing value is an error."""

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def rendered(template: str, content: Mapping[str, Any]) -> str:
    """The text of a page; equal contents give equal text.

    Args:
        template: Name of a file among the templates of this package.
        content: Values by their name in the template; all but `Markup` is escaped.
    """
    environment = Environment(
        loader=PackageLoader("autocompress.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(content)

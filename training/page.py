"""Makes a page of a template beside it; knows nothing of what is on it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2


def render(template: str, filters: Mapping[str, Callable[..., Any]], **values: object) -> str:
    """Fill a template in.

    Args:
        template: The name of its file.
        filters: What it may call, by name.
        **values: What it shows; each is escaped, and none may be missing.

    Returns:
        HTML.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    page = environment.get_template(template).render(values)
    # The name of a file that was left out need not be UTF-8.
    return page.encode("utf-8", "backslashreplace").decode("utf-8")

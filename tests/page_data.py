"""What a page of a report draws from."""

from __future__ import annotations

import json
from typing import Any


def page_data(page: str) -> dict[str, Any]:
    """What a page of `provfl report` draws its only federation from."""
    content: dict[str, Any] = json.loads(
        page.partition('<script type="application/json" id="data">')[2].partition("</script>")[0]
    )
    return dict(content["runs"][0])

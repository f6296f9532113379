"""The page at ``/``: three small files of this package and an icon, nothing from elsewhere."""

import hashlib

from fastapi import FastAPI, Request
from fastapi.responses import Response

from jobs.serving.service import STATIC

FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


def add_page(app: FastAPI) -> None:
    """Add the routes of ``FILES``."""
    for route, (name, media_type) in FILES.items():
        app.get(route, include_in_schema=False)(_route((STATIC / name).read_bytes(), media_type))


def _route(content: bytes, media_type: str):
    # Browsers ask each time whether it changed, so that the files of one page fit together.
    headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()[:16]}"', "Cache-Control": "no-cache"}

    async def answer(request: Request) -> Response:
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)

    return answer

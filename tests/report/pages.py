"""Both pages of a study, as a reader and as a parser see them."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import numpy as np
from PIL import Image

from privsyn.report.html import report
from privsyn.study import Study

VOID = {"meta", "img", "br", "hr", "link", "input"}


def pages(study: Study) -> tuple[str, str]:
    internal, public = report(study)
    return internal.read_text(encoding="utf-8"), public.read_text(encoding="utf-8")


class Outline(HTMLParser):
    """Tags with attributes, and the text that a reader sees; fails on tags that do not close."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def shown_images(page: str) -> Iterator[np.ndarray[Any, Any]]:
    for uri in re.findall(r'"data:image/png;base64,([^"]+)"', page):
        with Image.open(io.BytesIO(base64.b64decode(uri))) as image:
            yield np.asarray(image)

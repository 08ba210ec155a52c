import base64
import re
from html.parser import HTMLParser

import numpy as np

from detect_prune.report.figures import save_picture
from detect_prune.report.page import write_page
from detect_prune.report.tables import Table

EVIL = "<script>alert(\"x\")</script> & 'co'"


class Outline(HTMLParser):
    VOID = frozenset({"meta", "img"})

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], [], ""

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, "tags are nested rightly"

    def handle_data(self, data):
        self.text += data


def test_page_escapes_everything_and_needs_nothing_from_outside(tmp_path):
    plot = tmp_path / "plot.png"
    save_picture(plot, np.zeros((5, 6, 3), np.uint8))
    page = tmp_path / "page.html"
    table = Table([EVIL, "AP"]).row(EVIL, "0.2")
    sheet = tmp_path / "sheet.jpg"
    save_picture(sheet, np.zeros((7, 8, 3), np.uint8))
    write_page(page, EVIL, table, [EVIL, "and more"], {EVIL: plot}, {EVIL: sheet}, {EVIL: EVIL, "ratio": 0.8}, table)
    text = page.read_text()
    outline = Outline()
    outline.feed(text)
    assert not outline.open
    assert "script" not in {tag for tag, _ in outline.seen}
    assert outline.text.count(EVIL) >= 9
    assert not re.search(r"https?://|url\(|@import", text)
    sources = [attributes["src"] for tag, attributes in outline.seen if tag == "img"]
    assert len(sources) == 2 and all(attributes["alt"] == EVIL for tag, attributes in outline.seen if tag == "img")
    for source, kind, file in zip(sources, ("png", "jpeg"), (plot, sheet)):
        assert source.startswith(f"data:image/{kind};base64,")
        assert base64.b64decode(source.split(",")[1]) == file.read_bytes()


def test_page_without_pictures_has_no_empty_section(tmp_path):
    table = Table(["stage"]).row("dense")
    write_page(tmp_path / "page.html", "run", table, [], {}, {}, {"ratio": 0.8}, table)
    text = (tmp_path / "page.html").read_text()
    assert "What it finds" not in text and 'class="verdict"' not in text

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
    pictures = {EVIL: np.zeros((7, 8, 3), np.uint8)}
    write_page(page, EVIL, table, EVIL, {EVIL: plot}, pictures, {EVIL: EVIL, "ratio": 0.8}, table)
    text = page.read_text()
    outline = Outline()
    outline.feed(text)
    assert not outline.open
    assert "script" not in {tag for tag, _ in outline.seen}
    assert outline.text.count(EVIL) >= 9
    assert not re.search(r"https?://|url\(|@import", text)
    sources = [attributes["src"] for tag, attributes in outline.seen if tag == "img"]
    assert len(sources) == 2 and all(attributes["alt"] == EVIL for tag, attributes in outline.seen if tag == "img")
    assert base64.b64decode(sources[0].split(",")[1]) == plot.read_bytes()


def test_page_without_plots_and_pictures_has_no_empty_sections(tmp_path):
    write_page(tmp_path / "page.html", "run", Table(["stage"]).row("dense"), "Nothing yet.", {}, {}, {})
    assert "<h2>" not in (tmp_path / "page.html").read_text()

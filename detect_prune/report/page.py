"""One HTML file that shows a run, with nothing to fetch: it can be mailed, archived, opened without a network."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from detect_prune.files import write_text
from detect_prune.report.tables import Table

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; white-space: nowrap; }
th { border-bottom: 2px solid #888; } tr:nth-child(even) td { background: #f4f6f8; }
.left { text-align: left; white-space: normal; }
img { max-width: 100%; height: auto; } figure { margin: 1rem 0; } figcaption { color: #555; font-size: .9rem; }
.verdict { background: #f4f6f8; border-left: 4px solid #3b75af; margin: 1rem 0; padding: .2rem 1rem; }
.verdict p { margin: .5rem 0; }
"""


def _html_table(table: Table) -> str:
    def line(cells: list[str], tag: str) -> str:
        marked = (
            f'<{tag} class="left">{escape(cell)}</{tag}>' if index < table.left else f"<{tag}>{escape(cell)}</{tag}>"
            for index, cell in enumerate(cells)
        )
        return f"<tr>{''.join(marked)}</tr>"

    body = "\n".join(line(row, "td") for row in table.rows)
    head = line(table.columns, "th")
    return f'<div class="scroll"><table>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody></table></div>'


def _html_figure(caption: str, file: Path, kind: str) -> str:
    text = base64.b64encode(file.read_bytes()).decode()
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/{kind};base64,{text}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def write_page(
    path: str | Path,
    title: str,
    table: Table,
    sentences: Sequence[str],
    plots: Mapping[str, Path],
    pictures: Mapping[str, Path],
    settings: Mapping[str, Any],
    layers: Table,
) -> None:
    """Writes the page of a run, atomically. All text is escaped.

    Args:
        table: the closing table.
        sentences: what stands under it, a paragraph each: the verdict, what the person has to know; there may be none.
        plots: PNG files by caption.
        pictures: JPEG files by caption, such as the contact sheets before and after; there may be none.
        settings: what the run was asked to do, by name.
        layers: what is kept of each layer.
    """
    parts = [f"<h1>{escape(title)}</h1>", _html_table(table)]
    if sentences:
        paragraphs = "\n".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
        parts.append(f'<div class="verdict">\n{paragraphs}\n</div>')
    parts.append("<h2>Curves and layers</h2>")
    parts += [_html_figure(caption, plot, "png") for caption, plot in plots.items()]
    if pictures:
        parts.append("<h2>What it finds</h2>")
        parts += [_html_figure(caption, picture, "jpeg") for caption, picture in pictures.items()]
    summary = "<summary>Weights kept in each layer</summary>"
    parts.append(f"<h2>Layers</h2>\n<details>{summary}{_html_table(layers)}</details>")
    rows = Table(["setting", "value"], left=2)
    for name, value in settings.items():
        rows.row(name, value)
    parts += ["<h2>Settings</h2>", _html_table(rows)]
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style></head>\n<body>\n"
    )
    write_text(path, head + "\n".join(parts) + "\n</body></html>\n")

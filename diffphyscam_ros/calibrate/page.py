"""Self-contained HTML pages with matplotlib figures in them."""

import base64
from collections.abc import Sequence
import html
import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1b1f24; max-width: 1100px;
       margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin: 2em 0 .4em; }
table { border-collapse: collapse; width: 100%; } td, th { padding: .25em .7em; text-align: left;
       border-bottom: 1px solid #d8dee4; vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.determined { color: #116329; } .weakly { color: #8a5a00; } .not { color: #6e7781; }
img { max-width: 100%; } .grid { display: grid; grid-template-columns: 1fr 1fr; gap: 1em; }
.warn { background: #fff8c5; padding: .5em 1em; border-radius: 6px; }
p.c { color: #57606a; margin: .2em 0 1em; }
"""


def document(title: str, parts: Sequence[str]) -> str:
    """Wrap pieces of HTML into a page."""
    return ('<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>'
            + '\n'.join(parts) + '</body></html>\n')


def png(figure: Figure) -> bytes:
    """Draw a figure."""
    data = io.BytesIO()
    FigureCanvasAgg(figure).print_png(data)
    return data.getvalue()


def picture(figure: Figure, caption: str) -> str:
    """Embed a figure with its caption."""
    code = base64.b64encode(png(figure)).decode()
    return (f'<div><img alt="{html.escape(caption)}" src="data:image/png;base64,{code}">'
            f'<p class="c">{html.escape(caption)}</p></div>')

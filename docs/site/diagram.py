"""Draws the diagram of docs/architecture.md as the SVG that the site shows, without a network.

GitHub draws the Mermaid code itself. After changing it, fetch Mermaid once and draw again:

    npm pack mermaid@11 && tar xzf mermaid-*.tgz package/dist/mermaid.min.js
    python docs/site/diagram.py package/dist/mermaid.min.js
"""

import hashlib
import html
import json
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

PAGE = Path(__file__).parents[1] / "architecture.md"
DRAWN = Path(__file__).parent / "architecture.svg"
FENCE = re.compile(r"^```mermaid\n(.*?)^```$", re.DOTALL | re.MULTILINE)

_HTML = """<script src="{library}"></script><pre id="drawn"></pre><script>
mermaid.initialize({{startOnLoad: false, theme: "neutral", htmlLabels: false,
  flowchart: {{useMaxWidth: false}}}});
mermaid.render("architecture", {code}).then(made => {{
  const parsed = new DOMParser().parseFromString(made.svg, "image/svg+xml");
  document.getElementById("drawn").textContent = new XMLSerializer().serializeToString(parsed);
}});
</script>"""


def mark(code: str) -> str:
    """The first line of the SVG that is drawn of Mermaid code."""
    return f"<!-- of {hashlib.sha256(code.encode()).hexdigest()} -->\n"


def main() -> None:
    """Draw it with the copy of Mermaid that is given, in headless Chromium."""
    library = Path(sys.argv[1]).resolve().as_uri()
    (code,) = FENCE.findall(PAGE.read_text(encoding="utf-8"))
    with TemporaryDirectory() as folder:
        page = Path(folder, "page.html")
        page.write_text(_HTML.format(library=library, code=json.dumps(code)), encoding="utf-8")
        command = ["chromium", "--headless", "--no-sandbox", "--virtual-time-budget=15000"]
        done = subprocess.run(
            [*command, "--dump-dom", page.as_uri()], check=True, capture_output=True, text=True
        )
    found = re.search(r'<pre id="drawn">(<|&lt;)(svg.*?)</pre>', done.stdout, re.DOTALL)
    if found is None:
        sys.exit("expected an SVG of the diagram, got none: is it valid Mermaid?")
    svg = html.unescape(found[1] + found[2])
    DRAWN.write_text(f"{mark(code)}{svg}\n", encoding="utf-8")


if __name__ == "__main__":
    main()

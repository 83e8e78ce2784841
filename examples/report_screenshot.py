"""A picture of a study's page, as the README shows it: `python examples/report_screenshot.py runs/mine page.png`.

Opens `front.html` of a study folder in Debian's chromium, without any network, and writes what a reader sees first as
a PNG, 1,200 pixels wide. Needs `pip install playwright` and `apt-get install chromium`; `--full` takes the whole page.
"""

import argparse
from pathlib import Path

from playwright.sync_api import sync_playwright

CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
WIDTH, HEIGHT = 1200, 1180  # down to the layers of the chosen candidate


def screenshot(page_file: Path, picture: Path, full: bool = False, scheme: str = "light") -> None:
    """Write the page as a PNG.

    Args:
        page_file: A `front.html`.
        picture: The file to write.
        full: Whether to take the whole page in place of its first 1,180 pixels.
        scheme: `light` or `dark`.
    """
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme, offline=True)
        page.goto(page_file.resolve().as_uri())
        page.locator("#panel h2").wait_for()
        page.screenshot(path=picture, full_page=full)
        browser.close()


def main() -> None:
    """Read the arguments and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="folder with a front.html")
    parser.add_argument("output", type=Path, help="PNG to write")
    parser.add_argument("--full", action="store_true", help="the whole page")
    parser.add_argument("--dark", action="store_true", help="the dark scheme")
    arguments = parser.parse_args()
    page_file = arguments.study / "front.html"
    if not page_file.is_file():
        parser.error(f"{page_file} does not exist; give a study folder, or make its page with autocompress report")
    screenshot(page_file, arguments.output, arguments.full, "dark" if arguments.dark else "light")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()

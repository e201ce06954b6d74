"""The pages in a real browser: drawn, and no wider than the screen."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from audited_study import alter
from PIL import Image

from privsyn.report.html import report
from privsyn.study import Study

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome")

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage",
)  # fmt: skip

# A browser's own window is never narrower than 500 px, so the page is measured in a frame.
FRAME = """<!doctype html><body style="margin:0"><script>
const widths = [1280, 420];
const measured = {};
for (const width of widths) {
  const frame = document.createElement("iframe");
  frame.style.cssText = `width:${width}px;height:900px;border:0;display:block`;
  frame.onload = () => {
    const page = frame.contentDocument.documentElement;
    for (const folded of frame.contentDocument.querySelectorAll("details")) folded.open = true;
    const images = [...frame.contentDocument.images];
    measured[width] = [page.scrollWidth, images.length, images.filter(i => i.naturalWidth > 0).length];
    if (Object.keys(measured).length === widths.length)
      document.body.dataset.measured = JSON.stringify(measured);
  };
  frame.src = "PAGE";
  document.body.append(frame);
}
</script></body>"""


def browse(profile: Path, page: Path, *flags: str) -> str:
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={profile}", *flags, page.resolve().as_uri()]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=90).stdout


@pytest.mark.parametrize("which", [0, 1], ids=["internal", "public"])
def test_page_fits_a_desk_and_a_phone(useful: Study, tmp_path: Path, which: int) -> None:
    """Nothing sticks out to the right at 1280 or 420 px, unfolded, and every image can be decoded."""
    alter(useful.verdict_file, lambda verdict: verdict.update(verdict="pass"))
    page = tmp_path / "page.html"
    shutil.copy(report(useful)[which], page)
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.replace("PAGE", page.name), encoding="utf-8")
    flags = ("--allow-file-access-from-files", "--virtual-time-budget=5000", "--dump-dom")
    found = re.search(r'data-measured="([^"]+)"', browse(tmp_path / "profile", frame, *flags))
    assert found is not None
    measured = json.loads(found[1].replace("&quot;", '"'))
    for width in (1280, 420):
        widest, images, decoded = measured[str(width)]
        assert widest <= width
        assert images == decoded >= 100


def test_internal_page_is_drawn_under_its_ribbon(study: Study, tmp_path: Path) -> None:
    """The screenshot starts with the red ribbon across the page and is anything but blank."""
    shot = tmp_path / "shot.png"
    page = report(study)[0]
    browse(tmp_path / "profile", page, f"--screenshot={shot}", "--window-size=1280,2000")
    with Image.open(shot) as image:
        pixels = np.asarray(image.convert("RGB"))
    red, green, blue = pixels[2].astype(int).T
    assert pixels.shape == (2000, 1280, 3)
    assert np.all((red > 120) & (green < 60) & (blue < 60))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100

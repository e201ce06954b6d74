"""What mkdocs adds to docs/: pages of the repository that lie elsewhere, lists of pages, the API reference.

The API reference has a page for each room (`docs/tools/rooms.py`) and each audit package, from docstrings.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs" / "tools"))

from rooms import read_rules  # noqa: E402

# Page of the site for each file of the repository that lies outside docs/.
OUTSIDE = {
    "README.md": "project/readme.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "CHANGELOG.md": "project/changelog.md",
    "audits/README.md": "project/write-an-audit.md",
}
LINK = re.compile(r"(!?\[[^\]]*\])\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the sections of the navigation that are lists of files."""
    sections = {
        "Lab notebook": _pages("measurements"),
        "Decisions": _pages("decisions"),
        "API reference": [f"reference/{name}.md" for name in _reference()],
        "Project": list(OUTSIDE.values()),
    }
    assert config.nav is not None
    for section in config.nav:
        (name,) = section
        section[name] = sections.get(name, section[name])
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that docs/ does not hold."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for name, modules in _reference().items():
        text = f"# {name}\n\n" + "\n\n".join(f"::: {module}" for module in modules) + "\n"
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, files: Files, config: MkDocsConfig) -> str:  # noqa: ARG001
    """Lead relative links to the page of the site; a link to any other file of the repository is text."""
    here = page.file.src_uri
    source = next((source for source, target in OUTSIDE.items() if target == here), f"docs/{here}")

    def led(match: re.Match[str]) -> str:
        text, link, anchor = match[1], match[2], match[3] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
        if target in OUTSIDE:
            inside = OUTSIDE[target]
        elif target.startswith("docs/") and (ROOT / target).is_file():
            inside = target.removeprefix("docs/")
        else:
            return text.strip("[]") if (ROOT / target).exists() else match[0]  # mkdocs names what is broken
        return f"{text}({posixpath.relpath(inside, posixpath.dirname(here))}{anchor})"

    return LINK.sub(led, markdown)


def _pages(folder: str) -> list[str]:
    """Markdown files of a folder, its README first."""
    names = sorted(path.name for path in (ROOT / "docs" / folder).glob("*.md"))
    return [f"{folder}/{name}" for name in sorted(names, key=lambda name: (name != "README.md", name))]


def _reference() -> dict[str, list[str]]:
    """Modules to document, by page: one page for each room, from the top of the import order."""
    rooms = [name for layer in read_rules().layers for name in layer if name != "__main__"]
    pages = {"privsyn": ["privsyn"]}
    small = [name for name in rooms if (ROOT / "privsyn" / f"{name}.py").exists()]
    for name in rooms:
        if name not in small:
            pages[f"privsyn.{name}"] = _modules(ROOT / "privsyn" / name, f"privsyn.{name}")
    pages["small-modules"] = [f"privsyn.{name}" for name in small]
    pages["privsyn_audits"] = _modules(ROOT / "audits" / "privsyn_audits", "privsyn_audits")
    return pages


def _modules(folder: Path, package: str) -> list[str]:
    """A package and all modules in it, by name."""
    files = sorted(folder.rglob("*.py"))
    dotted = [".".join((package, *file.relative_to(folder).with_suffix("").parts)) for file in files]
    return sorted(name.removesuffix(".__init__") for name in dotted)

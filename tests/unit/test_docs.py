"""The documentation agrees with the code, and its links lead somewhere."""

import inspect
import re
from pathlib import Path

import pytest
from support.reference_docs import OPENAPI, PAGES, REFERENCE, REGENERATE, ROOT, openapi_text

from manager import errors
from manager.change.reload_classes import CLASSES
from manager.settings import Settings
from manager.states import WorkerLifecycleStatus

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def without_code(text: str) -> str:
    return re.sub(r"(?ms)^ *```.*?^ *```", "", text)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found: dict[str, int] = {}
    names = set()
    for heading in re.findall(r"(?m)^#{1,6} (.+)$", without_code(page.read_text())):
        name = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).strip().replace(" ", "-")
        count = found.get(name, 0)
        found[name] = count + 1
        names.add(f"{name}-{count}" if count else name)
    return names


def rows(page: str) -> list[list[str]]:
    lines = (REFERENCE / page).read_text().splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line[:3] == "| `"]


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in LINK.findall(without_code(page.read_text())):
        if "://" in link or link.startswith("mailto:"):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{page.name}: {link} leads to no file"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{page.name}: {link} leads to no heading"


@pytest.mark.parametrize("page", DOCUMENTS[2:], ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_starts_with_a_sentence_that_says_what_it_is_for(page: Path) -> None:
    if page.parent.name == "decisions":
        return
    title, blank, purpose = page.read_text().split("\n")[:3]
    assert title.startswith("# ")
    assert blank == ""
    assert purpose.startswith("This page "), f"{page.name}: {purpose}"


def test_every_page_is_reached_from_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    linked = {(ROOT / "docs" / link.partition("#")[0]).resolve() for link in LINK.findall(index)}
    assert set((ROOT / "docs").rglob("*.md")) - linked == {ROOT / "docs" / "README.md"}


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_current(name: str) -> None:
    assert (REFERENCE / name).read_text() == PAGES[name](), f"docs/reference/{name} is old: {REGENERATE}"


def test_the_openapi_document_is_current() -> None:
    assert OPENAPI.read_text() == openapi_text(), f"manager/api/openapi.json is old: {REGENERATE}"


def test_every_error_is_listed() -> None:
    classes = {
        name: cls
        for name, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, errors.ManagerError)
    }
    listed = {row[0].strip("`"): row for row in rows("errors.md")}
    assert set(listed) == set(classes)
    for name, cls in classes.items():
        _, code, kind, retry, meaning, action = listed[name]
        assert code == f"`{cls.code}`"
        bases = [base.__name__ for base in (ValueError, RuntimeError) if issubclass(cls, base)]
        assert kind == (bases[0] if bases else "none"), name
        assert retry == ("yes" if cls.retryable else "no"), name
        assert meaning, f"{name} has no meaning"
        assert action, f"{name} does not say what to do"


def test_every_setting_is_listed_with_its_default() -> None:
    listed = {row[0].strip("`"): row for row in rows("settings.md")}
    assert set(listed) == {f"MANAGER_{name.upper()}" for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        default = field.default
        if name == "start_method" or not isinstance(default, str | int | float):
            continue  # read from the machine, or nothing
        shown = str(default).lower() if isinstance(default, bool) else str(default)
        assert listed[f"MANAGER_{name.upper()}"][3].startswith(f"`{shown}`"), name


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


def test_the_reload_page_has_the_table_of_the_code() -> None:
    page = (REFERENCE / "reload.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z_.*]+)` \| ([a-z_]+) \|$", page, re.M))
    assert rows == {key: str(one) for key, one in CLASSES.items()}


def test_every_event_type_of_the_code_is_documented() -> None:
    page = (REFERENCE / "events.md").read_text()
    literal = re.compile(r"[\"'](?:worker|account|schedule|command|batch|config|host)\.[a-z_]+[\"']")
    found = {
        text.strip("\"'")
        for folder in ("fleet", "client", "host/reporting", "host/workers")
        for file in (ROOT / "manager" / folder).rglob("*.py")
        for text in literal.findall(file.read_text())
    }
    found -= {"host.ready"}
    states = {f"worker.{status}" for status in WorkerLifecycleStatus} - {"worker.created"}
    hosts = {"host.live", "host.lost", "host.ended", "host.draining", "host.drained", "host.resumed"}
    assert len(found) > 5
    assert [one for one in sorted(found | states | hosts) if f"`{one}`" not in page] == []


def test_every_message_and_close_code_of_a_stream_is_documented() -> None:
    page = (REFERENCE / "streams.md").read_text()
    source = "".join(
        file.read_text()
        for file in [
            *(ROOT / "manager" / "api" / "stream").glob("*.py"),
            ROOT / "manager" / "api" / "routes" / "websocket.py",
        ]
    )
    frames = set(re.findall(r"(?:frame\(\s*|\"t\": )\"([a-z]+)\"", source))
    assert frames >= {"hello", "snapshot", "change", "event", "gone"}
    assert [one for one in sorted(frames) if f'"t": "{one}"' not in page] == []
    codes = set(re.findall(r"CLOSE_[A-Z_]+: Final = (\d{4})", source))
    assert codes >= {"4001", "4008"}
    assert [one for one in sorted(codes) if f"| {one} |" not in page] == []
    operations = set(re.findall(r"op: Literal\[\"([a-z]+)\"\]", source))
    assert [one for one in sorted(operations) if f'"op": "{one}"' not in page] == []

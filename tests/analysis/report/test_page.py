"""The page: complete, self-contained, safe with any name, honest about what is missing."""

from __future__ import annotations

import csv
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.image
import pandas as pd
import pytest

from analysis import load_run
from analysis.report import write, write_report
from analysis.report.__main__ import main
from analysis.report.files import csv_text, slug
from tests.analysis.folders import write_folder


class Page(HTMLParser):
    """Elements and texts of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def values(self, attribute: str) -> list[str]:
        return [a[attribute] or "" for _, a in self.elements if attribute in a]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def report(*runs: Path, **options: object) -> Page:
    out = runs[0].parent / "out"
    return Page(write_report(list(runs), out, "python x", num_permutations=19, **options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, Path]:
    folder = tmp_path_factory.mktemp("whole")
    runs = [
        write_folder(folder / name, seed=seed, ablation=True, hard=True)
        for seed, name in enumerate(("one", "two"))
    ]
    return report(*runs), folder / "out"


def test_nothing_comes_from_outside_and_links_lead_somewhere(whole: tuple[Page, Path]) -> None:
    page, out = whole
    text = (out / "report.html").read_text()
    assert not re.search(r"https?://|@import|url\(|//cdn", text)
    identities = page.values("id")
    assert len(identities) == len(set(identities))
    for link in [link for link in page.values("href") if link != "data:,"]:
        assert link[1:] in identities if link.startswith("#") else (out / link).is_file(), link
    assert not page.values("src")


def test_every_figure_has_its_files(whole: tuple[Page, Path]) -> None:
    page, out = whole
    figures = [a["id"] for tag, a in page.elements if tag == "figure"]
    assert len(figures) > 25
    kinds = {str(name).removeprefix("one-") for name in figures}
    assert {
        "routes", "clusters-category-adjusted_rand", "tree-routes", "tree-vectors", "map-routes",
        "features", "load", "movement", "similarity-vectors", "ablation", "comparison",
    } <= kinds  # fmt: skip
    for name in figures:
        assert not pd.read_csv(out / f"{name}.csv").empty
        assert ElementTree.parse(out / f"{name}.svg").getroot().tag.endswith("svg")
        assert matplotlib.image.imread(out / f"{name}.png").std() > 0.005
    assert page.text.count("Made by python x") == len(figures) + 1


def test_structure_for_readers_of_all_kinds(whole: tuple[Page, Path]) -> None:
    page, _ = whole
    tags = [tag for tag, _ in page.elements]
    assert (tags.count("main"), tags.count("nav"), tags.count("h1")) == (1, 1, 1)
    for tag, attributes in page.elements:
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
        if tag == "div" and attributes.get("class") == "scroll":
            assert attributes["tabindex"] == "0"
            assert attributes["aria-label"]
    levels = [int(tag[1]) for tag in tags if re.fullmatch(r"h\d", tag)]
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    assert tags.count("button") == tags.count("th")


def test_heat_map_has_every_weight_of_every_snapshot(whole: tuple[Page, Path]) -> None:
    page, out = whole
    extra = json.loads(next(t for t in page.texts if t.startswith('{"rank"')))
    assert extra["steps"] == [0, 100, 200]
    assert sorted(extra["rank"]) == list(range(30))
    cells = [a for _, a in page.elements if a.get("class") == "f-heat cell"]
    assert len(cells) == 2 * 30 * 2 * 2 * 3
    table = pd.read_csv(out / "one-routes.csv")
    pd.testing.assert_frame_equal(
        table, load_run(out.parent / "one").routes["moe"], check_dtype=False
    )


def test_statistics_and_summary(whole: tuple[Page, Path]) -> None:
    page, out = whole
    found = json.loads((out / "statistics.json").read_text())
    assert len(found["summary"]) == 5
    for sentence in found["summary"]:
        assert " ".join(sentence.split()) in page.text
    assert "partly agree" in found["summary"][1]
    assert "pairs of expert and feature" in found["summary"][2]


ODD = {
    "task_0": '<img src=x onerror="alert(1)">',
    "task_1": "=HYPERLINK(\"http://x\",'y')",
    "task_2": "\u202egnol eht \u05e9\u05dc\u05d5\u05dd",
    "task_3": "</script><script>alert(2)</script>",
    "task_4": "x" * 300,
    "task_5": "nul\x00 and\nline",
    "task_6": "$\\frac{1}{2}$ & 'quoted'",
    "cat_0": "<b>cat & 'x'</b>",
    "cat_1": "@SUM(1)",
}


def test_odd_names_are_text(tmp_path: Path) -> None:
    run = write_folder(tmp_path / "<i>run", names=ODD, hard=True, ablation=True)
    page, out = report(run), tmp_path / "out"
    assert {tag for tag, _ in page.elements}.isdisjoint({"img", "i"})
    assert len([1 for tag, _ in page.elements if tag == "script"]) == 2
    tips = " ".join(page.values("data-tip"))
    assert ODD["task_0"] in tips
    assert ODD["task_3"] in tips
    assert "\\u202egnol eht \u05e9\u05dc\u05d5\u05dd" in tips
    assert "nul\\u0000 and\\u000aline" in tips
    assert "\u202e" not in (out / "report.html").read_text()
    for file in out.glob("*.csv"):
        with file.open(newline="") as rows:
            for row in csv.reader(rows):
                for cell in row:
                    numeric = re.fullmatch(r"-?[\d.]+(e-?\d+)?", cell)
                    assert numeric or not cell.startswith(("=", "+", "-", "@")), cell
    for file in out.glob("*.svg"):
        ElementTree.parse(file)


def test_csv_and_file_names() -> None:
    data = pd.DataFrame({"=a": ["-1+1", "-", "plain", "\tx"], "n": [-1.5, 2.0, 3.0, -4.0]})
    assert csv_text(data) == "'=a,n\n'-1+1,-1.5\n'-,2.0\nplain,3.0\n'\tx,-4.0\n"
    taken: set[str] = set()
    assert [slug(n, taken) for n in ("a/b", "../a b", "A-B", "\u05e9")] == [
        "a-b", "a-b-2", "A-B-3", "run",
    ]  # fmt: skip


def test_a_run_without_routes(tmp_path: Path) -> None:
    run = write_folder(tmp_path / "run")
    (run / "routes.parquet").unlink()
    page = report(run)
    assert "no routes: there is nothing to say about experts" in page.text
    assert "0.4" in page.text  # scores are shown
    assert "without any route table" in page.text


def test_beside_a_run_without_routes_the_other_is_shown(tmp_path: Path) -> None:
    first, second = write_folder(tmp_path / "a"), write_folder(tmp_path / "b")
    (first / "routes.parquet").unlink()
    page = report(first, second)
    assert "no routes" in page.text
    assert "b-routes" in page.values("id")


@pytest.mark.parametrize("num_tasks", [1, 2, 3])
def test_few_tasks(tmp_path: Path, num_tasks: int) -> None:
    page = report(write_folder(tmp_path / "run", num_tasks=num_tasks, num_categories=1))
    words = "there is only one task" if num_tasks == 1 else "all tasks are of one category"
    assert words in page.text
    assert "run-routes" in page.values("id")


def test_tasks_missing_from_the_ontology(tmp_path: Path) -> None:
    run = write_folder(tmp_path / "run")
    ontology = {f"task_{t}": (f"new_{t // 10}", "s") for t in range(20)}
    page = report(run, ontology=ontology)
    assert "10 of 30 tasks have no category in the ontology" in page.text
    found = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert found["routes"]["run"]["clusters"]["category"]["overall"]["silhouette"]["value"]


def test_constant_features_routes_that_never_differ_and_no_facts(tmp_path: Path) -> None:
    run = write_folder(tmp_path / "a")
    table = pd.read_parquet(run / "routes.parquet")
    table["weight"] = (table["expert"] == 0).astype(float)
    table.to_parquet(run / "routes.parquet")
    page = report(run)
    assert "all tasks have the same route" in page.text
    other = write_folder(tmp_path / "b")
    (other / "tasks.json").unlink()
    page = report(other)
    assert "no tasks.json" in page.text
    third = write_folder(tmp_path / "c")
    facts = {f"task_{t}": {"same": True, "note": f"text {t}"} for t in range(30)}
    (third / "tasks.json").write_text(json.dumps(facts))
    page = report(third)
    assert "same (the same for all tasks), note (30 different texts)" in page.text


def test_two_task_sets(tmp_path: Path) -> None:
    names = {f"task_{t}": f"other_{t}" for t in range(20)}
    runs = [write_folder(tmp_path / "a"), write_folder(tmp_path / "b", names=names, seed=1)]
    page = report(*runs)
    assert "20 tasks only in the first, 20 only in the second" in page.text
    apart = write_folder(tmp_path / "c", names={f"task_{t}": f"c{t}" for t in range(30)})
    assert "0 tasks in common are too few" in report(runs[0], apart).text
    deeper = write_folder(tmp_path / "d", num_layers=3)
    assert "they differ in layers or experts" in report(runs[0], deeper).text


def test_damaged_parts_are_said(tmp_path: Path) -> None:
    run = write_folder(tmp_path / "run")
    table = pd.read_parquet(run / "routes.parquet")
    (run / "routes").mkdir()
    table.iloc[1:].to_parquet(run / "routes" / "holed.parquet")
    (run / "checkpoints" / "moe" / "step-000100" / "model.safetensors").write_text("x")
    page = report(run)
    assert "routes of holed: routes at step 0: no weight for task 'task_0'" in page.text
    assert "checkpoint of moe cannot be read" in page.text
    assert "run-routes" in page.values("id")


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_folder(tmp_path / "a run")
    out = tmp_path / "out"
    assert main([str(run), "--out", str(out), "--permutations", "9"]) == 0
    assert f"wrote {out / 'report.html'}" in capsys.readouterr().out
    assert f"python -m analysis.report '{run}' --out {out}" in Page(out / "report.html").text
    assert main([str(tmp_path / "absent")]) == 2
    assert capsys.readouterr().err.startswith("error: no folder")
    (tmp_path / "facts.json").write_text(json.dumps({"task_0": {"mine": 3}}))
    assert main([str(run), "--out", str(out), "--tasks", str(tmp_path / "facts.json")]) == 0
    assert "mine (known for 1 tasks)" in Page(out / "report.html").text
    capsys.readouterr()
    (tmp_path / "bad.json").write_text("[1]")
    assert main([str(run), "--ontology", str(tmp_path / "bad.json")]) == 2
    assert "bad.json: expected {category" in capsys.readouterr().err
    (run / "tasks.json").write_text("[1]")
    assert main([str(run)]) == 2
    assert "tasks.json: expected task names" in capsys.readouterr().err


def test_one_line_for_the_end_of_a_training(tmp_path: Path) -> None:
    run = write_folder(tmp_path / "run")
    assert write(run) == run / "report" / "report.html"
    first = (run / "report" / "report.html").read_bytes()
    write(run)
    assert (run / "report" / "report.html").read_bytes() == first


def test_the_page_of_a_large_run_is_small(tmp_path: Path) -> None:
    run = write_folder(
        tmp_path / "run", num_tasks=160, num_layers=6, num_steps=20, num_categories=7
    )
    path = write_report([run], tmp_path / "out", "x")
    assert path.stat().st_size < 15e6
    assert sum(f.stat().st_size for f in (tmp_path / "out").iterdir()) < 15e6

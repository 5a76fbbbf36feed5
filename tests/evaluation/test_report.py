"""Tables and the page: what is in them, that they are well formed, and box plots by their definition."""

import csv
import json
import re
import xml.etree.ElementTree
from html.parser import HTMLParser

import pytest
from evaluation.scored_tracks import two_tracks

from jaxsep.errors import JaxsepError
from jaxsep.evaluation.box_plot import box_plot, five_numbers
from jaxsep.evaluation.evaluate import baseline, estimates_on_disk, evaluate
from jaxsep.evaluation.report import REPORTS, make_report, markdown, write_reports
from jaxsep.evaluation.scoring import Settings
from jaxsep.evaluation.tracks import find_folders

_EMPTY_ELEMENTS = {"meta", "rect", "line", "circle", "path"}


class Balanced(HTMLParser):
    """Sees that every element that is opened is closed, and what would be loaded."""

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.loads += [value for name, value in attrs if name in ("src", "href")]
        if tag not in _EMPTY_ELEMENTS:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data.strip())


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports") / "a <b> & c"
    two_tracks(folder)
    (folder / "true/two").rename(folder / "true/<two> & more")
    (folder / "est/two").rename(folder / "est/<two> & more")
    tracks = find_folders(folder / "true")
    system, stems = estimates_on_disk(folder / "est", tracks, None, None)
    records, failures = evaluate(tracks, [system, baseline("mixture")], Settings(stems=stems), folder / "out")
    assert not failures
    files = write_reports(
        make_report(records, groups={"genre": {"one": "Rock", "<two> & more": "Jazz"}}), folder / "out"
    )
    assert [path.name for path in files] == list(REPORTS)
    return folder / "out"


def test_the_json_holds_settings_and_is_json(reports):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    data = json.loads((reports / "scores.json").read_text(), parse_constant=refuse)
    assert data["settings"]["stems"] == ["drums", "vocals"]
    assert set(data["systems"]) == {"est", "mixture"}
    assert len(data["tracks"]) == 2 * 2 * 6 * 3  # systems, tracks, metrics, stems and their mean
    assert len(data["summary"]) == 2 * 6 * 3
    assert "numpy" in data["versions"]


def test_csv_and_markdown_say_what_the_json_says(reports):
    data = json.loads((reports / "scores.json").read_text())
    for name, key in (
        ("summary.csv", "summary"),
        ("tracks.csv", "tracks"),
        ("systems.csv", "comparison"),
        ("differences.csv", "differences"),
        ("groups.csv", "groups"),
    ):
        rows = list(csv.DictReader((reports / name).read_text().splitlines()))
        assert len(rows) == len(data[key])
        for row, expected in zip(rows, data[key], strict=True):
            assert row["stem"] == expected["stem"]
            for column, value in expected.items():
                if isinstance(value, float):
                    assert float(row[column]) == value
    table = (reports / "summary.md").read_text()
    first = data["summary"][0]
    # Of two tracks the median over tracks is the mean.
    assert "| system | metric | stem | tracks | median over frames | mean over frames |" in table
    assert f"| est | SDR | drums | 2 | {first['median_of_medians']:.2f} |" in table
    for part in table.split("\n\n"):
        assert len({line.count("|") for line in part.splitlines() if line.startswith("|")}) <= 1


def test_the_page_is_whole_and_needs_nothing_beside_itself(reports):
    page = (reports / "report.html").read_text()
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert parser.loads == []
    assert "<two> & more" in "".join(parser.text)  # and no element of that name
    plots = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(plots) == 6
    for plot in plots:
        xml.etree.ElementTree.fromstring(plot)
    for caption in ("SDR", "ISR", "SIR", "SAR", "global SDR", "SI-SDR"):
        assert f"<figcaption>{caption}</figcaption>" in page


def test_boxes_are_tukeys():
    # Quartiles of 1..9 by linear interpolation are 3, 5, 7; whiskers reach to the last value within 7 + 6.
    assert five_numbers([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]) == (1, 3, 5, 7, 9)
    assert five_numbers([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 30.0]) == (1, 3, 5, 7, 8)
    assert five_numbers([4.0]) == (4, 4, 4, 4, 4)


def test_a_box_plot_draws_what_lies_beyond_the_whiskers_and_nothing_for_no_values():
    drawn = xml.etree.ElementTree.fromstring(
        box_plot([("a", [("s", [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 30.0]), ("t", [])])])
    )
    assert not drawn.findall("circle")
    boxes = [rect for rect in drawn.findall("rect") if rect.get("fill-opacity")]
    assert len(boxes) == 1
    ticks = [float(text.text) for text in drawn.findall("text") if text.get("text-anchor") == "end"]
    assert ticks == sorted(ticks)
    # 30 is far beyond: the axis is the boxes', and a triangle at its end says the number.
    assert ticks[0] <= 1 < 8 <= ticks[-1] < 16
    assert 4 <= len(ticks) <= 10
    assert len(drawn.findall("path")) == 1
    assert [text.text for text in drawn.findall("text") if text.get("class") == "small"] == ["30"]
    near = xml.etree.ElementTree.fromstring(
        box_plot([("a", [("s", [1.0, 2.0, 3.0, 4.0, 5.0, 9.0]), ("t", [0.0, 6.0])])])
    )
    assert not near.findall("path") and len(near.findall("circle")) == 1


def test_no_records_make_an_empty_table_and_a_full_disk_is_one_sentence(tmp_path):
    assert "| system | metric | stem | tracks |" in markdown(make_report([]))
    (tmp_path / "scores.json").mkdir()
    with pytest.raises(JaxsepError, match=r"scores.json' cannot be written"):
        write_reports(make_report([]), tmp_path, replaced=[tmp_path / "scores.json"])
    assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]

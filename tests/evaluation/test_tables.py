"""Tables of systems and of averages: which cells stand out, which columns are one, and every form that they have."""

import math
import re

import pytest

from jaxsep.evaluation.aggregates import TrackScore, aggregate
from jaxsep.evaluation.box_plot import box_plot, legend
from jaxsep.evaluation.page import _plots, html_page
from jaxsep.evaluation.palette import colours
from jaxsep.evaluation.scales import in_words
from jaxsep.evaluation.systems import SystemScore, system_scores
from jaxsep.evaluation.tables import aggregate_table, as_html, as_latex, as_markdown, comparison_tables


def track(system, stem, value, *, name="one", metric="SDR", mean=None, is_exact=False):
    return TrackScore(system, name, stem, metric, value, value if mean is None else mean, is_exact)


SCORES = [
    track("first_one", "vocals", 5.004),
    track("second", "vocals", 5.001),
    track("mixture", "vocals", -1.0),
    track("irm1", "vocals", 20.0),
    track("first_one", "drums", 3.0),
    track("second", "drums", 4.0),
    track("mixture", "drums", 1.0),
    track("irm1", "drums", math.nan),
]


def tables(scores, **options):
    return comparison_tables(system_scores(scores, aggregate(scores), **options))


def test_the_best_system_stands_out_in_all_forms_and_baselines_do_not():
    (table,) = tables(SCORES, baselines=["mixture", "irm1"])
    assert table.headings == ["system", "vocals", "drums"]
    assert table.rows == [
        ["first_one", "5.00 (+6.00)", "3.00 (+2.00)"],
        ["second", "5.00 (+6.00)", "4.00 (+3.00)"],
        ["mixture", "-1.00", "1.00"],
        ["irm1", "20.00 (+21.00)", "-"],
    ]
    # Equal to two decimals are equal.
    assert table.bold == {(0, 1), (1, 1), (1, 2)}
    assert "| second | **5.00 (+6.00)** | **4.00 (+3.00)** |" in as_markdown(table)
    assert '<td class="n"><b>4.00 (+3.00)</b></td>' in as_html(table)
    latex = as_latex(table)
    assert r"first\_one & \textbf{5.00 (+6.00)} & 3.00 (+2.00) \\" in latex
    assert r"mixture & $-$1.00 & 1.00 \\" in latex
    assert latex.count("{") == latex.count("}") and r"\begin{tabular}{lrr}" in latex


def test_of_a_distance_the_least_is_best():
    scores = [track(name, "a", value, metric="spectral distance") for name, value in (("x", 0.5), ("y", 0.4))]
    (table,) = tables(scores)
    assert table.bold == {(1, 1)}
    assert table.caption == "spectral distance, mean over 1 track, lower is better"


def test_one_system_alone_is_not_the_best():
    (table,) = tables(SCORES[:1])
    assert not table.bold


@pytest.mark.parametrize(
    ("scores", "headings"),
    [
        ([track("a", "x", 1.0)], ["score"]),
        ([track("a", "x", 1.0, mean=2.0)], ["median over frames", "mean over frames"]),
        (
            [track("a", "x", value, name=name) for name, value in (("1", 1.0), ("2", 2.0), ("3", 9.0))],
            ["median over tracks", "mean over tracks"],
        ),
        (
            [track("a", "x", value, name=name, mean=value**2) for name, value in (("1", 1.0), ("2", 2.0), ("3", 9.0))],
            ["median of medians", "mean of medians", "median of means", "mean of means"],
        ),
    ],
)
def test_averages_that_are_the_same_in_every_row_are_one_column(scores, headings):
    table = aggregate_table(aggregate(scores))
    assert table.headings[4:] == headings
    assert len(table.rows[0]) == 4 + len(headings)


def test_rounding_is_not_shown_and_exact_estimates_are_called_exact():
    assert in_words(150.0, in_decibels=True) == "> 150"
    assert in_words(-150.0, in_decibels=True) == "< -150"
    assert in_words(150.0, in_decibels=True, is_exact=True) == "exact"
    assert in_words(149.99, in_decibels=True) == "149.99"
    assert in_words(182.4, in_decibels=False) == "182.40"
    assert in_words(math.nan, in_decibels=True) == "-"
    one, other = track("a", "x", 150.0, is_exact=True), track("a", "x", 150.0, name="two")
    assert aggregate_table(aggregate([one])).rows[0][-1] == "exact"
    assert aggregate_table(aggregate([one, other])).rows[0][-1] == "> 150"
    assert aggregate_table(aggregate([one, track("a", "x", 10.0, name="two")])).rows[0][-1] == "80.00"


def test_nothing_in_brackets_stands_beside_a_score_that_is_no_number():
    """The improvement of an exact estimate would be the rounding's."""
    shown = {"tracks": 1, "average": "mean", "is_best": False, "improvement": 154.1, "lower_is_better": False}
    for value, is_exact, text in ((150.0, True, "exact"), (150.0, False, "> 150"), (9.5, False, "9.50 (+154.10)")):
        score = SystemScore(metric="SDR", stem="x", system="a", value=value, is_exact=is_exact, **shown)
        assert score.text() == text


@pytest.mark.parametrize(("metric", "improves"), [("SDR", True), ("SIR", True), ("SAR", False), ("SI-SAR", False)])
def test_artifacts_are_not_compared_with_the_mixture_which_has_none(metric, improves):
    scores = [track(system, "x", value, metric=metric) for system, value in (("a", 8.0), ("mixture", 107.0))]
    (own,) = (score for score in system_scores(scores, aggregate(scores)) if (score.system, score.stem) == ("a", "x"))
    assert own.text() == ("8.00 (-99.00)" if improves else "8.00")


def test_exact_estimates_do_not_rule_the_axis_of_a_plot():
    """What is not infinite of their ratios is rounding, 107 dB here."""
    scores = [track("a", "x", 107.0, is_exact=True, name=name) for name in ("one", "two", "three")]
    scores += [track("b", "x", value, name=name) for name, value in (("one", 1.0), ("two", 2.0), ("three", 3.0))]
    (plot,) = _plots(scores, ["a", "b"])
    assert plot.count("&gt;150") == plot.count("<path") == 1, "once, at the upper end"
    assert "107" not in plot and ">100<" not in plot


@pytest.mark.parametrize("count", [12, 40])
def test_colours_of_systems_do_not_repeat(count):
    found = colours(count)
    assert len(set(found)) == count and all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in found)
    names = [f"system {number}" for number in range(count)]
    assert re.findall("background:(#[0-9a-f]{6})", legend(names)) == found


def test_wide_parts_of_the_page_scroll_in_boxes_of_their_own():
    """So that nothing is cut on a narrow window."""
    style = html_page("t", [])
    assert re.search(r"\.scroll \{ overflow-x: auto; max-width: 100%;", style)
    # The name of the system stays in sight, scores break before their brackets, and plots shrink to seven tenths.
    narrow = style[style.index("@media (max-width: 640px)") :]
    assert "position: sticky; left: 0" in narrow and "td.n, th.n { white-space: normal; }" in narrow
    (widths,) = re.findall(r"max-width:(\d+)px;min-width:(\d+)px", box_plot([("vocals", [("x", [1.0])])]))
    assert int(widths[1]) == round(0.7 * int(widths[0]))
    assert "figure { margin: 0; max-width: 100%; }" in style and "overflow-wrap: anywhere" in style
    assert as_html(aggregate_table([])).startswith('<div class="scroll"><table>')

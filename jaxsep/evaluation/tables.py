"""Tables of scores: what is in their cells, and how they look in Markdown, LaTeX, HTML and on a terminal."""

import html
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxsep.evaluation.aggregates import AGGREGATES, Aggregate
from jaxsep.evaluation.scales import in_words, scale_of
from jaxsep.evaluation.systems import Difference, GroupScore, SystemScore

if TYPE_CHECKING:
    from rich.table import Table as RichTable

# Which averages are one column where they agree in every row: all of them for one track and metrics of whole tracks,
# those over tracks for one track or two, those over frames for metrics of whole tracks. And the averages by themselves.
_COLUMNS: tuple[dict[str, tuple[str, ...]], ...] = (
    {"score": AGGREGATES},
    {
        "median over frames": ("median_of_medians", "mean_of_medians"),
        "mean over frames": ("median_of_means", "mean_of_means"),
    },
    {
        "median over tracks": ("median_of_medians", "median_of_means"),
        "mean over tracks": ("mean_of_medians", "mean_of_means"),
    },
    {name.replace("_", " "): (name,) for name in AGGREGATES},
)
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
}


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        caption: One line on what the table shows.
        headings: Names of the columns.
        rows: Cells of each row.
        texts: Number of columns that are words; the others are numbers.
        bold: Cells that stand out, by row and column.
    """

    caption: str
    headings: list[str]
    rows: list[list[str]]
    texts: int
    bold: frozenset[tuple[int, int]] = frozenset()


def aggregate_table(rows: Sequence[Aggregate]) -> Table:
    """Returns the table of all aggregates; averages that are the same in every row are one column."""
    columns = _distinct_averages(rows)
    headings = ["system", "metric", "stem", "tracks", *(heading for heading, _ in columns)]
    cells = [
        [row.system, row.metric, row.stem, _tracks(row), *(_average(row, name) for _, name in columns)] for row in rows
    ]
    return Table("", headings, cells, 3)


def comparison_tables(scores: Sequence[SystemScore], *, with_improvement: bool = True) -> list[Table]:
    """Returns a table of systems by stems for each metric, the best in bold."""
    tables = []
    for metric in dict.fromkeys(score.metric for score in scores):
        own = [score for score in scores if score.metric == metric]
        systems = list(dict.fromkeys(score.system for score in own))
        stems = list(dict.fromkeys(score.stem for score in own))
        cells = {(score.system, score.stem): score for score in own}
        rows, bold = [], set()
        for number, system in enumerate(systems):
            row = [system]
            for stem in stems:
                score = cells.get((system, stem))
                row.append("-" if score is None else score.text(with_improvement=with_improvement))
                if score is not None and score.is_best:
                    bold.add((number, len(row) - 1))
            rows.append(row)
        tables.append(Table(_caption(own), ["system", *stems], rows, 1, frozenset(bold)))
    return tables


def difference_tables(differences: Sequence[Difference]) -> list[Table]:
    """Returns a table of paired differences for each metric."""
    headings = ["stem", "first", "second", "tracks", "second - first", "95 % interval"]
    headings += ["Wilcoxon p", "corrected", "sign-flip p", "corrected"]
    tables = []
    for metric in dict.fromkeys(each.metric for each in differences):
        rows = []
        for each in (each for each in differences if each.metric == metric):
            paired = each.paired
            interval = "-" if math.isnan(paired.low) else f"[{paired.low:+.2f}, {paired.high:+.2f}]"
            p_values = (paired.wilcoxon_p, each.wilcoxon_holm, paired.sign_flip_p, each.sign_flip_holm)
            rows.append(
                [each.stem, each.first, each.second, str(paired.pairs), f"{paired.mean:+.2f}", interval]
                + ["-" if math.isnan(p) else f"{p:.2g}" for p in p_values]
            )
        tables.append(Table(metric + _unit(metric), headings, rows, 3))
    return tables


def group_tables(groups: Sequence[GroupScore]) -> list[Table]:
    """Returns a table of systems by stems for each group and metric."""
    tables = []
    for column, group in dict.fromkeys((each.grouped_by, each.group) for each in groups):
        own = [each.score for each in groups if (each.grouped_by, each.group) == (column, group)]
        for table in comparison_tables(own):
            caption = f"{column}: {group}. {table.caption}"
            tables.append(Table(caption, table.headings, table.rows, table.texts, table.bold))
    return tables


def as_markdown(table: Table) -> str:
    """Returns a table in Markdown, without its caption."""
    lines = [table.headings, ["---"] * table.texts + ["---:"] * (len(table.headings) - table.texts)]
    for row in _emphasised(table, lambda cell: cell.replace("|", "\\|"), "**{}**"):
        lines.append(row)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def as_latex(table: Table) -> str:
    """Returns a table in LaTeX, which needs no package."""
    columns = "l" * table.texts + "r" * (len(table.headings) - table.texts)
    lines = [
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{latex_text(table.caption)}}}",
        f"\\begin{{tabular}}{{{columns}}}",
        "\\hline",
        " & ".join(map(latex_text, table.headings)) + " \\\\",
        "\\hline",
        *(" & ".join(row) + " \\\\" for row in _emphasised(table, latex_text, "\\textbf{{{}}}")),
        "\\hline",
        "\\end{tabular}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def latex_text(text: str) -> str:
    """Returns text as LaTeX shows it; a minus before a number is a minus."""
    escaped = "".join(_LATEX.get(character, character) for character in text)
    is_negative = len(text) > 1 and text[0] == "-" and text[1].isdigit()
    return f"$-${escaped[1:]}" if is_negative else escaped.replace("(-", "($-$")


def as_html(table: Table, *, new_groups: Iterable[int] = ()) -> str:
    """Returns a table in HTML, wide ones in a box that scrolls; without its caption.

    Args:
        table: The table.
        new_groups: Rows with a line above them.
    """
    lines = [_html_row([html.escape(each) for each in table.headings], "th", table.texts)]
    above = set(new_groups)
    for number, row in enumerate(_emphasised(table, html.escape, "<b>{}</b>")):
        lines.append(_html_row(row, "td", table.texts, first=number in above))
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def as_rich(table: Table) -> "RichTable":
    """Returns a table for the terminal."""
    from rich.table import Table as RichTable
    from rich.text import Text

    made = RichTable(box=None, pad_edge=False)
    for number, heading in enumerate(table.headings):
        made.add_column(heading, overflow="fold", justify="left" if number < table.texts else "right")
    for number, row in enumerate(table.rows):
        made.add_row(*(Text(cell, "bold" if (number, column) in table.bold else "") for column, cell in enumerate(row)))
    return made


def _emphasised(table: Table, escape: Callable[[str], str], form: str) -> list[list[str]]:
    return [
        [
            form.format(escape(cell)) if (number, column) in table.bold else escape(cell)
            for column, cell in enumerate(row)
        ]
        for number, row in enumerate(table.rows)
    ]


def _html_row(cells: Sequence[str], tag: str, texts: int, *, first: bool = False) -> str:
    kinds = [*[""] * texts, *[' class="n"'] * (len(cells) - texts)]
    attribute = ' class="first"' if first else ""
    inner = "".join(f"<{tag}{kind}>{cell}</{tag}>" for cell, kind in zip(cells, kinds, strict=True))
    return f"<tr{attribute}>{inner}</tr>"


def _distinct_averages(rows: Sequence[Aggregate]) -> list[tuple[str, str]]:
    """Returns heading and field of each average, of those that agree in every row the first."""
    cells = {name: [_average(row, name) for row in rows] for name in AGGREGATES}
    fitting = (
        columns
        for columns in _COLUMNS
        if all(cells[name] == cells[names[0]] for names in columns.values() for name in names)
    )
    return [(heading, names[0]) for heading, names in next(fitting).items()]


def _average(row: Aggregate, name: str) -> str:
    return in_words(getattr(row, name), in_decibels=scale_of(row.metric).in_decibels, is_exact=row.is_exact)


def _tracks(row: Aggregate) -> str:
    return f"{row.tracks} ({row.silent_estimates} silent)" if row.silent_estimates else str(row.tracks)


def _unit(metric: str) -> str:
    return " in dB" if scale_of(metric).in_decibels else ""


def _caption(scores: Sequence[SystemScore]) -> str:
    metric, counts = scores[0].metric, sorted({score.tracks for score in scores if score.tracks})
    tracks = " to ".join(dict.fromkeys(str(count) for count in (counts[:1] + counts[-1:]) or [0]))
    average = "mean" if scores[0].average == "mean of means" else scores[0].average
    down = ", lower is better" if scores[0].lower_is_better else ""
    return f"{metric}{_unit(metric)}, {average} over {tracks} track{'s' * (tracks != '1')}{down}"

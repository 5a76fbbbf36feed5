"""Scores and groups from CSV files: what is taken, and what is refused in a sentence."""

import math

import pytest

from jaxsep.errors import ConfigError
from jaxsep.evaluation.aggregates import ALL_STEMS
from jaxsep.evaluation.joined import read_groups, read_scores


def written(folder, text):
    path = folder / "scores.csv"
    path.write_bytes(text.encode())
    return path


def test_scores_come_with_their_mean_over_stems_and_without_what_is_empty(tmp_path):
    text = "\ufefftrack,stem,PEAQ\r\nCafe\u0301,vocals,-0.5\r\nCafe\u0301,drums, -1.5 \r\nb,vocals,-2\r\nb,drums,\r\n"
    scores = read_scores(written(tmp_path, text), ["ours"], ["Caf\u00e9", "b"], ["vocals", "drums"])
    found = {(score.track, score.stem): score.frames_median for score in scores}
    assert found["Caf\u00e9", "vocals"] == -0.5 and found["Caf\u00e9", ALL_STEMS] == -1.0
    assert math.isnan(found["b", "drums"]) and math.isnan(found["b", ALL_STEMS])
    assert {(score.system, score.metric) for score in scores} == {("ours", "PEAQ")}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is to begin with a line of headings"),
        ("track,stem,MOS,MOS\n", "headings, each once"),
        ("track,MOS\n", "has no column 'stem'"),
        ("track,stem,MOS\n", "has no column 'system'"),
        ("system,track,stem\n", "has no column with scores"),
        ("system,track,stem,SDR\n", "a column 'SDR', which is a metric of jaxsep's own"),
        ("system,track,stem,MOS\na,one,vocals\n", "Line 2 .* has 3 cells, not 4 as its headings"),
        ("system,track,stem,MOS\nc,one,vocals,1\n", "line 2 .* has the system 'c', which is not evaluated"),
        ("system,track,stem,MOS\na,on,vocals,1\n", "has the track 'on', .* Did you mean 'one'"),
        ("system,track,stem,MOS\na,one,vocal,1\n", "has the stem 'vocal', .* Did you mean 'vocals'"),
        ("system,track,stem,MOS\na,one,vocals,good\n", "line 2 .* has 'good' for 'MOS'; give a finite number"),
        ("system,track,stem,MOS\na,one,vocals,inf\n", "has 'inf' for 'MOS'"),
        ("system,track,stem,MOS\na,one,vocals,1\na,one,vocals,2\n", "line 3 .* again"),
    ],
)
def test_scores_that_cannot_be_joined_are_refused(tmp_path, text, sentence):
    with pytest.raises(ConfigError, match=sentence):
        read_scores(written(tmp_path, text), ["a", "b"], ["one", "two"], ["vocals", "drums"])


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is no CSV file in UTF-8"):
        read_groups(path, ["one"])


def test_groups_are_by_every_column_of_the_tracks_that_are_evaluated(tmp_path):
    text = "Track Name,Genre,Licence\none,Rock,a\nelsewhere,Jazz,b\ntwo,Pop,a\n"
    assert read_groups(written(tmp_path, text), ["two", "one"]) == {
        "Genre": {"two": "Pop", "one": "Rock"},
        "Licence": {"two": "a", "one": "a"},
    }
    with pytest.raises(ConfigError, match=r"lacks the track 'three', which is evaluated"):
        read_groups(written(tmp_path, text), ["three"])
    with pytest.raises(ConfigError, match=r"Line 3 of .* has the track 'one' again"):
        read_groups(written(tmp_path, "track,genre\none,Rock\none,Pop\n"), ["one"])
    with pytest.raises(ConfigError, match="is to have a column 'track' and others to group by; it has genre"):
        read_groups(written(tmp_path, "genre\nRock\n"), ["one"])

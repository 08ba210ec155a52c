import pytest

from detect_prune.report.tables import Table, count, score, share, size


@pytest.mark.parametrize(
    "number, text",
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.000 k"),
        (430_500, "430.5 k"),
        (999_999, "1.000 M"),
        (6_062_814, "6.063 M"),
        (64_429_405, "64.43 M"),
    ],
)
def test_count(number, text):
    assert count(number) == text


@pytest.mark.parametrize(
    "number, text",
    [
        (0, "0 B"),
        (999, "999 B"),
        (999_960, "1.0 MB"),
        (12_345_678, "12.3 MB"),
        (257_717_640, "257.7 MB"),
        (5e15, "5000.0 TB"),
    ],
)
def test_size(number, text):
    assert size(number) == text


@pytest.mark.parametrize(
    "fraction, text",
    [(0, "0.0 %"), (1e-6, "0.0001 %"), (0.0033, "0.33 %"), (0.2, "20.0 %"), (0.99967, "99.97 %"), (1, "100.0 %")],
)
def test_share_never_rounds_a_part_to_all_or_nothing(fraction, text):
    assert share(fraction) == text


def test_score_is_written_as_its_field_does():
    assert score("AP50", 0.4794) == "0.479" and score("top-1", 0.9907) == "99.07 %"
    assert score("mAP", None) == score("APs", float("nan")) == "-"


def test_columns_are_aligned_and_numbers_stand_right():
    table = Table(["stage", "AP", "file"])
    table.row("dense", "0.272", "24.3 MB").row("cut + batch norm", None, "1 kB").row("日本", 1, 2)
    head, rule, *rows = str(table).splitlines()
    assert len(rows) == 3 and set(rule) == {"-"}
    end = head.index("AP") + 2
    assert rows[0][:end].endswith("0.272") and rows[0].startswith("dense ")
    assert head.endswith("file") and rows[0].endswith("24.3 MB") and rows[1].endswith(" 1 kB")
    assert len(head) == len(rows[0]) == len(rows[1]) == len(rows[2]) + 2  # two characters that are two columns wide


def test_markdown_has_a_cell_for_each_column_and_escapes_bars():
    lines = Table(["a", "b"]).row("x|y", 1).markdown().splitlines()
    assert lines[1] == "|---|---:|"
    assert "x\\|y" in lines[2]
    assert all(line.replace("\\|", "").count("|") == 3 for line in lines)


def test_wrong_number_of_cells_is_refused():
    with pytest.raises(ValueError, match="1 cells for 2 columns"):
        Table(["a", "b"]).row(1)


def test_recalls_are_fractions_too():
    assert score("AR100", 0.4794) == "0.479"

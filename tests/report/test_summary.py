import json
from dataclasses import asdict

from detect_prune.report.summary import Stage, closing_table, layer_table, verdict

N, MACS, FILE = 6_000_000, 3_457_000_000, 24_251_276
DENSE = Stage("dense", {"AP": 0.272, "AP50": 0.479}, N, N, MACS, MACS, FILE, 22_500_000)
RESULT = Stage("retrained", {"AP": 0.255, "AP50": 0.46}, N // 5, N, MACS, 900_000_000, FILE, 5_487_804)


def test_closing_table_has_a_row_for_each_stage():
    cut = Stage("cut", {"AP": 0.1}, 1_200_000, 6_000_000, MACS, 1_000_000_000, FILE, 6_000_000)
    text = str(closing_table([DENSE, cut, RESULT], ("AP", "AP50")))
    rows = text.splitlines()[2:]
    assert [row.split("  ")[0] for row in rows] == ["dense", "cut", "retrained"]
    assert all(text in rows[2] for text in ("0.255", "1,200,000", "20.0 %", "900.0 M", "24.3 MB"))
    assert rows[1].split()[:6] == ["cut", "0.100", "-", "1,200,000", "20.0", "%"]


def test_layer_table_sums_up():
    rows = str(layer_table({"conv": (10, 100), "fc": (90, 100)})).splitlines()
    assert rows[-1].split() == ["all", "200", "100", "50.0", "%"]


def test_verdict_says_what_is_smaller_and_claims_no_speed():
    text = verdict(DENSE, RESULT)
    assert text == (
        "80.0 % of the weights are zero (4.800 M of 6.000 M); the .weights file keeps its 24.3 MB, because Darknet's "
        "format stores zeros too; as zip it is 4.1x smaller than the dense file's zip (5.5 MB for 22.5 MB); nothing "
        "runs faster yet: ordinary dense inference multiplies by the zeros too, though only 26.0 % of its "
        "multiply-accumulates meet a non-zero weight."
    )


def test_verdict_follows_the_numbers():
    packed = Stage("retrained", {}, 3, 6, 100, 50, 12_000_000, 22_400_000)
    text = verdict(Stage("dense", {}, 6, 6, 100, 100, 24_000_000, 22_500_000), packed, "pruned.pt")
    assert "the .pt file went from 24.0 MB to 12.0 MB" in text and "its zip is no smaller" in text
    assert "only 50.0 % of its multiply-accumulates" in text


def test_files_and_zips_have_columns_of_their_own():
    table = closing_table([Stage("dense", {}, 5, 10, 2000, 1000, 24_251_276, 22_500_000)], ())
    assert dict(zip(table.columns, table.rows[0])) == {
        "stage": "dense",
        "weights kept": "5",
        "share": "50.0 %",
        "MACs dense": "2.000 k",
        "MACs of non-zeros": "1.000 k",
        "file": "24.3 MB",
        "zip": "22.5 MB",
    }


def test_stage_goes_into_json():
    assert json.loads(json.dumps(asdict(RESULT)))["metrics"] == {"AP": 0.255, "AP50": 0.46}

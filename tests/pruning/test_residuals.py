"""What is said of layers where W has not met Z."""

from detect_prune.pruning import too_early


def test_the_worst_layers_are_named_first_and_the_rest_counted():
    assert too_early({}) == too_early({"a": 0.0, "b": 0.05}) == ""
    said = too_early({"a": 0.06, "b": 0.04, "c": 0.5})
    assert "c (50.00%), a (6.00%)." in said and "b (" not in said and "more." not in said
    assert "5%" in said and "a (5.01%)" in too_early({"a": 0.050124})
    many = too_early({f"layer{i}": 0.1 + 0.01 * i for i in range(110)})
    assert "in layer109 (119.00%), " in many and "layer105 (115.00%) and 105 more." in many and "layer104" not in many

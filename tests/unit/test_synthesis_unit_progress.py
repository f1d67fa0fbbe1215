"""What is said of a unit of images while it is made."""

from cluster.synthesis.unit_progress import UnitProgress


def test_a_line_an_interval_with_images_losses_and_time_left() -> None:
    now, lines = [0.0], []
    said = UnitProgress("generation-000-unit-000001", 4000, lines.append, lambda: now[0], interval_seconds=30)
    for second, have in ((10, 0), (31, 0), (40, 500), (62, 1000), (80, 2000)):
        now[0] = second
        said(have, {"one_hot": 5.8512, "batch_norm": 143.22})
    assert lines == [
        "generation-000-unit-000001: 0 of 4,000 images after 31 s, step 2, one_hot 5.85, batch_norm 143",
        "generation-000-unit-000001: 1,000 of 4,000 images after 1 min 02 s, step 4, one_hot 5.85, batch_norm 143, "
        "3 min 06 s left",
    ]

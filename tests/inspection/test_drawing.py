"""What a drawing of a network holds: every layer once, or in a block that says how often."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import apot_export
from apot_export.inspection.drawing import Drawing, drawing
from apot_export.inspection.page._drawings import NetworkDrawing
from apot_export.network import operations as op
from tests.support.commands import EXPORT
from tests.support.random_graphs import random_graph

WITHIN = (op.QuantizeActivation, op.ScaleBias, op.Relu, op.Clip, op.Flatten)


def times_drawn(found: Drawing) -> Counter[str]:
    """Count the operations of all rows, those of blocks as often as they repeat."""
    counts: Counter[str] = Counter()
    for place, row in enumerate(found.rows):
        times = [block.times for block in found.blocks if block.start <= place <= block.end]
        counts[row.says.split(",")[0].split()[0]] += times[0] if times else 1
    return counts


@pytest.mark.parametrize("seed", range(40))
def test_every_operation_is_drawn_or_belongs_to_the_one_before(seed: int) -> None:
    network = random_graph(seed)
    found = drawing(network)
    drawn = [node for node in network.nodes if not isinstance(node.operation, WITHIN)]
    assert sum(times_drawn(found).values()) == len(drawn) + 1  # the images
    convolutions = [node for node in drawn if isinstance(node.operation, op.Convolution)]
    assert times_drawn(found)["conv"] == len(convolutions)
    assert found.rows[-1].shape.replace(" ", "") == "\N{MULTIPLICATION SIGN}".join(
        map(str, network.shapes[network.output])
    )


@pytest.mark.parametrize("seed", range(40))
def test_every_value_that_is_read_has_a_line_and_lanes_hold_one_at_a_time(seed: int) -> None:
    found = drawing(random_graph(seed))
    read = {(one, place) for place, row in enumerate(found.rows) for one in row.reads}
    assert all(0 <= one < place for one, place in read)
    skips = {(skip.start, skip.end) for skip in found.skips}
    assert skips == {(one, place) for one, place in read if one < place - 1}
    for skip in found.skips:
        for other in found.skips:
            if other is not skip and other.lane == skip.lane:
                assert other.end <= skip.start or skip.end <= other.start
    drawn = NetworkDrawing(found)
    assert len(drawn.arrows) + len(drawn.skips) == len(read)
    assert drawn.top(len(found.rows) - 1) + drawn.row <= drawn.height


def test_a_residual_network_has_its_blocks(reference: Path) -> None:
    checkpoint = reference / "checkpoints/CIFAR10/result/res20_4bit/model_best.pth.tar"
    found = drawing(apot_export.inspect(checkpoint).network)
    assert [block.times for block in found.blocks] == [3, 2, 2]
    assert times_drawn(found) == {"image": 1, "conv": 21, "add": 9, "average": 1, "linear": 1}
    first = found.rows[found.blocks[0].start]
    assert (first.layer, first.says) == (
        "layer1.0.conv1",
        "conv 3 \N{MULTIPLICATION SIGN} 3, 4 bits",
    )


def test_shapes_are_those_of_the_network(exported: Path) -> None:
    network = apot_export.inspect(exported / EXPORT).network
    for row in drawing(network).rows:
        shape = " \N{MULTIPLICATION SIGN} ".join(map(str, network.shapes[row.value]))
        assert row.shape == shape

import numpy as np
import pytest
from onnx import AttributeProto, helper

from tasador.trees.onnx_graph import fields, repeated_ints

INTS = 8


def test_repeated_integers_are_read_whether_packed_or_not():
    values = [0, 1, 127, 128, 300_000, 2**34]
    attribute = helper.make_attribute("ints", values).SerializeToString()
    assert repeated_ints(memoryview(attribute), INTS).tolist() == values
    packed = bytes([INTS << 3 | 2, 4, 5, 0x80, 1, 7])
    assert repeated_ints(memoryview(packed), INTS).tolist() == [5, 128, 7]
    assert repeated_ints(memoryview(packed + attribute), INTS).tolist() == [5, 128, 7, *values]
    assert repeated_ints(memoryview(b""), INTS).tolist() == []


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_what_stands_around_the_integers_does_not_matter(count):
    attribute = AttributeProto(name="n", f=1.5, type=AttributeProto.INTS)
    attribute.ints.extend(range(count))
    message = memoryview(attribute.SerializeToString())
    assert (repeated_ints(message, INTS) == np.arange(count)).all()
    assert dict(fields(message))[1] == b"n"


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (bytes([0x40]), "breaks off"),
        (bytes([0x40, 0x80]), "breaks off"),
        (bytes([0x42, 1, 0x80]), "breaks off"),
        (bytes([0x42, 9, 1]), "breaks off"),
        (bytes([0x0D, 1, 2]), "breaks off"),
        (bytes([0x0B]), "unknown kind 3"),
        (bytes([0x40, *[0xFF] * 9, 1]), "out of range"),
        (bytes([0x40, 1, 0x10, 1] * 50), "scattered"),
        (bytes([0x80] * 11), "breaks off"),
    ],
)
def test_damaged_messages_are_refused(message, text):
    with pytest.raises(ValueError, match=text):
        repeated_ints(memoryview(message), INTS)

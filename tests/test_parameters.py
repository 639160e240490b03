"""Layout: one flat vector, seen as layers."""

import numpy as np
import pytest

from xpmlp.network.parameters import Layout

SIZES = (3, 4, 2)
layouts = pytest.mark.parametrize("layout", [Layout(SIZES), Layout(SIZES, alignment=8)], ids=["tight", "aligned"])


@layouts
@pytest.mark.parametrize("lead", [(), (5,)], ids=["one", "many"])
def test_unpacking_what_was_packed_gives_it_back(layout, lead, backend, rng):
    W = [None] + [rng.normal(size=(*lead, SIZES[k - 1], SIZES[k])) for k in (1, 2)]
    b = [None] + [rng.normal(size=(*lead, 1, SIZES[k]) if lead else SIZES[k]) for k in (1, 2)]
    for dtype in backend.dtypes:
        here = [[None if x is None else backend.put(x, dtype) for x in list_] for list_ in (W, b)]
        flat = layout.pack(*here)
        assert tuple(flat.shape) == (*lead, layout.size)
        for unpacked, desired in zip(layout.unpack(flat), (W, b), strict=True):
            assert unpacked[0] is None
            for k in (1, 2):
                backend.assert_close(unpacked[k], desired[k].astype(dtype))


def test_weights_come_first_and_biases_last():
    layout = Layout(SIZES)
    assert [(it.name, it.layer, it.start, it.stop, it.shape) for it in layout.segments] == [
        ("W", 1, 0, 12, (3, 4)),
        ("W", 2, 12, 20, (4, 2)),
        ("b", 1, 20, 24, (4,)),
        ("b", 2, 24, 26, (2,)),
    ]
    assert (layout.size, layout.n_parameters, layout.n_weights, layout.n_layers) == (26, 26, 20, 2)
    flat = layout.pack([None, np.full((3, 4), 1.0), np.full((4, 2), 2.0)], [None, np.full(4, 3.0), np.full(2, 4.0)])
    np.testing.assert_array_equal(flat, [1] * 12 + [2] * 8 + [3] * 4 + [4] * 2)


def test_aligned_segments_start_at_multiples_and_padding_is_zero_and_not_counted():
    layout = Layout(SIZES, alignment=8)
    assert [it.start for it in layout.segments] == [0, 16, 24, 32]
    assert (layout.size, layout.n_parameters, layout.n_weights) == (34, 26, 24)
    flat = layout.pack([None, np.ones((3, 4)), np.ones((4, 2))], [None, np.ones(4), np.ones(2)])
    np.testing.assert_array_equal(np.flatnonzero(flat == 0), [12, 13, 14, 15, 28, 29, 30, 31])
    many = layout.pack([None, np.ones((2, 3, 4)), np.ones((2, 4, 2))], [None, np.ones((2, 1, 4)), np.ones((2, 1, 2))])
    np.testing.assert_array_equal(many, [flat, flat])


def test_layers_are_views_where_the_library_has_views():
    flat = np.zeros(26)
    W, b = Layout(SIZES).unpack(flat)
    W[2][0, 1], b[1][3] = 5.0, 7.0
    assert flat[13] == 5.0
    assert flat[23] == 7.0


@layouts
def test_every_element_knows_its_layer(layout):
    W, b = [None, np.full((3, 4), 1), np.full((4, 2), 2)], [None, np.full(4, 11), np.full(2, 12)]
    for index, value in enumerate(layout.pack(W, b)):
        name, layer = layout.locate(index)
        assert value in (0, layer + (10 if name == "b" else 0))


def test_layouts_are_values():
    assert Layout((2, 1)) == Layout((2, 1))
    assert Layout((2, 1)) != Layout((2, 1), alignment=64)
    assert hash(Layout((2, 1))) == hash(Layout((2, 1)))

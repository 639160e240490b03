"""Layout: one flat vector, seen as layers."""

import numpy as np
import pytest

from xpmlp.network.parameters import Layout, Other, Parameters

SIZES = (3, 4, 2)
layouts = pytest.mark.parametrize("layout", [Layout(SIZES), Layout(SIZES, alignment=8)], ids=["tight", "aligned"])


@layouts
@pytest.mark.parametrize("lead", [(), (5,)], ids=["one", "many"])
def test_unpacking_what_was_packed_gives_it_back(layout, lead, backend, rng):
    W = [None] + [rng.normal(size=(*lead, SIZES[k - 1], SIZES[k])) for k in (1, 2)]
    b = [None] + [rng.normal(size=(*lead, 1, SIZES[k]) if lead else SIZES[k]) for k in (1, 2)]
    for dtype in backend.dtypes:
        here = [[None if x is None else backend.put(x, dtype) for x in list_] for list_ in (W, b)]
        flat = layout.pack(Parameters(*here))
        assert tuple(flat.shape) == (*lead, layout.size)
        for unpacked, desired in zip(layout.unpack(flat)[:2], (W, b), strict=True):
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
    assert (layout.size, layout.n_parameters, layout.decaying_stop, layout.n_layers) == (26, 26, 20, 2)
    flat = layout.pack(
        Parameters([None, np.full((3, 4), 1.0), np.full((4, 2), 2.0)], [None, np.full(4, 3.0), np.full(2, 4.0)])
    )
    np.testing.assert_array_equal(flat, [1] * 12 + [2] * 8 + [3] * 4 + [4] * 2)


def test_aligned_segments_start_at_multiples_and_padding_is_zero_and_not_counted():
    layout = Layout(SIZES, alignment=8)
    assert [it.start for it in layout.segments] == [0, 16, 24, 32]
    assert (layout.size, layout.n_parameters, layout.decaying_stop) == (34, 26, 24)
    flat = layout.pack(Parameters([None, np.ones((3, 4)), np.ones((4, 2))], [None, np.ones(4), np.ones(2)]))
    np.testing.assert_array_equal(np.flatnonzero(flat == 0), [12, 13, 14, 15, 28, 29, 30, 31])
    many = layout.pack(
        Parameters([None, np.ones((2, 3, 4)), np.ones((2, 4, 2))], [None, np.ones((2, 1, 4)), np.ones((2, 1, 2))])
    )
    np.testing.assert_array_equal(many, [flat, flat])


def test_layers_are_views_where_the_library_has_views():
    flat = np.zeros(26)
    W, b, _ = Layout(SIZES).unpack(flat)
    W[2][0, 1], b[1][3] = 5.0, 7.0
    assert flat[13] == 5.0
    assert flat[23] == 7.0


@layouts
def test_every_element_knows_its_layer(layout):
    W, b = [None, np.full((3, 4), 1), np.full((4, 2), 2)], [None, np.full(4, 11), np.full(2, 12)]
    for index, value in enumerate(layout.pack(Parameters(W, b))):
        name, layer = layout.locate(index)
        assert value in (0, layer + (10 if name == "b" else 0))


def test_layouts_are_values():
    assert Layout((2, 1)) == Layout((2, 1))
    assert Layout((2, 1)) != Layout((2, 1), alignment=64)
    assert hash(Layout((2, 1))) == hash(Layout((2, 1)))


# --- What layers have beside W and b ---

OTHERS = (Other("gain", 1, (4,)), Other("table", 0, (3, 2), decays=True), Other("shift", 2, (2,)))


@pytest.mark.parametrize("alignment", [1, 8])
@pytest.mark.parametrize("lead", [(), (5,)], ids=["one", "many"])
def test_other_arrays_lie_behind_those_with_which_they_decay(alignment, lead, backend, rng):
    layout = Layout(SIZES, alignment, OTHERS)
    assert [(it.name, it.layer) for it in layout.segments] == [
        *(("W", 1), ("W", 2), ("table", 0), ("b", 1), ("b", 2), ("gain", 1), ("shift", 2))
    ]
    assert [it.name for it in layout.decaying] == ["W", "W", "table"]
    assert layout.n_parameters == 26 + 4 + 6 + 2
    flat = rng.permuted(np.broadcast_to(np.arange(float(layout.size)), (*lead, layout.size)), axis=-1)
    p = layout.unpack(backend.put(flat))
    start = layout.segments[2].start
    table = flat[..., start : start + 6].reshape(*lead, 3, 2)
    backend.assert_close(p.own[0]["table"], table)
    assert tuple(p.own[1]["gain"].shape) == ((5, 1, 4) if lead else (4,))
    assert p.own[2].keys() == {"shift"}
    packed = backend.get(layout.pack(p))
    for _, _, first, stop, _, _ in layout.segments:
        np.testing.assert_array_equal(packed[..., first:stop], backend.get(backend.put(flat))[..., first:stop])


def test_a_vector_by_name_and_layer(backend):
    layout = Layout(SIZES, 8, OTHERS)
    flat = backend.get(layout.fill(lambda it: 10.0 * it.layer + it.decays, backend.put(np.zeros(1))))
    assert flat.shape == (layout.size,)
    for name, layer, start, stop, _, decays in layout.segments:
        assert set(flat[start:stop]) == {10.0 * layer + decays}, name
    assert flat.sum() == sum((it.stop - it.start) * (10.0 * it.layer + it.decays) for it in layout.segments)

"""Epochs of whole batches alone, and what a fit with an average leaves behind."""

import numpy as np
import pytest

import xpmlp

N = 50
X = np.random.default_rng(0).normal(size=(N, 3))
Y = X[:, 0] - X[:, 1] ** 2
OPTIONS = {"epochs": 3, "batch_size": 16, "learning_rate": 0.05}


def fitted(rows=N, **options):
    net = xpmlp.MLP([3, 5, 1], random_state=0)
    return net.fit(X[:rows], Y[:rows], **OPTIONS | options)


def test_in_order_the_rows_that_fill_no_batch_are_as_if_they_were_not_there():
    left_out, without = fitted(drop_last=True, shuffle=False), fitted(rows=48, shuffle=False)
    np.testing.assert_array_equal(left_out.W[1], without.W[1])
    assert left_out.history == without.history
    assert not np.array_equal(left_out.W[1], fitted(shuffle=False).W[1])


def test_shuffled_each_epoch_leaves_out_others():
    # Of 20 rows 16 are in the one batch of an epoch: with the same ones in all, three epochs are those of 16 rows.
    left_out, same = fitted(rows=20, drop_last=True), fitted(rows=20, drop_last=True, shuffle=False)
    assert not np.array_equal(left_out.W[1], same.W[1])
    assert len(set(left_out.history["loss"])) == 3


def test_where_no_batch_is_whole_all_rows_are_taken():
    np.testing.assert_array_equal(fitted(rows=9, drop_last=True).W[1], fitted(rows=9).W[1])


def test_networks_at_once_leave_out_rows_of_their_own():
    nets = xpmlp.MLP([3, 5, 1], n_networks=2, random_state=0)
    alone = xpmlp.MLP([3, 5, 1], random_state=nets.seeds[1])
    nets.fit(X, Y, **OPTIONS, drop_last=True)
    alone.fit(X, Y, **OPTIONS, drop_last=True)
    np.testing.assert_allclose(nets.W[1][1], alone.W[1], rtol=1e-12)  # batched products round in another order


def test_lbfgs_leaves_no_row_out():
    with pytest.raises(ValueError, match="leave out drop_last"):
        xpmlp.MLP([3, 5, 1]).fit(X, Y, optimizer="lbfgs", drop_last=True)


def test_a_run_that_goes_on_leaves_out_the_same_rows(tmp_path):
    whole = fitted(drop_last=True, average=1, checkpoint=tmp_path / "whole")
    fitted(drop_last=True, average=1, checkpoint=tmp_path / "run", epochs=2)
    again = fitted(drop_last=True, average=1, checkpoint=tmp_path / "run", resume=True)
    np.testing.assert_array_equal(again.W[1], whole.W[1])
    assert again.history == whole.history


def test_a_checkpoint_of_an_average_holds_it_as_its_model(tmp_path):
    net = fitted(average=2, checkpoint=tmp_path)
    np.testing.assert_array_equal(xpmlp.load(tmp_path / "last.safetensors").W[1], net.W[1])


def test_early_stopping_tells_the_loss_of_weights_and_average():
    held = {"validation_data": (X[:10], Y[:10]), "early_stopping": True}
    history = fitted(average=2, **held).history
    assert len(history["validation_loss_unaveraged"]) == 3
    assert history["validation_loss_unaveraged"] != history["validation_loss"]
    assert "validation_loss_unaveraged" not in fitted(**held).history

"""What an estimator of tables has, declared: the fitted attributes, and what the modules above ask of them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.callback import CallbackSupportMixin

from xpmlp.backends import HostArray
from xpmlp.estimators.tabular.targets import TargetsOfTables
from xpmlp.estimators.targets import Samples
from xpmlp.estimators.validation import Inputs
from xpmlp.mlp import MLP
from xpmlp.network import Network
from xpmlp.tabular import TablePreparation


class TabularAttributes(CallbackSupportMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """An estimator as the functions of this folder see it. Annotations make no attributes: `fit` does."""

    preparation: TablePreparation | None  # the parameter

    network_: MLP
    preparation_: TablePreparation
    history_: dict[str, list[float]]
    refit_history_: dict[str, list[float]] | None
    best_epoch_: int
    validation_loss_: float
    validation_score_: float
    stopped_by_: tuple[str, ...]
    n_parameters_: int
    n_iter_: int
    n_features_in_: int
    feature_names_in_: HostArray

    @abstractmethod
    def _known_targets(self) -> TargetsOfTables:
        """What y means to this fitted estimator."""

    @abstractmethod
    def _learn(self, y: Any, w: Any, inputs: Inputs) -> tuple[TargetsOfTables, Samples]:
        """What y means in a fit that begins, and its samples; the inputs are the numbers of the rows."""

    @classmethod
    @abstractmethod
    def _targets_read(
        cls, document: Mapping[str, Any], arrays: Mapping[str, HostArray], network: Network
    ) -> TargetsOfTables:
        """What y means to the estimator of a file."""

    def _show(self, net: MLP, preparation: TablePreparation) -> None:
        """Have learned this network, behind this preparation."""
        self.network_, self.preparation_ = net, preparation
        self.n_parameters_, self.n_iter_ = net.layout.n_parameters, len(self.history_.get("loss", ()))
        self.n_features_in_ = preparation.n_features_in_
        self.__dict__.pop("feature_names_in_", None)
        if hasattr(preparation, "feature_names_in_"):
            self.feature_names_in_ = preparation.feature_names_in_

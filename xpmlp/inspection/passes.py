"""One pass there and back, and the step after it, on the host: what `equations` and `paths` read."""

from dataclasses import dataclass, replace

from xpmlp.backends import HostArray
from xpmlp.inspection.parts import PartPass
from xpmlp.network import Network


@dataclass(frozen=True)
class Pass:
    """One pass there and back and the step after it, on the host; lists have the layer as index."""

    network: Network
    x: HostArray
    y: HostArray
    w: HostArray | None  # sample weights
    share: HostArray  # of each sample in L, shape (batch,)
    losses: HostArray  # of each sample, shape (batch,), or (k, batch) of members
    loss: HostArray  # L, shape ()
    z: list[HostArray]
    u: list[HostArray]  # what f_k takes: z[k], or what parts make of it
    a: list[HostArray]
    slope: list[HostArray]  # f_k'(u[k])
    W: list[HostArray]
    b: list[HostArray]
    dz: list[HostArray]
    du: list[HostArray]  # of what parts make; [] where there are none
    da: list[HostArray]
    dW: list[HostArray]
    dW_members: list[HostArray]  # what each member adds, of the weights that they share
    db: list[HostArray]
    parts: list[list[PartPass]]
    losses_members: HostArray  # each member's own L, shape (k,)
    prediction: HostArray  # the mean of the members' outputs
    W_new: list[HostArray]
    b_new: list[HostArray]
    own_new: list[dict[str, HostArray]]
    loss_new: HostArray
    rate: float

    @property
    def K(self) -> int:
        """The number of layers."""
        return self.network.layout.n_layers

    @property
    def members(self) -> int:
        """How many share the weights; 0 is one network."""
        return self.network.members

    def parts_of(self, k: int) -> list[PartPass]:
        """Those of layer k, [] where there are none."""
        return self.parts[k] if k < len(self.parts) else []

    def into(self, k: int) -> str:
        """What f_k takes: "z[k]", or "u[k]" where parts stand between."""
        return f"{'u' if self.parts_of(k) else 'z'}[{k}]"

    def d_into(self, k: int) -> HostArray:
        """The derivative of what f_k takes."""
        return self.du[k] if self.parts_of(k) else self.dz[k]

    def of_member(self, i: int) -> "Pass":
        """The same of one member, without the leading axis; dW is what it adds."""

        def one(values: HostArray) -> HostArray:
            return values[i] if values.ndim == 3 else values

        def vector(values: HostArray) -> HostArray:
            return values[i, 0] if values.ndim == 3 else values

        def ones(layers: list[HostArray]) -> list[HostArray]:
            return [one(it) for it in layers]

        return replace(
            self,
            z=ones(self.z),
            u=ones(self.u),
            a=ones(self.a),
            slope=ones(self.slope),
            W=ones(self.W),
            b=[vector(it) for it in self.b],
            dz=ones(self.dz),
            du=ones(self.du),
            da=ones(self.da),
            dW=ones([*self.dW_members[: self.K], self.dW[self.K]]),
            db=[vector(it) for it in self.db],
            parts=[
                [replace(it, own={name: vector(array) for name, array in it.own.items()}) for it in row] if k else row
                for k, row in enumerate(self.parts)
            ],
        )

    @property
    def short_cut(self) -> bool:
        """Whether dz[K] is taken from the scores, output activation and loss in one."""
        return self.network.canonical and self.network.loss.derivative_from_scores is not None

    def has_jacobian(self, k: int) -> bool:
        """Whether dz[k] is not da[k] * f'(z[k]), because an output depends on several scores."""
        row = self.network.activations[k - 1]
        return row.pullback is not None and row.name != "identity"

    def name(self, k: int) -> str:
        """Of f_k."""
        return self.network.activations[k - 1].name

    @property
    def target(self) -> str:
        """What stands for y in the derivative."""
        return "smoothed y" if self.network.loss.parameters.get("label_smoothing") else "y"

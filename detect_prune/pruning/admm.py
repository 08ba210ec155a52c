"""Global pruning by the alternating direction method of multipliers.

Minimise f(W) subject to W in S, S the networks within a budget, split as f(W) + indicator_S(Z) with W = Z (Boyd et
al. 2011, "Distributed optimization and statistical learning via ADMM", section 9.1; for networks Zhang et al. 2018,
arXiv 1804.03294; over all layers at once Lee et al. 2023, doi 10.1007/s44196-023-00202-z):

    W-step   any optimizer on f(W) + rho/2 * sum q_i (w_i - z_i + u_i)^2: its gradient gains rho * q * (W - Z + U)
    Z-step   Z = P_S(W + U), the nearest point of S in the norm sum q_i v_i^2
    U-step   U = U + W - Z;  rho * q * U is the multiplier, so where rho or q changes, U changes inversely

In anyone's own loop:

    admm = GlobalADMM(model, 0.9, updates=40)
    admm.attach(optimizer)                       # the penalty joins every optimizer.step()
    for step, batch in enumerate(batches, 1):
        ...                                      # forward, backward, optimizer.step() as ever
        if step % (len(batches) // 40) == 0:
            print(admm.update())
    masks = admm.cut(optimizer)                  # exact, and held through all further steps

What the optimizer means for rho. SGD takes the penalty as it is. Adam divides the penalty's gradient by the size of
the sum, so rho only says how loss and penalty share a step of fixed length; the schedule of rho works from measured
residuals and serves both. Weight decay pulls the weights that stay away from Z while the penalty pulls them back:
parameter_groups leaves it out for prunable weights during ADMM.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from detect_prune.pruning.constraints import Constraint, global_ratio
from detect_prune.pruning.counts import prunable_weights
from detect_prune.pruning.importance import Diverged, Importance, make_importance, scaled_worths
from detect_prune.pruning.masks import Masks
from detect_prune.pruning.schedule import RhoSchedule

_MEASURED_STEPS = 10
"""Steps without penalty at the very start, over which the loss gradient is measured."""


@dataclass(frozen=True)
class Residuals:
    """How far W and Z are apart after an update, relative to the length of W: per layer and for the whole network."""

    primal: dict[str, float]
    """||W - Z|| / ||W||."""
    dual: dict[str, float]
    """||Z - previous Z|| / ||W||: the dual residual rho q (Z - previous Z), on the scale of the weights."""
    overall: tuple[float, float]
    """(primal, dual) over all layers together."""
    rho: float
    update: int
    """Number of this update, from 1."""
    bound: tuple[str, ...]
    """Layers that the floor kept from losing more."""

    @property
    def worst(self) -> float:
        """The primal residual of the layer where it is largest."""
        return max(self.primal.values())

    def __str__(self) -> str:
        name = max(self.primal, key=self.primal.__getitem__)
        primal, dual = self.overall
        floor = f", floor binds in {', '.join(self.bound)}" if self.bound else ""
        return (
            f"update {self.update}: rho {self.rho:.3g}, primal {primal:.2%} "
            f"(worst {self.worst:.2%} in {name}), dual {dual:.2%}{floor}"
        )


class GlobalADMM:
    """W, Z and U of a network, and their updates.

    Args:
        model: any network, on the device and in the memory format where it will be trained.
        ratio: removal ratio over all prunable weights; or give `constraint` instead.
        updates: how many Z and U updates there will be: the schedule of rho ends with the last. At least 30 for a
            good cut.
        importance: what a weight is worth: raw, normalised, lamp, fisher, fisher-layer, or an object (see
            importance.py).
        floor: no layer keeps less than this share of what an even cut would leave it.
        rho: a constant, a RhoSchedule, or None for the default schedule.
        include, exclude: glob patterns of layers, see prunable_weights.
        constraint: another set than the global ratio's.

    Raises:
        ValueError: a bad ratio or pattern, or both or neither of ratio and constraint.
    """

    def __init__(
        self,
        model: nn.Module,
        ratio: float | str | Decimal | None = None,
        *,
        updates: int = 40,
        importance: str | Importance = "lamp",
        floor: float = 0.05,
        rho: float | RhoSchedule | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        constraint: Constraint | None = None,
    ):
        if updates < 1:
            raise ValueError(f"ADMM needs at least one update, not {updates}")
        if (ratio is None) == (constraint is None):
            raise ValueError("give either a removal ratio or a constraint")
        self.weights = prunable_weights(model, include, exclude)
        sizes = [weight.numel() for weight in self.weights.values()]
        self.constraint = constraint if constraint is not None else global_ratio(sizes, ratio, floor)
        self.updates = updates
        self.importance = make_importance(importance)
        self.schedule = (
            rho if isinstance(rho, RhoSchedule) else RhoSchedule() if rho is None else RhoSchedule.constant(rho)
        )
        self.rho: float | None = self.schedule.start
        self.done = 0
        self.residuals: Residuals | None = None
        self._first_residual = 0.0
        self._gradient_square = 0.0
        self._measured = 0
        self._steps = 0
        self._handles: list[Any] = []
        self._optimizer: Optimizer | None = None
        # float32 even for half-precision weights: U sums up differences that bf16 would round away.
        self.z, self.u = (
            {
                name: torch.zeros_like(
                    weight, dtype=torch.promote_types(weight.dtype, torch.float32), requires_grad=False
                )
                for name, weight in self.weights.items()
            }
            for _ in range(2)
        )
        self.q: dict[str, Tensor] = {}
        if not self.importance.observes:
            self._start()

    @torch.no_grad()
    def _start(self) -> None:
        """Z = P_S(W): a Z of zeros would pull all weights to zero until the first update."""
        self.q = self._worths()
        self._project(self.weights)

    def _worths(self) -> dict[str, Tensor]:
        keep = self.constraint.keep_share({name: weight.numel() for name, weight in self.weights.items()})
        return scaled_worths(self.importance, self.weights, keep)

    # ---- the W-step's share

    def attach(self, optimizer: Optimizer) -> None:
        """Adds the penalty's gradient at every step of this optimizer, after scaling, accumulation, clipping and
        all-reduce.

        Raises:
            ValueError: the optimizer does not train one of the prunable weights.
        """
        trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        strangers = [name for name, weight in self.weights.items() if id(weight) not in trained]
        if strangers:
            raise ValueError(f"the optimizer does not train {', '.join(strangers)}; exclude such layers from pruning")
        self.detach()
        self._optimizer = optimizer
        self._handles = [optimizer.register_step_pre_hook(self._before_step)]

    def detach(self) -> None:
        """Lets go of the optimizer: its steps are its own again."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._optimizer = [], None

    @torch.no_grad()
    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if any(callable(arg) for arg in (*args[1:], *kwargs.values())):
            raise ValueError("an optimizer that is given a closure computes its gradients too late for the penalty")
        if getattr(optimizer, "grad_scale", None) is not None:
            raise ValueError(
                "a fused optimizer under GradScaler gets scaled gradients, to which the penalty can't be added; "
                "call scaler.unscale_(optimizer) before the step, or leave out fused=True"
            )
        self._steps += 1
        gradients = {name: weight.grad for name, weight in self.weights.items() if weight.grad is not None}
        if self.importance.observes:
            for name, gradient in gradients.items():
                self.importance.observe(name, gradient)
        if self.rho is None or not self.q:
            self._gradient_square += float(sum(gradient.float().square().sum() for gradient in gradients.values()))
            self._measured += 1
            if self._measured < _MEASURED_STEPS:
                return
            self._settle()
        for name, weight in self.weights.items():
            force = self._force(name)
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            weight.grad.add_(force.mul_(self.q[name]), alpha=self.rho)

    def _force(self, name: str) -> Tensor:
        """W - Z + U of one layer, a new tensor."""
        return (self.weights[name].detach() - self.z[name]).add_(self.u[name])

    def _settle(self) -> None:
        """Fixes the first worth and the first rho from what has been measured."""
        if not self.q:
            self._start()
        if self.rho is None:
            pull = math.sqrt(sum(float((self._force(n) * self.q[n]).square().sum()) for n in self.weights))
            push = math.sqrt(self._gradient_square / max(self._measured, 1))
            if not math.isfinite(push):
                raise Diverged("the loss gradient is not finite: rho can't be set from it")
            # A network that needs no pruning (pull 0) or has no gradient (push 0) still gets a rho that the schedule
            # can multiply.
            self.rho = self.schedule.relative_start * push / pull if push > 0 and pull > 0 else 1e-6
            self.rho = min(self.rho, self._stable_rho())

    def _stable_rho(self) -> float:
        """Above this, descent on the penalty alone would swing instead of settle."""
        if self._optimizer is None:
            return math.inf
        rate = max(float(group["lr"]) for group in self._optimizer.param_groups)
        largest = max(float(q.max()) for q in self.q.values())
        return self.schedule.stable / (rate * largest) if rate > 0 else math.inf

    def _effective_rho(self) -> float:
        """Below this, descent on the penalty would hardly move W between two updates."""
        if self._optimizer is None or "betas" in self._optimizer.defaults:
            return 0.0
        group = self._optimizer.param_groups[0]
        way = float(group["lr"]) / (1 - group.get("momentum", 0.0)) * self._steps / self.done
        return self.schedule.effective / way if way > 0 else 0.0

    @torch.no_grad()
    def penalty(self) -> float:
        """rho/2 * sum q_i (w_i - z_i + u_i)^2, for the log; 0 while rho is not set."""
        if self.rho is None or not self.q:
            return 0.0
        return self.rho / 2 * sum(float(self._force(name).square().mul_(self.q[name]).sum()) for name in self.weights)

    # ---- the Z-step and the U-step

    @torch.no_grad()
    def update(self) -> Residuals:
        """Z = P_S(W + U), then U = U + W - Z; between two stages also a new rho and a new worth.

        Raises:
            Diverged: the weights, or the gradients from which rho or the worth is set, are not finite.
            ValueError: all planned updates are done.
        """
        if self.done >= self.updates:
            raise ValueError(f"all {self.updates} planned updates are done; the schedule of rho has ended")
        if self.rho is None or not self.q:
            if not self._measured:
                raise ValueError(
                    "rho is set from the loss gradient: attach ADMM to an optimizer and take steps before the update"
                )
            self._settle()
        lengths = {name: float(weight.detach().square().sum()) for name, weight in self.weights.items()}
        for name, length in lengths.items():
            if not math.isfinite(length):
                raise Diverged(f"the weights of {name} are not finite: training has diverged")
        for name, weight in self.weights.items():
            self.u[name].add_(weight.detach())
        bound, moved = self._project(self.u)
        squares = {}
        for name, weight in self.weights.items():
            # Where Z is not zero it equals W + U, so what is left of U there is exactly zero.
            self.u[name].sub_(self.z[name])
            apart = (weight.detach() - self.z[name]).square_().sum()
            squares[name] = (float(apart), moved[name], lengths[name])
        self.done += 1
        self.residuals = _residuals(squares, self.rho, self.done, bound)
        if self.done == 1:
            self._first_residual = self.residuals.worst
        if self.schedule.ends_stage(self.done, self.updates):
            self._next_stage()
        return self.residuals

    def _project(self, values: Mapping[str, Tensor]) -> tuple[tuple[str, ...], dict[str, float]]:
        """Sets Z = P_S(values); returns the layers where a floor binds and the square of the way each layer's Z
        went."""
        values = {name: value.detach() for name, value in values.items()}
        selection = self.constraint.project(values, self.q)
        moved = {}
        for (name, value), mask in zip(values.items(), selection.masks):
            before = self.z[name]
            self.z[name] = value.to(before.dtype) * mask
            moved[name] = float(before.sub_(self.z[name]).square_().sum())
        names = list(values)
        return tuple(names[i] for i in selection.bound), moved

    def _next_stage(self) -> None:
        before, worth_before = self.rho, self.q
        grown = self.rho * self.schedule.growth(self.done, self.updates, self._first_residual, self.residuals.worst)
        self.q = self._worths()
        self.rho = max(self.rho, min(max(grown, self._effective_rho()), self._stable_rho()))
        # rho * q * u, the multiplier itself, stays what it was.
        for name, u in self.u.items():
            u.mul_(worth_before[name] / self.q[name] * (before / self.rho))

    @torch.no_grad()
    def cut(self, optimizer: Optimizer | None = None) -> Masks:
        """W = P_S(W). The penalty ends; with an optimizer given, its removed weights stay zero from now on
        (Masks.attach).

        For what else has to start again after the cut (learning rate, averages of the weights, batch-norm
        statistics) the loop is responsible.
        """
        if not self.q:
            self._settle()
        self.detach()
        selection = self.constraint.project({name: weight.detach() for name, weight in self.weights.items()}, self.q)
        masks = Masks(self.weights, dict(zip(self.weights, selection.masks)))
        masks.apply()
        if optimizer is not None:
            masks.attach(optimizer)
        return masks

    # ---- saving

    def state_dict(self) -> dict[str, Any]:
        """Everything but W: tensors and plain values. Loaded with the W of the same moment, all goes on to the bit."""
        return {
            "z": dict(self.z),
            "u": dict(self.u),
            "q": dict(self.q),
            "rho": self.rho,
            "done": self.done,
            "updates": self.updates,
            "first_residual": self._first_residual,
            "gradient_square": self._gradient_square,
            "measured": self._measured,
            "steps": self._steps,
            "importance": self.importance.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up where state_dict was called; the attached optimizer stays attached.

        Raises:
            ValueError: the state belongs to another network, or to another number of updates.
        """
        if state["z"].keys() != self.z.keys() or any(state["z"][name].shape != z.shape for name, z in self.z.items()):
            raise ValueError("this state of ADMM belongs to another network, or to another choice of layers")
        if state["updates"] != self.updates:
            raise ValueError(f"this state is one of {state['updates']} updates in all, not of {self.updates}")
        for name in self.z:
            self.z[name].copy_(state["z"][name])
            self.u[name].copy_(state["u"][name])
        self.q = {name: q.to(self.z[name].device, copy=True) for name, q in state["q"].items()}
        self.rho, self.done = state["rho"], state["done"]
        self._first_residual = state["first_residual"]
        self._gradient_square, self._measured = state["gradient_square"], state["measured"]
        self._steps = state["steps"]
        self.importance.load_state_dict(state["importance"])


def _residuals(
    squares: Mapping[str, tuple[float, float, float]], rho: float, update: int, bound: tuple[str, ...]
) -> Residuals:
    def relative(part: float, whole: float) -> float:
        return math.sqrt(part / whole) if whole > 0 else 0.0

    apart, moved, length = (sum(square[i] for square in squares.values()) for i in range(3))
    return Residuals(
        primal={name: relative(square[0], square[2]) for name, square in squares.items()},
        dual={name: relative(square[1], square[2]) for name, square in squares.items()},
        overall=(relative(apart, length), relative(moved, length)),
        rho=rho,
        update=update,
        bound=bound,
    )


def parameter_groups(model: nn.Module, weight_decay: float, admm: GlobalADMM | None = None) -> list[dict[str, Any]]:
    """Groups for an optimizer: weight decay for weights only, never for a bias, a scale or a shift.

    Args:
        admm: where given, the weights that it holds get no decay either: decay pulls the weights that stay away from Z
            while the penalty pulls them back.

    Returns:
        Three groups: weights with decay, weights that ADMM holds, all one-dimensional parameters.
    """
    held = {id(weight) for weight in admm.weights.values()} if admm is not None else set()
    decayed, free, vectors = [], [], []
    for parameter in model.parameters():
        (free if id(parameter) in held else decayed if parameter.dim() > 1 else vectors).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
        {"params": vectors, "weight_decay": 0.0},
    ]

"""Global pruning by the alternating direction method of multipliers.

Minimise f(W) subject to W in S, S the networks within a budget, split as f(W) + indicator_S(Z) with W = Z (Boyd et
al. 2011, "Distributed optimization and statistical learning via ADMM", section 9.1; for networks Zhang et al. 2018,
arXiv 1804.03294; over all layers at once Lee et al. 2023, doi 10.1007/s44196-023-00202-z):

    W-step   any optimizer on f(W) + rho/2 * sum q_i (w_i - z_i + u_i)^2: its gradient gains rho * q * (W - Z + U)
             (by default, where the ratio grows: only where Z is zero, see RhoSchedule.holds_support)
    Z-step   Z = P_S(W + U), the nearest point of S in the norm sum q_i v_i^2
    U-step   U = U + W - Z;  rho * q * U is the multiplier, so where rho or q changes, U changes inversely
             (by default, where the ratio grows: U = U + (W - Z) / 4, see RhoSchedule.dual_step)

In anyone's own loop:

    admm = GlobalADMM(model, 0.9, updates=40)
    admm.attach(optimizer)                       # the penalty joins every optimizer.step()
    for step, batch in enumerate(batches, 1):
        ...                                      # forward, backward, optimizer.step() as ever
        if is_due(step, len(batches), admm.updates):
            print(admm.update())
    masks = admm.cut(optimizer)                  # exact, and held through all further steps

What the optimizer means for rho. SGD takes the penalty as it is. Adam divides the penalty's gradient by the size of
the sum, so rho only says how loss and penalty share a step of fixed length; the schedule of rho works from measured
residuals and serves both. (By default, where the ratio grows, the penalty stands beside Adam's step, see
RhoSchedule.decoupled.) Weight decay pulls the weights that stay away from Z while the penalty pulls them back:
parameter_groups leaves it out for prunable weights during ADMM.
"""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from detect_prune.pruning.budgets import DEFAULT_FLOOR, one_constraint
from detect_prune.pruning.chunks import Diverged, chunks, require_finite, to_numbers
from detect_prune.pruning.constraints import Constraint
from detect_prune.pruning.importance import Importance, Raw, make_importance, scaled_worths
from detect_prune.pruning.masks import Masks, clear_state, untrained
from detect_prune.pruning.prunable import detached, prunable_weights, require_trainable
from detect_prune.pruning.residuals import Residuals, residuals_of
from detect_prune.pruning.rho import PRESSES_AFTER, Rho
from detect_prune.pruning.saved_state import describe, require_made_for, require_state
from detect_prune.pruning.schedule import RhoSchedule, cubic, whole_updates
from detect_prune.pruning.selection import Selection

_LARGEST_COUNTED = 100.0
"""Times its mean: a q above that counts as this where the first rho is set."""
_ASKS_ABOVE = 0.2
"""Where the primal residual of no layer is above this, the worth stays as it is: weights that have nearly met Z tell
how far the penalty has come with them, and no longer what they are worth."""


class GlobalADMM:
    """W, Z and U of a network, and their updates.

    Args:
        model: any network, on the device and in the memory format where it will be trained; what is pruned of it is
            the weights of convolution and linear layers (see prunable_weights), and neither those of recurrent layers,
            embeddings and attention's in_proj. Of one that is wrapped (torch.compile, DistributedDataParallel) hand
            over the inside, or all names begin with the wrapper's.
        ratio: removal ratio over all prunable weights; or give `constraint` instead.
        updates: how many Z and U updates there will be: the schedule of rho ends with the last. At least 30 for a
            good cut.
        importance: what a weight is worth: raw, normalised, lamp, fisher, fisher-layer, taylor, or an object
            (see importance.py).
        floor: beside a ratio: no layer keeps less than this share of what an even cut would leave it; DEFAULT_FLOOR
            unless given.
        rho: a constant, a RhoSchedule, or None for the default schedule, which is `RhoSchedule.growing()` with
            `gradual`, else `RhoSchedule()`. A constant means plain ADMM, with `gradual` too.
        gradual: let the removal grow over the updates, along a cubic, instead of asking for all of it from the start.
        include, exclude: glob patterns of layers, see prunable_weights.
        constraint: another set than the global ratio's.

    Raises:
        ValueError: a bad ratio or pattern, both or neither of ratio and constraint, a floor beside a constraint, or a
            constraint that does not fit the layers.
        Diverged: the weights are not finite, or all are zero.
    """

    def __init__(
        self,
        model: nn.Module,
        ratio: float | str | Decimal | None = None,
        *,
        updates: int = 40,
        importance: str | Importance = "lamp",
        floor: float | None = None,
        rho: float | RhoSchedule | None = None,
        gradual: bool = False,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        constraint: Constraint | None = None,
    ):
        self.weights = prunable_weights(model, include, exclude)
        self.constraint = one_constraint(self.weights, ratio, constraint, floor, DEFAULT_FLOOR)
        self.updates = whole_updates(updates)
        self.gradual = gradual
        self.importance = make_importance(importance)
        if rho is None:
            rho = RhoSchedule.growing() if gradual else RhoSchedule()
        self.schedule = rho if isinstance(rho, RhoSchedule) else RhoSchedule.constant(rho)
        self._rho = Rho(self.schedule, gradual, self.updates)
        self.done = 0
        self.report: Residuals | None = None
        """What the last update found."""
        self._pulls: list[float] | None = None
        """The q of the penalty by layer, where the layer has just one; read once, since a GPU has to be waited for."""
        self._gone: dict[str, Tensor] = {}
        """(n, 1, ...) the outputs that are held at zero, for layers that have any. See RhoSchedule.empties_outputs."""
        self._handles: list[Any] = []
        self._optimizer: Optimizer | None = None
        self._torn = False
        """Whether an update was broken off, by Ctrl-C or for lack of memory: U is of no use then."""
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
        if self.importance.observes:
            # What does not fit is said now, and not in the middle of training when the worth is known.
            values = detached(self.weights)
            require_finite(values)
            self.constraint.project(values, Raw().worths(values, 1.0))
        else:
            self._start()

    @property
    def rho(self) -> float | None:
        """The weight of the penalty; None until it is set from what the first steps show."""
        return self._rho.value

    @property
    def ready(self) -> bool:
        """Whether an update can be made: what rho and the worth are set from, where it is measured, needs a step."""
        return self._rho.measured > 0 or (self.rho is not None and bool(self.q))

    @torch.no_grad()
    def _start(self) -> None:
        """Z = P_S(W): where rho is given, a Z of zeros would pull all weights to zero until the first update."""
        self.q = self._worths(self._asked_ahead())
        masks, _ = self._choose(self._progress()).named(self.weights)
        for name, weight in self.weights.items():
            self.z[name].copy_(weight).masked_fill_(~masks[name], 0)

    def _choose(self, progress: float = 1.0) -> Selection:
        """The support of the nearest point of S to W itself."""
        return self.constraint.project(detached(self.weights), self.q, progress)

    def _progress(self) -> float:
        """The part of the removal that the next Z is asked for. The first one is asked for some, or there would be
        nothing for the penalty to do."""
        return cubic((self.done + 1) / self.updates) if self.gradual else 1.0

    def _asked_ahead(self) -> float:
        """The part of the removal for which weights have to show what they are worth: what is asked for at the end of
        the stage, and more, for all of it is to be known when rho begins to press."""
        end = self.schedule.stage_end(self.done, self.updates)
        return cubic(end / (PRESSES_AFTER * self.updates)) if self.gradual else 1.0

    def _worths(self, progress: float, squares: Mapping[str, float] | None = None) -> dict[str, Tensor]:
        sizes = {name: weight.numel() for name, weight in self.weights.items()}
        keep = self.constraint.keep_share(sizes, progress)
        return scaled_worths(self.importance, self.weights, keep, self.constraint.costs, squares)

    # ---- the W-step's share

    def attach(self, optimizer: Optimizer) -> None:
        """Adds the penalty at every step of this optimizer: its gradient, after scaling, accumulation, clipping and
        all-reduce, or beside the step what it moves W by (RhoSchedule.decoupled).

        Optimizers lose their hooks when they are copied: attach a copy to its own.

        Raises:
            ValueError: one of the prunable weights is frozen, or the optimizer does not train it, or maximizes.
        """
        require_trainable(self.weights)
        strangers = untrained(self.weights, optimizer)
        if strangers:
            raise ValueError(
                f"the optimizer does not train {', '.join(strangers)}; exclude such layers from pruning (one optimizer "
                "has to train all that ADMM prunes)"
            )
        climbing = {id(part) for group in optimizer.param_groups if group.get("maximize") for part in group["params"]}
        if any(id(weight) in climbing for weight in self.weights.values()):
            raise ValueError("an optimizer that maximizes would climb the penalty as well; minimize the negative loss")
        self.detach()
        self._optimizer = optimizer
        self._rho.rate.attach(optimizer, self.weights.values())
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def detach(self) -> None:
        """Lets go of the optimizer: its steps are its own again."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._optimizer = [], None
        self._rho.rate.detach()

    @torch.no_grad()
    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if any(callable(arg) for arg in (*args[1:], *kwargs.values())):
            raise ValueError("an optimizer that is given a closure computes its gradients too late for the penalty")
        if getattr(optimizer, "grad_scale", None) is not None:
            raise ValueError(
                "a fused optimizer under GradScaler gets scaled gradients, to which the penalty can't be added; "
                "call scaler.unscale_(optimizer) before the step, or leave out fused=True"
            )
        # A plain optimizer is not called where the scaler found an overflow; a fused one is, and does nothing.
        if float(getattr(optimizer, "found_inf", 0.0)):
            return
        self._require_whole()
        require_trainable(self.weights)
        self.drop_gradients()
        self._rho.rate.take_step()
        gradients = {name: weight.grad for name, weight in self.weights.items() if weight.grad is not None}
        if self.importance.observes:
            self.importance.observe(gradients)
        if self.rho is None or not self.q:
            if not self._rho.measure(gradients.values()):
                return
            self._settle()
        if not self._rho.suits_the_rate():
            self._change(self._rho.lowered(), self.q)
        self._add_penalty()

    def drop_gradients(self) -> None:
        """Zeroes the gradients of outputs that are held at zero; before batch norm they are a hundred times as long as
        the others. `attach` sees to it in every step; whoever clips calls it before, as with Masks.drop_gradients."""
        for name, gone in self._gone.items():
            if self.weights[name].grad is not None:
                self.weights[name].grad.masked_fill_(gone, 0)

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for name, gone in self._gone.items():
            self.weights[name].masked_fill_(gone, 0)

    def _add_penalty(self) -> None:
        # On a GPU an operation on a list is a kernel or two, and one for each layer would take longer to start than to
        # run.
        weights, worths = list(self.weights.values()), [self.q[name] for name in self.weights]
        force = torch._foreach_sub(weights, list(self.z.values()))
        torch._foreach_add_(force, list(self.u.values()))
        if self._pulls is None:
            single = iter(to_numbers(q for q in worths if not q.dim()))
            self._pulls = [1.0 if q.dim() else min(next(single), self._rho.limit) for q in worths]
        torch._foreach_mul_(force, [self.rho * pull for pull in self._pulls])
        for part, q in zip(force, worths):
            if q.dim():
                part.mul_(q.clamp(max=self._rho.limit))
        if not self.schedule.holds_support:
            for part, z in zip(force, self.z.values()):  # there is no such operation on lists
                part.masked_fill_(z != 0, 0)
        if self._rho.moves_weights:
            rates = {id(part): group["lr"] for group in self._optimizer.param_groups for part in group["params"]}
            torch._foreach_mul_(force, [float(rates[id(weight)]) for weight in weights])
            torch._foreach_sub_(weights, force)
        else:
            for weight in weights:
                if weight.grad is None:
                    weight.grad = torch.zeros_like(weight)
            torch._foreach_add_([weight.grad for weight in weights], force)

    def _settle(self) -> None:
        """Fixes the first worth and the first rho from what has been measured."""
        if not self.q:
            self._start()
        self._rho.settle(self._full_pull)

    def _full_pull(self) -> float:
        """The length of the penalty's gradient per rho, were the whole removal asked for now.

        A layer of tiny weights, or a weight that fisher holds dear, must not stand for the rest: q counts up to a
        hundred times its mean.
        """
        masks, _ = self._choose().named(self.weights)
        return math.sqrt(
            sum(
                to_numbers(
                    (weight.to(self.z[name].dtype) * self.q[name].clamp(max=_LARGEST_COUNTED))
                    .masked_fill_(masks[name], 0)
                    .square_()
                    .sum()
                    for name, weight in self.weights.items()
                )
            )
        )

    # ---- the Z-step and the U-step

    @torch.no_grad()
    def update(self) -> Residuals:
        """Z = P_S(W + U), then U = U + gamma * (W - Z); between two stages also a new rho and a new worth.

        Raises:
            Diverged: the weights, or the gradients from which rho or the worth is set, are not finite.
            ValueError: all planned updates are done, or one was broken off.
        """
        if self.done >= self.updates:
            raise ValueError(f"all {self.updates} planned updates are done; the schedule of rho has ended")
        if not self.ready:
            raise ValueError(
                "rho is set from the steps that are taken: attach ADMM to an optimizer and take some before the update"
            )
        if self.rho is None or not self.q:
            self._settle()
        self._require_whole()
        self._torn = True
        # From here to the U-step u holds W + U: the network is never copied.
        lengths = dict(zip(self.weights, to_numbers(self._add_weights(name) for name in self.weights)))
        for name, length in lengths.items():
            if not math.isfinite(length):
                raise Diverged(f"the weights of {name} are not finite: training has diverged")
        masks, bound = self.constraint.project(self.u, self.q, self._progress()).named(self.weights)
        if self.schedule.empties_outputs:
            self._empty_outputs(masks)
            lengths |= dict(zip(self._gone, to_numbers(self._square(name) for name in self._gone)))
        moves = dict(
            zip(self.weights, to_numbers(self._split(name, masks[name], lengths[name]) for name in self.weights))
        )
        self.done += 1
        counts = to_numbers(masks[name].count_nonzero() for name in self.weights)
        kept = {name: count / weight.numel() for (name, weight), count in zip(self.weights.items(), counts)}
        del masks  # a new q would lie in memory beside them
        self.report = residuals_of(moves, self.rho, self.done, kept, bound)
        self._rho.see_residual(self.done, self.report.worst)
        if self.schedule.ends_stage(self.done, self.updates):
            self._next_stage(lengths)
        self._torn = False
        return self.report

    def _require_whole(self) -> None:
        if self._torn:
            raise ValueError(
                "an update was broken off, and has left Z and U torn: load a state that was saved before, or begin anew"
            )

    def _add_weights(self, name: str) -> Tensor:
        """U = U + W; returns the square of the length of W."""
        square = self.u[name].new_zeros(())
        for u, w in chunks(self.u[name], self.weights[name].detach()):
            u.add_(w)
            square += w.to(u.dtype).square().sum()
        return square

    def _empty_outputs(self, masks: Mapping[str, Tensor]) -> None:
        """Zeroes W, U and the optimizer's state of outputs that keep no weight. (Here u holds W + U.)"""
        empty = {name: ~mask.any(dim=tuple(range(1, mask.dim())), keepdim=True) for name, mask in masks.items()}
        counts = to_numbers(each.count_nonzero() for each in empty.values())
        self._gone = {name: each for (name, each), count in zip(empty.items(), counts) if count}
        for name, gone in self._gone.items():
            self.weights[name].masked_fill_(gone, 0)
            self.u[name].masked_fill_(gone, 0)
            if self._optimizer is not None:
                clear_state(self._optimizer, self.weights[name], gone)

    def _square(self, name: str) -> Tensor:
        """The square of the length of W."""
        return torch.linalg.vector_norm(self.weights[name].detach(), dtype=self.u[name].dtype).square()

    def _split(self, name: str, mask: Tensor, square: float) -> Tensor:
        """Z = W + U where the mask is true and 0 elsewhere, then U goes by its step length towards W + U - Z.

        Args:
            square: of the length of W.

        Returns:
            (3,) the squares of the lengths of W - Z, of the way that Z went, and of W: in the norm of the penalty where
            a layer has more than one q.
        """
        gamma, q = self.schedule.dual_step, self.q[name]
        apart, way, length = self.u[name].new_zeros(3)
        like = (self.z[name], self.u[name], self.weights[name].detach(), mask)
        for z, u, w, stays, *worth in chunks(*like, q) if q.dim() else chunks(*like):
            new = torch.where(stays, u, 0.0)
            way += _square_in_place(z.sub_(new), *worth)
            apart += _square_in_place(z.copy_(w).sub_(new), *worth)
            if worth:
                length += _square_in_place(z.copy_(w), *worth)
            z.copy_(new)
            # With a gamma of 1 that is zero, exactly, where Z is not zero, for there it equals W + U.
            u.sub_(new, alpha=gamma)
            if gamma != 1:  # else a pass over the weights for nothing
                u.sub_(w, alpha=1 - gamma)
                if worth:
                    # With an output's or a weight's own q its U changes by orders of magnitude, and what of it came
                    # into the support would rule the choice of the next ones.
                    u.masked_fill_(stays, 0)
        return torch.stack((apart, way, length if q.dim() else length.fill_(square)))

    def _next_stage(self, lengths: Mapping[str, float]) -> None:
        # Where the ratio is still growing, or weights are far from Z, they can tell anew what they are worth.
        asks = self.done < self._rho.first_pressing or self.report.worst > _ASKS_ABOVE
        worths = self._worths(self._asked_ahead(), lengths) if asks else self.q
        self._change(self._rho.next(self.done, self.report.worst), worths)

    def _change(self, rho: float, worths: dict[str, Tensor]) -> None:
        """Another rho and q, with which rho * q * u, the multiplier itself, stays what it was."""
        worth_before, self.q = self.q, worths
        before, limit_before = self._rho.change(rho)
        self._pulls = None
        for name, u in self.u.items():
            old, new = worth_before[name], self.q[name]
            for part, was, is_now in chunks(u, old, new) if new.dim() else [(u, old, new)]:
                part.mul_(was.clamp(max=limit_before).div_(is_now.clamp(max=self._rho.limit)).mul_(before / self.rho))

    @torch.no_grad()
    def cut(self, optimizer: Optimizer | None = None) -> Masks:
        """W = P_S(W). The penalty ends; with an optimizer given, its removed weights stay zero from now on
        (Masks.attach).

        For what else has to start again after the cut (learning rate, averages of the weights, batch-norm
        statistics) the loop is responsible.

        Raises:
            Diverged: the weights are not finite.
        """
        require_finite(detached(self.weights))
        if not self.q:
            self._settle()
        if self._asked_ahead() < 1:
            self.q = self._worths(1.0)  # updates are missing: what there is was made for a part of the removal
        self.detach()
        masks = Masks.chosen(self.weights, self._choose())
        masks.apply()
        if optimizer is not None:
            masks.attach(optimizer)
        return masks

    # ---- saving

    def _made_for(self) -> list[str]:
        """What Z, U and q are of no use without."""
        ratio = "growing" if self.gradual else "at once"
        return [describe(self.constraint), describe(self.importance), ratio, describe(self.schedule)]

    def state_dict(self) -> dict[str, Any]:
        """Everything but W: tensors and plain values. Loaded with the W of the same moment, all goes on to the bit.

        As torch's own it holds the tensors themselves: save it, or copy it, before ADMM goes on.

        Raises:
            ValueError: an update was broken off.
        """
        self._require_whole()
        return self._state()

    def _state(self) -> dict[str, Any]:
        return {
            "made_for": self._made_for(),
            "z": dict(self.z),
            "u": dict(self.u),
            "q": dict(self.q),
            **self._rho.state_dict(),
            "done": self.done,
            "updates": self.updates,
            "gone": dict(self._gone),
            "report": self.report.as_dict() if self.report is not None else None,
            "importance": self.importance.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up where state_dict was called; the attached optimizer stays attached.

        Raises:
            ValueError: it is no such state, or belongs to another network, constraint, importance or schedule, or
                another number of updates.
        """
        require_state(state, self._state())
        if state["z"].keys() != self.z.keys() or any(state["z"][name].shape != z.shape for name, z in self.z.items()):
            raise ValueError("this state of ADMM belongs to another network, or to another choice of layers")
        require_made_for(state, self.updates, self._made_for())
        self._torn = True
        for name in self.z:
            self.z[name].copy_(state["z"][name])
            self.u[name].copy_(state["u"][name])
        self.q = {name: q.to(self.z[name].device, copy=True) for name, q in state["q"].items()}
        self._gone = {name: gone.to(self.z[name].device, copy=True) for name, gone in state["gone"].items()}
        self._pulls = None
        self._rho.load_state_dict(state)
        self.done = state["done"]
        self.report = Residuals(**state["report"]) if state["report"] is not None else None
        self.importance.load_state_dict(state["importance"])
        self._torn = False


def _square_in_place(part: Tensor, worth: Tensor | None = None) -> Tensor:
    """The square of the length of a part of a layer, whose values are lost."""
    part.square_()
    return (part if worth is None else part.mul_(worth)).sum()

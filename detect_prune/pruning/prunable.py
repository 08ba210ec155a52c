"""Which weights of a network can be pruned."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from detect_prune.pruning.chunks import is_dense


def matches(name: str, pattern: str) -> bool:
    """Whether a glob pattern means this weight: by its own name (`features.0.weight`) or its layer's (`features.0`)."""
    return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition(".")[0], pattern)


def prunable_weights(
    model: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> dict[str, nn.Parameter]:
    """The weights of all convolution and linear layers by parameter name, in the model's order; never a bias, never
    batch norm.

    Args:
        model: any network. A parameter that several layers share counts once, under the first one's name; the pattern
            of any of them means it. One without a number is left out, and so is one that an embedding shares.
        include: glob patterns as `matches` takes them; where given, only layers that match one are taken.
        exclude: glob patterns of layers to leave alone.

    Raises:
        ValueError: nothing is left to prune, a pattern matches no layer or is no list of patterns, or a layer that is
            not excluded computes its weight from other parameters, as weight normalisation does (a zero could not be
            held there), or has one that is lazy, not of floating-point numbers, or not dense in memory; or they lie on
            several devices.
    """
    for patterns in (include, exclude):
        if isinstance(patterns, str):
            raise ValueError(f"a list of patterns was expected, such as [{patterns!r}], not the text {patterns!r}")
    found, names = _layers(model)
    if not found:
        raise ValueError("this model has no convolution or linear layer: there is nothing to prune")

    def match(name: str, patterns: Sequence[str]) -> bool:
        return any(matches(each, pattern) for each in names[name] for pattern in patterns)

    for pattern in (*include, *exclude):
        if not any(match(name, [pattern]) for name in found):
            raise ValueError(
                f"the pattern {pattern!r} matches no convolution or linear layer; there are {', '.join(found)}"
            )
    embedded = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)}
    chosen = {
        name: weight
        for name, weight in found.items()
        if (not include or match(name, include)) and not match(name, exclude) and id(weight) not in embedded
    }
    if not chosen:
        raise ValueError("every convolution and linear layer is excluded: there is nothing to prune")
    _require_fit(chosen)
    return chosen


def _layers(model: nn.Module) -> tuple[dict[str, Tensor | None], dict[str, list[str]]]:
    """The weights of convolution and linear layers under the first of their names, and all names of each; None for one
    that is computed: looking at it would compute it anew, and some (spectral normalisation) change with each look."""
    found: dict[str, Tensor | None] = {}
    names: dict[str, list[str]] = {}
    first: dict[int, str] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, _ConvNd | nn.Linear):
            continue
        name = f"{prefix}.weight" if prefix else "weight"
        weight = None if parametrize.is_parametrized(module, "weight") else module.weight
        if weight is not None and not is_lazy(weight) and weight.numel() == 0:
            continue
        same = first.setdefault(id(module if weight is None else weight), name)
        found.setdefault(same, weight)
        names.setdefault(same, []).append(name)
    return found, names


def _require_fit(weights: Mapping[str, Tensor | None]) -> None:
    """Raises ValueError unless all can be ranked together, and held at zero."""
    computed = [name for name, weight in weights.items() if not isinstance(weight, nn.Parameter)]
    if computed:
        raise ValueError(
            f"{', '.join(computed)} is computed from other parameters (weight normalisation, say) and can't be pruned; "
            "make it a plain parameter (torch.nn.utils has parametrize.remove_parametrizations, remove_weight_norm and "
            "prune.remove), or exclude such layers"
        )
    for name, weight in weights.items():
        if lack := _unfit(weight):
            raise ValueError(f"{name} can't be pruned: {lack}, or exclude such layers")
    devices = sorted({str(weight.device) for weight in weights.values()})
    if len(devices) > 1:
        raise ValueError(
            f"the layers lie on {' and '.join(devices)}: all are ranked together, so that one device was expected"
        )


def _unfit(weight: Tensor) -> str:
    """What is wrong with a weight, and what could be done; nothing where nothing is."""
    if is_lazy(weight):
        return "it has no shape yet; call the network once before"
    if not weight.is_floating_point() or weight.element_size() < 2:
        return f"its numbers are {weight.dtype}; make them floating-point numbers of 16 bits or more"
    if not is_dense(weight):
        return "it is a view with gaps or overlaps in memory; make it contiguous"
    return ""


def detached(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, outside of any graph."""
    return {name: weight.detach() for name, weight in weights.items()}


def require_trainable(weights: Mapping[str, nn.Parameter]) -> None:
    """ADMM moves the weights that it prunes, so it can't leave a frozen layer as it is.

    Raises:
        ValueError: names the weights that have requires_grad off.
    """
    frozen = [name for name, weight in weights.items() if not weight.requires_grad]
    if frozen:
        raise ValueError(
            f"{', '.join(frozen)} must not be trained (requires_grad is off), and ADMM moves what it prunes; "
            "exclude such layers from pruning"
        )

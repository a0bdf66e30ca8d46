"""A mixture of expert MLPs behind a learned gate, for a block's ``mlp`` slot.

    x -> gate -> softmax -> top k -> (over their sum) -> sum of weight * expert(x)     Mixtral (arXiv 2401.04088)
    balance_loss: experts * sum_e(share of choices of e * mean probability of e)       Switch (arXiv 2101.03961)

The block's output is the only thing ``forward`` returns.  The auxiliary loss is made from the gates' logits, which go
into a collector that the caller brings:

    gates = RouterLogits()
    hidden = decoder(inputs_embeds, position_ids, router_logits=gates)
    loss = objective(hidden) + 0.01 * balance_loss(gates, top_k=2, attention_mask=batch["attention_mask"])

Nothing stays on a module, and two callers never see each other's.  Traps: the collector grows with every forward it is
given to, also with those that activation checkpointing repeats in the backward pass: make the loss before that, and a
new collector for the next step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.nn.linear import Linear
from polymodal.nn.mlp import FeedForwardConfig
from polymodal.nn.token_types import split_by_kind


@dataclass(frozen=True, kw_only=True)
class MoEConfig:
    """``expert`` is built ``experts`` times; each token passes ``top_k`` of them.

    ``normalise``: the weights of the chosen ones add up to 1; otherwise they keep their share of the whole softmax.
    ``balance_weight``: of the load-balancing loss in training (Mixtral's ``router_aux_loss_coef``).
    ``by_layer``: that loss is a sum over the layers, by the first choice of each token (DeepSpeed), not one loss over
    all choices of all layers.
    """

    width: int
    expert: FeedForwardConfig
    experts: int
    top_k: int = 2
    normalise: bool = True
    dense: bool = False
    balance_weight: float = 0.02
    by_layer: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.experts:
            raise ConfigError(f"moe: top_k must be in 1..{self.experts} experts; found {self.top_k}")

    def build(self) -> "MoE":
        return MoE(self)

    def balance(self, logits: Sequence[Tensor], attention_mask: Tensor | None = None) -> Tensor:
        """The weighted load-balancing loss of all layers, a scalar; arguments of `balance_loss`."""
        if not self.by_layer:
            return self.balance_weight * balance_loss(logits, self.top_k, attention_mask)
        return self.balance_weight * torch.stack([balance_loss([each], 1, attention_mask) for each in logits]).sum()


class MoE(nn.Module):
    """``[..., D] -> [..., D]``; ``token_types`` reach the experts' slot contract but not the gate."""

    def __init__(self, config: MoEConfig) -> None:
        super().__init__()
        self.config = config
        self.gate = Linear(config.width, config.experts, bias=False)
        self.experts = nn.ModuleList(config.expert.build() for _ in range(config.experts))

    def forward(
        self, x: Tensor, token_types: Tensor | None = None, router_logits: "RouterLogits | None" = None
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        logits = self.gate(flat)
        if router_logits is not None:
            router_logits.append(logits)
        weights, chosen = self.choose(logits)
        if self.config.dense or torch.compiler.is_compiling():
            return self._dense(flat, weights, chosen).view_as(x)
        out, weights = torch.zeros_like(flat), weights.flatten()
        # How many tokens each expert gets decides shapes, so it is asked of the device, once for all experts.
        for expert, slots in zip(self.experts, split_by_kind(chosen.flatten(), len(self.experts)), strict=True):
            if len(slots) or self.training:  # in training every rank has gradients of every expert
                places = slots // self.config.top_k
                out = out.index_add(0, places, expert(flat[places]) * weights[slots, None])
        return out.view_as(x)

    def choose(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Gate logits ``[N, E]`` -> weights in their dtype and expert numbers, both ``[N, top_k]``."""
        shares, chosen = logits.float().softmax(-1).topk(self.config.top_k, -1)
        if self.config.normalise:
            shares = shares / shares.sum(-1, keepdim=True)
        return shares.to(logits.dtype), chosen

    def _dense(self, flat: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        shares = torch.zeros(len(flat), self.config.experts, dtype=flat.dtype, device=flat.device)
        shares = shares.scatter(1, chosen, weights)
        outputs = torch.stack([expert(flat) for expert in self.experts], 1)
        return (outputs * shares[..., None]).sum(1)


class RouterLogits(list[Tensor]):
    """Collects the gate logits ``[B * T, E]`` of every MoE of a forward pass, in order of the layers.

    A class of its own, since torch's tools (fully sharded data parallel, for one) copy plain lists of arguments.
    """


def balance_loss(logits: Sequence[Tensor], top_k: int, attention_mask: Tensor | None = None) -> Tensor:
    """The load-balancing loss of all layers together, a scalar: ``top_k`` when the choices are even.

    logits: ``[B * T, E]`` of each layer.  attention_mask ``[B, T]``: padding does not count.  Raises ConfigError for
    an empty list.
    """
    if not logits:
        raise ConfigError("balance loss: no gate logits; give the forward pass router_logits=RouterLogits()")
    experts = logits[0].shape[-1]
    rows = torch.ones(len(logits[0])) if attention_mask is None else attention_mask.reshape(-1)
    counted = rows.to(device=logits[0].device, dtype=torch.float32)[:, None]
    choices = torch.zeros(experts, device=logits[0].device)
    shares = torch.zeros(experts, device=logits[0].device)
    for layer in logits:
        probabilities = layer.float().softmax(-1)
        chosen = F.one_hot(probabilities.topk(top_k, -1).indices, experts).sum(1)
        choices = choices + (chosen * counted).sum(0)
        shares = shares + (probabilities * counted).sum(0)
    total = counted.sum() * len(logits)
    return experts * (choices / total * (shares / total)).sum()

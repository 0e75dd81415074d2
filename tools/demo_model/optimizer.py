"""Muon for the inner weight matrices (orthogonalised momentum, Jordan et al. 2024) and AdamW for all else.

Few pictures can be afforded on two cores, and Muon needs several times fewer of them here than AdamW alone.
"""
import collections

import torch


def orthogonalise(batch):
    """The nearest semi-orthogonal matrices, about, of (B, rows, columns) by five Newton-Schulz steps in bf16."""
    tall = batch.shape[1] > batch.shape[2]
    x = (batch.mT if tall else batch).bfloat16()
    x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).bfloat16()
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.mT if tall else x).float()


class Hybrid:
    """One optimizer over `module`: Muon where a weight has two or more axes of at least 16, AdamW elsewhere.

    Names that begin with one of `slow` all go to AdamW, at a third of its rate.
    """

    def __init__(self, module, lr, muon_lr, skip=(), frozen=(), slow=()):
        self.lr, self.muon_lr, self.momentum = lr, muon_lr, {}
        self.shapes, rest, slowly = collections.defaultdict(list), [], []
        for name, p in module.named_parameters():
            if any(name.startswith(f) for f in frozen):
                continue
            if any(name.startswith(f) for f in slow):
                slowly.append(p)
                continue
            inner = p.ndim >= 2 and min(p.shape[0], p[0].numel()) >= 16 and not any(s in name for s in skip)
            if inner:
                self.shapes[p.shape[0], p[0].numel()].append((name, p))
            else:
                rest.append(p)
        groups = [{"params": rest, "share": 1.0}, {"params": slowly, "share": 1 / 3}]
        self.adam = torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=(0.9, 0.99),
                                      weight_decay=0.0, fused=True)
        self.learning = rest + slowly + [p for group in self.shapes.values() for _, p in group]

    def state_dict(self):
        return {"adam": self.adam.state_dict(), "momentum": self.momentum}

    def load_state_dict(self, state):
        self.adam.load_state_dict(state["adam"])
        self.momentum = state["momentum"]

    @torch.no_grad()
    def step(self, share):
        """One update at `share` of the full learning rates; clears the gradients."""
        torch.nn.utils.clip_grad_norm_(self.learning, 1.0)
        for group in self.adam.param_groups:
            group["lr"] = self.lr * share * group["share"]
        self.adam.step()
        for (rows, columns), members in self.shapes.items():
            scale = self.muon_lr * share * max(1.0, rows / columns) ** 0.5
            members = [(n, p) for n, p in members if p.grad is not None]
            if not members:
                continue
            updates = []
            for name, p in members:
                grad = p.grad.reshape(rows, columns)
                kept = self.momentum.setdefault(name, torch.zeros_like(grad))
                kept.lerp_(grad, 0.05)
                updates.append(torch.lerp(grad, kept, 0.95))
            for (_, p), update in zip(members, orthogonalise(torch.stack(updates))):
                p.mul_(1 - 0.02 * scale).sub_(scale * update.reshape(p.shape))
        for p in self.learning:
            p.grad = None

"""How well a selector ranks, beside what chance would give."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from flexselect.ranking import overlap_at_k, recall_at_k, spearman
from flexselect.scoring.controls import CONTROLS
from flexselect.structures.prompt import EncodedVideo

BUDGETS = (0.02, 0.05, 0.1)  # shares of the visual tokens
RANKINGS = ("selector", *CONTROLS)


def metric_name(ranking: str, measure: str, share: float) -> str:
    """As it is logged, "selector_recall_0_05" for one."""
    return f"{ranking}_{measure}_{share:g}".replace(".", "_")


class RankingMetrics(nn.Module):
    """Spearman's correlation with the teacher, and how many of its best tokens are found at several budgets.

    Recall is the share of the teacher's best K among the selector's best K; overlap is what both share of all that
    either has. Means over clips, of the selector and of the controls.
    """

    def __init__(self) -> None:
        names = [f"{ranking}_spearman" for ranking in RANKINGS]
        names += [metric_name(r, m, share) for m in ("recall", "overlap") for r in RANKINGS for share in BUDGETS]
        super().__init__()
        self.means = nn.ModuleDict({name: MeanMetric() for name in names})

    def add(self, student: Tensor, teacher: Tensor) -> None:
        """One clip's scores, [V] both."""
        for ranking, scores in {"selector": student, **_drawn_by_chance(student)}.items():
            self.means[f"{ranking}_spearman"].update(spearman(scores, teacher))
            for share in BUDGETS:
                k = max(1, round(share * len(teacher)))
                recall = recall_at_k(scores, teacher.topk(k).indices, k)
                self.means[metric_name(ranking, "recall", share)].update(recall)
                self.means[metric_name(ranking, "overlap", share)].update(overlap_at_k(scores, teacher, k))

    def computed(self) -> dict[str, float]:
        """All of them, over all processes."""
        return {name: float(mean.compute()) for name, mean in self.means.items()}


def in_words(found: dict[str, float]) -> str:
    """Recall beside the controls', in one line."""
    shares = []
    for share in BUDGETS:
        ours, *chance = (found[metric_name(ranking, "recall", share)] for ranking in RANKINGS)
        controls = ", ".join(f"{name} {value:.2f}" for name, value in zip(CONTROLS, chance))
        shares.append(f"best {share:.0%} {ours:.3f} ({controls})")
    return f"of the teacher's tokens the selector finds: {'; '.join(shares)}"


def _drawn_by_chance(scores: Tensor) -> dict[str, Tensor]:
    """What the controls give as many tokens."""
    nothing = torch.empty(0, dtype=torch.long)
    tokens = EncodedVideo(nothing, scores[:, None], (len(scores), 1, 1))
    return {name: control().score(tokens, nothing).to(scores.device) for name, control in CONTROLS.items()}

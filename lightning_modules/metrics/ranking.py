"""Metrics of a selector's ranking, compared with random and uniform rankings."""

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
    """Return the name under which a metric is logged, for example "selector_recall_0_05"."""
    return f"{ranking}_{measure}_{share:g}".replace(".", "_")


class RankingMetrics(nn.Module):
    """Spearman's correlation with the teacher, and recall of its best tokens at several budgets.

    Recall is the share of the teacher's best K tokens that are among the selector's best K. Overlap is the Jaccard
    index of the two. All are means over clips, for the selector and for the controls.
    """

    def __init__(self) -> None:
        names = [f"{ranking}_spearman" for ranking in RANKINGS]
        names += [metric_name(r, m, share) for m in ("recall", "overlap") for r in RANKINGS for share in BUDGETS]
        super().__init__()
        self.means = nn.ModuleDict({name: MeanMetric() for name in names})

    def add(self, student: Tensor, teacher: Tensor) -> None:
        """Add the scores of one clip, both [V]."""
        for ranking, scores in {"selector": student, **_control_scores(student)}.items():
            self.means[f"{ranking}_spearman"].update(spearman(scores, teacher))
            for share in BUDGETS:
                k = max(1, round(share * len(teacher)))
                recall = recall_at_k(scores, teacher.topk(k).indices, k)
                self.means[metric_name(ranking, "recall", share)].update(recall)
                self.means[metric_name(ranking, "overlap", share)].update(overlap_at_k(scores, teacher, k))

    def compute(self) -> dict[str, float]:
        """Return all metrics, over all processes."""
        return {name: float(mean.compute()) for name, mean in self.means.items()}


def format_recall(metrics: dict[str, float]) -> str:
    """Format the recall of the selector and of the controls as one line."""
    shares = []
    for share in BUDGETS:
        selector, *control_recalls = (metrics[metric_name(ranking, "recall", share)] for ranking in RANKINGS)
        controls = ", ".join(f"{name} {value:.2f}" for name, value in zip(CONTROLS, control_recalls))
        shares.append(f"best {share:.0%} {selector:.3f} ({controls})")
    return f"of the teacher's tokens the selector finds: {'; '.join(shares)}"


def _control_scores(scores: Tensor) -> dict[str, Tensor]:
    """Score as many tokens with each control, by name: [V] each."""
    no_text = torch.empty(0, dtype=torch.long)
    video = EncodedVideo(no_text, scores[:, None], (len(scores), 1, 1))
    return {name: control().score(video, no_text).to(scores.device) for name, control in CONTROLS.items()}

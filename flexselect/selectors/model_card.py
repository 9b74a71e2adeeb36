"""The model card of a selector."""

from __future__ import annotations

from typing import Any

CARD = """---
library_name: flexselect
base_model: {teacher}
tags: [video-question-answering, token-selection]
---
# Selector for {teacher}

Ranks the visual tokens of a long video by their use for a question (FlexSelect-Lite, arXiv 2506.00993), so that the
VideoLLM is shown the best few thousand only.

| | |
|---|---|
| teacher | layer {layer} of `{teacher}`, reduction `{reduction}` |
| started from | `{start}` |
| training | {steps} steps, loss `{loss}` |
| best checkpoint's recall of the teacher's best 5 % tokens | {recall} |

```python
from flexselect import FlexSelect

fs = FlexSelect.from_pretrained("{teacher}", selector="this folder, or its id on the hub")
```
"""


def model_card(training: dict[str, Any]) -> str:
    """Return the text of a selector's README.md.

    Args:
        training: `LiteSelectorConfig.training`.
    """
    return CARD.format(**training)

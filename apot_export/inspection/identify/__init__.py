"""Recognise a checkpoint, and rank the quantizations it may have by their accuracy on images.

A checkpoint holds neither its bit-width nor its level set. `identify` reads what is there, and with
labelled images tries every quantization that the family's code offers. It helps a person who has
lost the training command; `convert` never reads it.

**Stages.** All hypotheses see 40 images, those that stay see five times as many, and so on up to
the limit. One is dropped when its top-1 accuracy is hopeless: the upper end of its Wilson interval
lies below the lower end of the best one's, both at three standard errors.

**Told apart.** The best hypothesis and another are told apart by two paired tests on the same
images, again at three standard errors (two-sided p < 0.0027): an exact sign test on the images that
only one of them gets right, and, from 30 images on, the mean difference of their losses over its
standard error. One of the two must speak for the best and neither for the other; else the images do
not decide between them. Levels so fine that they imitate coarser ones are often not told apart.
"""

from __future__ import annotations

from apot_export.inspection.identify._hypotheses import Hypothesis, hypotheses
from apot_export.inspection.identify._identify import identify
from apot_export.inspection.identify._result import Candidate, Identification, Measurement, Named

__all__ = [
    "Candidate",
    "Hypothesis",
    "Identification",
    "Measurement",
    "Named",
    "hypotheses",
    "identify",
]

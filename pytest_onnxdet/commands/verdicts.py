"""How ``--verify`` prints a verdict."""

from __future__ import annotations

from pytest_onnxdet.commands.common import in_words
from pytest_onnxdet.verify.verdict import EMPTY, Verdict

_WORST = {
    "box_px": "boxes within, px:",
    "score": "scores:",
    "mask": "mask probabilities:",
    "mask_iou": "least mask IoU:",
}


def in_a_line(verdict: Verdict, broken: str = "") -> str:
    """A verdict as it is printed.

    Args:
        verdict: the judge's.
        broken: how the values depart from the graph's contract; empty: they do not.
    """
    result = verdict.detections
    if result is None:
        return f"FAILED: {verdict.message}"
    empty = [image.name for image in verdict.images if image.outcome == EMPTY]
    agree = not result.faults and (verdict.raw is None or verdict.raw.ok)
    if not verdict.ok and agree and (empty or not result.matched):
        return (
            "FAILED: PyTorch finds nothing in "
            f"{in_words(list(dict.fromkeys(empty))) or 'these images'}, so nothing was "
            "compared there: give images with objects (--test-img, and with it --input-img as "
            "the second one of a batch), or a --shape at which the model finds them"
        )
    if not verdict.ok:
        text = "\n".join(verdict.faults).removeprefix("detections: ")
        return "DIFFERENT: " + "\n".join(filter(None, [text, broken]))
    if broken:
        return f"FAILED: {broken}"
    worst = [
        f"{words} {result.worst[key].value:.2g}"
        for key, words in _WORST.items()
        if key in result.worst
    ]
    if verdict.raw is not None:
        worst.append(f"{len(verdict.raw.differences)} raw outputs agree")
    remarks = ", ".join([*worst, *_ties(verdict)])
    return f"the same, {result.matched} detections" + (f" ({remarks})" if remarks else "")


def _ties(verdict: Verdict) -> list[str]:
    """What was accepted with a proof, in words."""
    sentences = []
    images, masks = verdict.metrics["tied_images"], verdict.metrics["mask_ties"]
    if images:
        sentences.append(
            f"{images} of {len(verdict.images)} images differ, and PyTorch, deciding float ties "
            "alike, finds the same"
        )
    if masks:
        sentences.append(f"{masks} of the masks differ only in pixels that tie with the threshold")
    return sentences

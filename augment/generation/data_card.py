"""The data card of a run, ``OUT/README.md``."""

from __future__ import annotations

from augment.generation.choices import Choices
from augment.generation.plan import GenerationPlan
from augment.generation.run_config import Content, RunConfig
from manifests.runtime.tables import Table


def card(run: RunConfig, plan: GenerationPlan) -> str:
    """Return the card as Markdown, with what follows from the rows left to be filled in.

    That is ``{errors}``, ``{devices}`` and ``{cameras}``.

    It follows from the run's contents alone: no time, host or folder.
    """
    content, encoding, sampling = run.content, run.content.encoding, run.content.sampling
    stored = (
        "PNG (lossless)"
        if encoding.image_format == "png"
        else f"JPEG, quality {encoding.quality}, chroma {encoding.subsampling}"
    )
    arithmetic = f"{sampling.precision}, batches of {sampling.batch_size}, torch {sampling.torch}"
    rows = [
        ("generator", content.generator),
        ("weights (SHA-256)", content.weights_sha256),
        ("seed", f"{content.seed}"),
        ("size", f"{content.width} x {content.height} pixels"),
        ("stored as", stored),
        ("poses to choose from", f"{len(plan.bank):,}"),
        ("people without a pose with shoulders and hips", f"{plan.num_without_torso:,}"),
        *_of_choices(content),
        *_of_streets(plan),
        ("arithmetic", arithmetic),
        ("made on", "{devices}"),
        ("content key", run.content_key),
        ("layout key", run.layout_key),
    ]
    return f"""---
configs:
- config_name: default
  data_files: data/*.parquet
---

# Synthetic images for person re-identification

{content.rows:,} planned images of {_whom(plan)} ({content.per_id:,} each):
{_what(plan)}. {{errors}} of
them failed and have an error text instead of an image.
{_use(plan)}
{Table.of(["", ""], rows).to_markdown()}

{_terms(plan)} The encoding can
mark an image as synthetic to a network if the real images were stored otherwise.

{{cameras}}

`manifest.parquet` has one row per planned image; `data/` has the same rows with the image bytes.
`split` is {"the source's" if plan.at_test_time else "always train"}, `camera_id`
{_camera(plan)}, `keypoints` {_pose(plan)} in pixels (x, y).
"""


def _what(plan: GenerationPlan) -> str:
    if plan.are_new:
        return "people who do not exist, in poses of real train images, before drawn backgrounds"
    person = "the person of a real train image"
    if plan.bank.canonical:
        if plan.at_test_time:
            person = "the person of a query or gallery image"
        before = ", before the street of its source" if plan.own_streets else ""
        return f"{person} in canonical poses, made by pose transfer{before}"
    if plan.keeps_pose:
        return f"{person}, as it is, before the street of another train image"
    pose = f"{person} in the pose of another train image, made by pose transfer"
    return f"{pose}, before the street of that image" if plan.bank.streets else pose


def _whom(plan: GenerationPlan) -> str:
    number = len(plan.people)
    return f"{number:,} test images" if plan.at_test_time else f"{number:,} people"


def _use(plan: GenerationPlan) -> str:
    if not plan.at_test_time:
        return ""
    return (
        "\nThey are for `reid score --centralise` alone: training on them would leak test data.\n"
    )


def _terms(plan: GenerationPlan) -> str:
    if plan.are_new:
        return (
            "Nobody was meant to be shown, but a generator can draw the people it was trained on: "
            "`reid screen` says how near the images come to them, and the terms of use of its\n"
            "training data hold for them too."
        )
    return "The images show the people of the source data: its terms of use hold for them too."


def _of_choices(content: Content) -> list[tuple[str, str]]:
    """Return a line for every choice that is not a uniform draw."""
    chosen = {name: getattr(content, name) for name in Choices.model_fields}
    return [
        (name.replace("_", " "), str(value))
        for name, value in chosen.items()
        if value != Choices.model_fields[name].default
    ]


def _of_streets(plan: GenerationPlan) -> list[tuple[str, str]]:
    if plan.at_test_time:
        return [(f"images left out for want of {plan.left_out_for}", f"{plan.num_left_out:,}")]
    if not plan.bank.streets and not plan.own_streets:
        return []
    return [(f"people left out for want of {plan.left_out_for}", f"{plan.num_without_mask:,}")]


def _camera(plan: GenerationPlan) -> str:
    if plan.are_new:
        return "unknown (-1), `source_id` null"
    return "that of the street (`background_id`)" if plan.bank.streets else "the source's"


def _pose(plan: GenerationPlan) -> str:
    return "the source's pose" if plan.keeps_pose else "the target pose"

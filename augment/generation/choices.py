"""What the rows of a plan are drawn by: sources, target poses and the streets behind them."""

from __future__ import annotations

from typing import Literal

from manifests.runtime.settings import Frozen

SourceChoice = Literal["random", "nearest", "most-joints", "each-camera"]
PoseChoice = Literal["uniform", "balanced", "complementary", "canonical"]
BackgroundChoice = Literal["any", "other-cameras", "lacking"]
Purpose = Literal["training", "test-time"]


class Choices(Frozen):
    """How sources, poses and backgrounds are chosen; defaults are uniform draws."""

    source: SourceChoice = "random"
    """Which of a person's images an image is made from: a random one; the nearest in pose, of which
    more pixels can be kept; of those with most joints seen; or of each camera in turn."""
    candidate_poses: int = 1
    """Target poses drawn for an image, which shows the nearest to its source; the more there are,
    the more it looks like its person, and the less like another pose."""
    pose_choice: PoseChoice = "uniform"
    """Which poses a person is shown in: uniform draws from those of the table; balanced over groups
    of like poses; complementary, viewpoints (front, back, side) and groups that the person has
    fewest images of first; or canonical, eight standard poses before the source's own street."""
    backgrounds: BackgroundChoice = "any"
    """Before whose streets: any; other-cameras, than the source's where there is such a source; or
    lacking, cameras that have seen the person least first, of equal ones those more often that see
    more people."""
    same_scale: bool = False
    """Scale every target pose to its source: a torso as long, hips at the same place."""

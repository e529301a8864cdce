"""What the rows of a plan are drawn by: people, sources, target poses, streets."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from manifests.runtime.settings import Frozen
from manifests.schema import NEW_PERSON

SourceChoice = Literal["random", "nearest", "most-joints", "most-central", "each-camera"]
PoseChoice = Literal["uniform", "balanced", "complementary", "canonical"]
BackgroundChoice = Literal["any", "other-cameras", "lacking"]
Purpose = Literal["training", "test-time"]

MOST_NEW_PEOPLE: Final = 999_999
"""The highest number of a person: labels sort as numbers do."""


class Choices(Frozen):
    """How sources, poses and backgrounds are chosen; defaults are uniform draws."""

    source: SourceChoice = "random"
    """Which of a person's images an image is made from: a random one; the nearest in pose, of which
    more pixels can be kept; of those with most joints seen; the most central one, by a re-ID
    network (reid centrality); or of each camera in turn."""
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


class NewPeople(Frozen):
    """People who do not exist, in the place of those of the table."""

    new_people: Annotated[int, Field(ge=0, le=MOST_NEW_PEOPLE)] = 0
    """Draw so many people who do not exist, --per-id images each, in poses of the table; needs
    weights of a system that can (dpig). 0: images of the people of the table."""
    first_person: Annotated[int, Field(ge=1, le=MOST_NEW_PEOPLE)] = 1
    """Number of the first of them: 1 is n000001. Another run with other numbers draws others."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Their ``person_id``, sorted."""
        end = self.first_person + self.new_people
        return tuple(NEW_PERSON.format(number) for number in range(self.first_person, end))

"""Write the card of weights that scripts/train_market1501 trained: facts, settings, scores."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from augment.checkpoints import store
from manifests import io
from manifests.runtime.tables import Table

TERMS = (
    "**Terms.** Market-1501 is for research only and must not be redistributed; weights trained on "
    "it and the\nimages they make show its people and fall under the same terms. No commercial use."
)

NETWORKS = ("features", "identity")
"""Settings that may be the path of a file; a card shows its name and its digest."""


def card(weights: Path, evaluation: str) -> str:
    """Return the card as Markdown."""
    header = store.read_header(weights)
    facts, config = header.facts, header.config
    width = config.get("base_width")
    rows: dict[str, object] = {
        "data": f"{facts['train_images']} train images of {facts['train_people']} people, "
        f"{facts['train_pairs']} pairs; no test image",
        "steps": facts["steps"],
        "pairs seen": facts["images_seen"],
        "continued": _continued(facts),
        "processes": facts.get("processes", 1),
        "seed": facts["seed"],
        **{
            f"--config.{name.replace('_', '-')}": _shown(name, config)
            for name, value in config.items()
            if value is not None
        },
        "weights": "EMA; matrices in fp16",
        "sha256": io.sha256_file(weights),
    }
    for name in NETWORKS:
        if f"{name}_sha256" in facts:
            rows[f"{name} network, sha256"] = facts[f"{name}_sha256"]
    table = Table.of(["", ""], rows.items()).to_markdown()
    return (
        f"# {weights.stem}\n\n{header.generator} of base width {width}, trained on the train split "
        f"of Market-1501.\n\n{TERMS}\n\n{table}\n\n{evaluation}"
    )


def _shown(name: str, config: dict[str, Any]) -> object:
    return Path(config[name]).name if name in NETWORKS else config[name]


def _continued(facts: dict[str, str | int | float]) -> str:
    if "init_sha256" not in facts:
        return "never from weights alone"
    return (
        f"from weights alone at step {facts['init_steps']} (sha256 {facts['init_sha256']}): "
        "optimisers, discriminators and pools were restarted there"
    )


def main() -> None:
    """Write the card, or print the step that weights stand at."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step-of", type=Path, help="print the step of these weights, no more")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--evaluation", type=Path, help="Markdown of 'augment evaluate'")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.step_of is not None:
        print(store.read_header(options.step_of).facts["steps"])
        return
    text = card(options.weights, options.evaluation.read_text("utf-8"))
    io.write_bytes(text.encode(), options.out)


if __name__ == "__main__":
    main()

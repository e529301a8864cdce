"""Weights files: equal bytes, strict loading, the authors' files."""

import json

import pytest
import torch
from pydantic import ValidationError

import augment
from augment import generators
from augment.checkpoints import store
from augment.checkpoints.convert import convert_weights
from augment.generators.patn import Patn
from manifests.runtime.console import UserError

TINY = Patn.Config(base_width=2, discriminator_width=2, num_blocks=2, features="none")


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Patn(TINY).eval()


def header(config=TINY, generator="patn"):
    return store.Header(generator=generator, config=config.model_dump(mode="json"), facts={"a": 1})


def official_names(network):
    """The authors' state dict of our network: their names for the same tensors."""
    theirs = {}
    for name, value in network.sampling_state().items():
        part, rest = name.split(".", 1)
        if part == "blocks":
            block, path, rest = rest.split(".", 2)
            stream = {"image_path": 1, "pose_path": 2}[path]
            theirs[f"model.att.{block}.conv_block_stream{stream}.{rest}"] = value
        else:
            stream = {"image_encoder": "stream1_down", "pose_encoder": "stream2_down"}
            theirs[f"model.{stream.get(part, 'stream1_up')}.{rest}"] = value
    return theirs


def test_weights_come_back_as_they_were_and_equal_weights_are_equal_bytes(network, tmp_path):
    tensors = network.sampling_state()
    store.save_weights(tensors, tmp_path / "a.safetensors", header())
    store.save_weights(dict(reversed(tensors.items())), tmp_path / "b.safetensors", header())
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    loaded = augment.load(tmp_path / "a.safetensors")
    assert loaded.state_dict().keys() == tensors.keys()
    assert all(torch.equal(loaded.state_dict()[name], tensors[name]) for name in tensors)
    assert not loaded.training


def test_half_precision_keeps_statistics_whole(network, tmp_path):
    store.save_weights(network.sampling_state(), tmp_path / "h.safetensors", header(), fp16=True)
    loaded = augment.load(tmp_path / "h.safetensors").state_dict()
    for name, value in network.sampling_state().items():
        kept = value.to(torch.float16).float() if value.ndim > 1 else value
        assert torch.equal(loaded[name], kept), name


def test_a_missing_and_an_unknown_tensor_are_both_named(network, tmp_path):
    tensors = network.sampling_state()
    tensors["decoder.99.weight"] = tensors.pop("decoder.7.weight")
    store.save_weights(tensors, tmp_path / "w.safetensors", header())
    with pytest.raises(UserError) as error:
        augment.load(tmp_path / "w.safetensors")
    assert "missing 1: decoder.7.weight" in str(error.value)
    assert "unknown 1: decoder.99.weight" in str(error.value)


def test_weights_of_another_width_are_refused(network, tmp_path):
    wide = TINY.model_copy(update={"base_width": 4})
    store.save_weights(network.sampling_state(), tmp_path / "w.safetensors", header(wide))
    with pytest.raises(UserError, match="of other shape"):
        augment.load(tmp_path / "w.safetensors")


def test_a_misspelt_setting_in_a_header_is_named(network, tmp_path):
    config = json.loads(TINY.to_json()) | {"base_widht": 2}
    wrong = store.Header(generator="patn", config=config, facts={})
    store.save_weights(network.sampling_state(), tmp_path / "w.safetensors", wrong)
    with pytest.raises(UserError, match="unknown setting 'base_widht'"):
        augment.load(tmp_path / "w.safetensors")


@pytest.mark.parametrize("name", ["base_width", "num_blocks", "image_height"])
def test_a_header_that_claims_an_enormous_network_is_refused_before_it_is_built(
    name, network, tmp_path
):
    config = json.loads(TINY.to_json()) | {name: 10**9}
    wrong = store.Header(generator="patn", config=config, facts={})
    store.save_weights(network.sampling_state(), tmp_path / "w.safetensors", wrong)
    with pytest.raises(UserError, match=rf"'{name}': Input should be less than or equal to"):
        augment.load(tmp_path / "w.safetensors")


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x10\0\0\0\0\0\0\0{}              "])
def test_a_file_that_is_no_weights_file_is_refused(content, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"w\.safetensors"):
        augment.load(path)


def test_a_name_that_is_not_shipped_lists_those_that_are():
    with pytest.raises(UserError, match="patn-sample"):
        augment.load("patn-smaple")


def test_shipped_weights_load_and_have_a_card():
    for name in store.shipped():
        augment.load(name)
        assert (store.SHIPPED / f"{name}.md").is_file()
        assert (store.SHIPPED / f"{name}.safetensors").stat().st_size < 25_000_000


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_authors_weights_become_ours(network, tmp_path, prefix):
    theirs = {prefix + name: value for name, value in official_names(network).items()}
    # Files of torch 0.3 know no counters.
    theirs = {name: value for name, value in theirs.items() if "num_batches" not in name}
    torch.save(theirs, tmp_path / "latest_net_netG.pth")
    convert_weights("patn", TINY, [tmp_path / "latest_net_netG.pth"], tmp_path / "w.safetensors")
    loaded = augment.load(tmp_path / "w.safetensors").state_dict()
    for name, value in network.sampling_state().items():
        if "num_batches" not in name:
            assert torch.equal(loaded[name], value), name


def test_both_of_the_authors_discriminators_become_ours(network, tmp_path):
    torch.save(official_names(network), tmp_path / "netG.pth")
    for name, discriminator in (
        ("netD_PB", network.discriminators.shape),
        ("netD_PP", network.discriminators.appearance),
    ):
        theirs = {
            f"model.{key.replace('.path.', '.conv_block.')}": value
            for key, value in discriminator.state_dict().items()
            if "num_batches" not in key
        }
        torch.save(theirs, tmp_path / f"{name}.pth")
    files = [tmp_path / f"{name}.pth" for name in ("netD_PP", "netG", "netD_PB")]
    convert_weights("patn", TINY, files, tmp_path / "w.safetensors")
    found = store.read_tensors(tmp_path / "w.safetensors")
    expected = network.state_dict()
    assert found.keys() == {name for name in expected if "pool" not in name}
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_a_part_of_a_discriminator_in_our_file_is_refused(network, tmp_path):
    tensors = network.sampling_state()
    tensors["discriminators.shape.1.weight"] = network.state_dict()["discriminators.shape.1.weight"]
    store.save_weights(tensors, tmp_path / "w.safetensors", header())
    with pytest.raises(UserError, match=r"missing \d+: discriminators\.shape\.10"):
        augment.load(tmp_path / "w.safetensors")


def test_running_statistics_of_an_instance_normalised_file_are_left_out(tmp_path):
    config = TINY.model_copy(update={"norm": "instance"})
    network = Patn(config)
    theirs = official_names(network)
    theirs["model.stream1_down.2.running_mean"] = torch.zeros(2)
    torch.save(theirs, tmp_path / "fashion.pth")
    convert_weights("patn", config, [tmp_path / "fashion.pth"], tmp_path / "w.safetensors")
    assert augment.load(tmp_path / "w.safetensors").state_dict().keys() == (
        network.sampling_state().keys()
    )


def test_an_unknown_name_among_the_authors_tensors_leaves_nothing_behind(network, tmp_path):
    theirs = official_names(network) | {"model.extra.weight": torch.zeros(1)}
    torch.save(theirs, tmp_path / "theirs.pth")
    with pytest.raises(UserError, match=r"extra\.weight"):
        convert_weights("patn", TINY, [tmp_path / "theirs.pth"], tmp_path / "w.safetensors")
    assert not (tmp_path / "w.safetensors").exists()


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"weights": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(UserError, match=r"bomb\.pth"):
        convert_weights("patn", TINY, [tmp_path / "bomb.pth"], tmp_path / "w.safetensors")


def test_no_shipped_header_tells_where_its_files_lay():
    for name in store.shipped():
        found = store.read_header(store.SHIPPED / f"{name}.safetensors")
        entries = [*found.config.values(), *found.facts.values()]
        assert not [value for value in entries if isinstance(value, str) and "/" in value], name


@pytest.mark.parametrize("name", generators.names())
def test_a_number_of_a_header_that_is_too_large_is_named(name, tmp_path):
    config_class = generators.system(name).Config
    config = json.loads(config_class().to_json())
    path = tmp_path / "w.safetensors"

    def load(numbers):
        damaged = store.Header(generator=name, config=config | numbers, facts={})
        store.save_weights({}, path, damaged)
        store.load(path)

    numbers = [key for key, value in config.items() if type(value) is int]
    assert numbers
    for number in numbers:
        with pytest.raises(UserError, match=f"setting '{number}'"):
            load({number: 10**30})
    # Those that no network is built from, as steps are, may be so large.
    large = {number: 2**62 for number in numbers if _accepts(config_class, {number: 2**62})}
    if large:
        with pytest.raises(UserError, match="tensors missing"):
            load(large)


def _accepts(config_class, numbers):
    try:
        config_class(**numbers)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize(
    ("name", "what", "terms"),
    [
        (
            "posewarp-market1501",
            "weights posewarp-market1501",
            "Market-1501: research only; not to be redistributed",
        ),
        (
            "patn-sample",
            "weights patn-sample",
            "none beyond this repository's licence; nobody real is shown",
        ),
        (
            "recompose",
            "recompose, without trained weights",
            "none of its own; the images show the people of the source data",
        ),
    ],
)
def test_shipped_weights_say_their_terms_and_where_their_card_is(name, what, terms):
    card = store.SHIPPED / f"{name}.md"
    assert store.name_and_terms(name) == f"{what}; terms: {terms} (see {card})"
    assert card.is_file()


def test_every_shipped_file_names_its_terms():
    assert len(store.shipped()) >= 5
    for name in store.shipped():
        assert "the file names none" not in store.name_and_terms(name)


def test_weights_of_the_users_own_say_what_their_header_says_in_one_line(tmp_path):
    own = tmp_path / "own.safetensors"
    for facts, terms in [
        ({}, "the file names none, so those of the images that it was trained on"),
        ({"terms": "ours\nalone"}, "ours alone"),
    ]:
        store.save_weights({}, own, store.Header(generator="patn", config={}, facts=facts))
        assert store.name_and_terms(own) == f"weights {own}; terms: {terms}"

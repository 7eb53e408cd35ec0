"""Features, the ranking of neighbours, the command, and the metric for torchmetrics."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch import nn

from gan_regularizers.commands import main
from gan_regularizers.commands.demo.images import icon_sets
from gan_regularizers.io import images
from gan_regularizers.io.errors import CommandError
from gan_regularizers.spider import features as feature_spaces
from gan_regularizers.spider import friendly_neighbours, signed_inception_distance
from gan_regularizers.spider.features import FeatureSpace, extract, feature_space
from gan_regularizers.spider.metric import SignedInceptionDistance


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    """Folders with icons: portraits in two halves, smileys, flags."""
    root = tmp_path_factory.mktemp("sets")
    by_name = icon_sets()
    portraits = by_name["portraits"]
    chosen = {
        "portraits": portraits[::4],
        "other-portraits": portraits[2::4],
        "smileys": by_name["smileys-emotion"][::2],
        "flags": by_name["flags"][::3],
    }
    for name, paths in chosen.items():
        (root / name).mkdir()
        for path in paths:
            shutil.copy(path, root / name)
    return root


@pytest.fixture(scope="module")
def lite0() -> FeatureSpace:
    return feature_space("lite0")


@pytest.fixture(scope="module")
def features(sets, lite0) -> dict[str, torch.Tensor]:
    return {path.name: extract(path, lite0) for path in sorted(sets.iterdir())}


class MeanColours(nn.Module):
    """A feature space that needs no weights: mean and deviation of each channel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.mean((2, 3)), x.std((2, 3))], 1)


COLOURS = FeatureSpace("colours", 16, MeanColours(), "1")


def test_a_half_of_a_set_is_its_friendliest_neighbour(features):
    target = features["portraits"]
    candidates = {name: features[name] for name in ("flags", "other-portraits", "smileys")}
    for order in (1, -1, -3, -5, 2):
        ranked = friendly_neighbours(target, candidates, order=order)
        assert [neighbour.name for neighbour in ranked] == ["other-portraits", "smileys", "flags"]
        assert ranked[0].verdict == "no difference seen"
        assert [neighbour.verdict for neighbour in ranked[1:]] == ["more spread, or shifted"] * 2
        assert ranked[1].count == len(candidates["smileys"])


def test_a_shrunk_set_is_less_diverse(features):
    target = features["smileys"]
    shrunk = target.mean(0) + 0.8 * (target - target.mean(0))
    (neighbour,) = friendly_neighbours(target, {"shrunk": shrunk})
    assert neighbour.verdict == "less diverse"


def test_errors_name_the_candidate(features):
    with pytest.raises(ValueError, match=r"bad: source has shape \[1, 1280\]"):
        friendly_neighbours(features["flags"], {"bad": features["smileys"][:1]})


def test_features_of_a_folder_and_of_a_zip_of_it(sets, tmp_path):
    archive = tmp_path / "flags.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        for path in (sets / "flags").iterdir():
            stream.write(path, path.name)
    folder = extract(sets / "flags", COLOURS)
    assert torch.equal(extract(archive, COLOURS), folder)
    pictures = images.load(sets / "flags", 16).float() / 127.5 - 1
    torch.testing.assert_close(folder, MeanColours()(pictures))


def test_progress_sees_every_image(sets):
    seen = []

    def progress(batches, total):
        for batch in batches:
            seen.append((len(batch), total))
            yield batch

    count = len(extract(sets / "smileys", COLOURS, progress=progress))
    assert sum(size for size, _ in seen) == count
    assert {total for _, total in seen} == {count}


def test_the_cache_holds_features_beside_a_hash_of_the_data(sets, tmp_path):
    data, cache = tmp_path / "data", tmp_path / "deep" / "cache"
    shutil.copytree(sets / "smileys", data)
    fresh = extract(data, COLOURS, cache=cache)
    (kept,) = cache.iterdir()
    assert kept.name.startswith("data-colours-")
    with np.load(kept) as content:
        assert str(content["digest"]).startswith(kept.stem.rpartition("-")[2])
        assert str(content["space"]) == "colours"

    def refuse(_):
        raise AssertionError("computed again")

    silent = FeatureSpace("colours", 16, refuse, "1")
    assert torch.equal(extract(data, silent, cache=cache), fresh)
    for other in (FeatureSpace("colours", 16, refuse, "2"), FeatureSpace("colours", 8, refuse, "1")):
        with pytest.raises(AssertionError, match="computed again"):
            extract(data, other, cache=cache)
    kept.write_bytes(kept.read_bytes()[:100])  # torn
    assert torch.equal(extract(data, COLOURS, cache=cache), fresh)
    assert torch.equal(extract(data, silent, cache=cache), fresh)
    next(data.iterdir()).unlink()
    assert len(extract(data, COLOURS, cache=cache)) == len(fresh) - 1


class Detector(nn.Module):
    """Called as the detector of StyleGAN's metrics is."""

    def forward(self, img: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert return_features
        assert img.dtype == torch.uint8
        return img.to(torch.float32).mean((2, 3))


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_detector_in_torchscript_sees_values_up_to_255(sets, tmp_path):
    path = tmp_path / "detector.pt"
    torch.jit.script(Detector()).save(str(path))
    space = feature_space(str(path))
    assert (space.name, space.side) == ("detector", 299)
    pictures = images.load(sets / "smileys", 299).float()
    torch.testing.assert_close(extract(sets / "smileys", space), pictures.mean((2, 3)))
    named = shutil.copy(path, tmp_path / "inception-2015-12-05.pt")
    assert feature_space(str(named)).name == "inception"
    before = space.identity
    path.write_bytes(path.read_bytes() + b" ")
    assert feature_space(str(path)).identity != before


class OtherScript(nn.Module):
    def forward(self, img: torch.Tensor, size: int) -> torch.Tensor:
        return img * size


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_files_that_hold_no_network_are_named(tmp_path):
    with pytest.raises(CommandError, match=r"features .*none\.pt: no such file; give lite0"):
        feature_space(str(tmp_path / "none.pt"))
    torch.jit.script(OtherScript()).save(str(tmp_path / "script.pt"))
    with pytest.raises(CommandError, match=r"script\.pt: cannot be called as the StyleGANs' detectors"):
        feature_space(str(tmp_path / "script.pt"))
    (tmp_path / "text.pt").write_text("nothing")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    for name in ("text.pt", "other.pt"):
        with pytest.raises(CommandError, match=rf"{name}: (not TorchScript|neither TorchScript)"):
            feature_space(str(tmp_path / name))


def test_a_module_with_parameters_leaves_no_graph(sets):
    convolution = FeatureSpace("conv", 8, nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten()), "1")
    assert not extract(sets / "smileys", convolution).requires_grad


def test_a_feature_network_stays_as_it_is_inside_a_model_that_is_trained(lite0):
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    before = lite0.extract(images)
    model = nn.ModuleDict({"metric": SignedInceptionDistance(lite0.extract)}).train()
    assert torch.equal(lite0.extract(images), before)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_command(sets, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    command = ["neighbours", *(str(sets / name) for name in ("portraits", "flags", "smileys", "other-portraits"))]
    options = ["--json", "out.json", "--cache", str(tmp_path / "cache"), "--device", "cpu"]
    assert main([*command, *options]) == 0
    shown = capsys.readouterr().out
    rows = [line.split() for line in shown.splitlines() if line[:2] in ("1.", "2.", "3.")]
    assert [row[1] for row in rows] == ["other-portraits", "smileys", "flags"]
    assert "CSID-lite0" in shown
    assert "too near" not in shown
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["metric"] == "CSID-lite0"
    assert report["target"]["images"] == len(list((sets / "portraits").iterdir()))
    assert [n["verdict"] for n in report["neighbours"]] == ["no difference seen", *["more spread, or shifted"] * 2]
    for neighbour in report["neighbours"]:
        assert neighbour["csid"] == pytest.approx(sum(neighbour["sid"]))
        assert len(neighbour["half_widths"]) == len(neighbour["standard_errors"]) == 50
    with Image.open(tmp_path / "neighbours.png") as chart:
        assert len(chart.convert("RGB").getcolors(1 << 20)) > 50
    assert len(list((tmp_path / "cache").iterdir())) == 4

    monkeypatch.setattr(feature_spaces.Lite0Features, "forward", None)  # from now on the cache is used
    assert main([*command, *options, "--radii", "2,4", "--order", "-3", "--n-subsets", "4"]) == 0
    again = json.loads((tmp_path / "out.json").read_text())
    assert again["settings"]["radii"] == [2, 4]
    assert [n["name"] for n in again["neighbours"]] == [n["name"] for n in report["neighbours"]]


def test_names_are_printed_as_they_are(sets, tmp_path, capsys, monkeypatch):
    """Not as markup, mathematics or encodings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    odd = ["a[bold]b", "x_{$", os.fsdecode(b"l\xe4rm"), "two\nlines", "$\\q^^$", "x" * 255, "画" * 85]
    for name in odd:
        shutil.copytree(sets / "smileys", name)
    assert (
        main(["neighbours", str(sets / "flags"), *odd, "--json", "out.json", "--cache", str(tmp_path / "cache")]) == 0
    )
    shown = capsys.readouterr().out
    for name in ("a[bold]b", "x_{$", r"l\xe4rm", r"two\nlines", r"$\q^^$"):
        assert f" {name} " in shown
    report = json.loads((tmp_path / "out.json").read_text())
    assert {len(neighbour["name"]) for neighbour in report["neighbours"]} >= {85, 255}
    cached = [len(os.fsencode(path.name)) for path in (tmp_path / "cache").iterdir()]
    assert len(cached) == len(odd) + 1
    assert max(cached) <= 143  # what eCryptfs takes


def test_twins_are_said_to_be_too_near(sets, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(sets / "smileys", "twin")
    cache = ["--cache", str(tmp_path / "cache")]
    assert main(["neighbours", str(sets / "flags"), "twin", str(sets / "smileys"), *cache]) == 0
    assert "too near each other" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["{sets}/none", "{sets}/flags"], 1, "none does not exist"),
        (["{sets}/flags", "{tmp}", "--chart", "{sets}/c.png"], 1, "no image found"),
        (["{sets}/flags", "{sets}/smileys", "{sets}/../sets0/smileys"], 1, "smileys is another SOURCE too"),
        (["{sets}/flags", "{sets}/flags"], 1, "flags is the TARGET too"),
        (["{sets}/flags", "{sets}/smileys", "--cache", "{tmp}/one/a.png/b"], 1, "Not a directory; name another"),
        (["{sets}/flags", "{tmp}/one"], 1, "at least 2 features"),
        (["{sets}/flags", "{tmp}/broken"], 1, "broken.png cannot be read as an image"),
        (["{sets}/flags", "{sets}/smileys", "--chart", "chart.jpg"], 1, "--chart chart.jpg does not end in .png"),
        (["{sets}/flags", "{sets}/smileys", "--json", "no/out.json"], 1, "its folder does not exist"),
        (["{sets}/flags", "{sets}/smileys", "--features", "vgg"], 1, "features vgg: no such file"),
        (["{sets}/flags", "{sets}/smileys", "--order", "0"], 1, "order=0 makes the kernel constant"),
        (["{sets}/flags", "{sets}/smileys", "--order", "1", "--polyharmonic"], 1, "is not 2m - 1280"),
        (["{sets}/flags", "{sets}/smileys", "--n-centers", "9999"], 1, "n_centers=9999"),
        (["{sets}/flags", "{sets}/smileys", "--radii", "1,-2"], 2, "outside (0, inf)"),
        (["{sets}/flags", "{sets}/smileys", "--n-subsets", "1"], 2, "outside [2, inf)"),
        (["{sets}/flags"], 2, "SOURCE"),
    ],
)
def test_a_wrong_input_is_one_line(sets, tmp_path, capsys, monkeypatch, arguments, status, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "one").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "one" / "a.png")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "broken.png").write_bytes(b"nothing")
    if "{tmp}" in arguments:
        shutil.rmtree(tmp_path / "one")
        shutil.rmtree(tmp_path / "broken")
    typed = [argument.format(sets=sets, tmp=tmp_path).replace("sets0", sets.name) for argument in arguments]
    try:
        result = main(["neighbours", *typed])
    except SystemExit as stopped:
        result = stopped.code
    assert result == status
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "neighbours.png").exists()


def test_the_metric_gathers_batches(features):
    real, fake = features["portraits"], features["smileys"]
    metric = SignedInceptionDistance(order=-1, radii=(1, 9), seed=3)
    for batch in real.split(50):
        metric.update(real=batch)
    metric.update(fake=fake[:10])
    metric.update(real[:0], fake[10:])
    expected = signed_inception_distance(fake, real, order=-1, radii=(1, 9), generator=torch.Generator().manual_seed(3))
    for name, value in vars(expected).items():
        torch.testing.assert_close(metric.compute()[name], torch.tensor(value, dtype=torch.float64), rtol=0, atol=0)
    metric.reset()
    metric.update(real, real)
    assert metric.compute()["csid"].abs() < 4 * metric.compute()["csid_standard_error"]
    metric.reset()
    metric.update(real=real)
    with pytest.raises(ValueError, match="fake has shape"):
        metric.compute()


def test_the_metric_takes_images_through_a_network():
    metric = SignedInceptionDistance(MeanColours(), radii=(4,))
    generator = torch.Generator().manual_seed(0)
    metric.update(torch.rand(40, 3, 8, 8, generator=generator), 0.5 * torch.rand(40, 3, 8, 8, generator=generator))
    assert metric.compute()["csid"] > 0


def _rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=Path(folder, "meeting").as_uri(), rank=rank, world_size=2)
    try:
        real, fake = torch.load(Path(folder, "features.pt"), weights_only=True)
        metric = SignedInceptionDistance(radii=(1, 9))
        metric.update(real.tensor_split([30])[rank], fake.tensor_split([10])[rank])
        apart = SignedInceptionDistance(radii=(1, 9))
        apart.update(**({"real": real} if rank == 0 else {"fake": fake}))
        torch.save((metric.compute(), apart.compute()), Path(folder, f"{rank}.pt"))
        dist.barrier()  # a rank that leaves while another still works has been seen to abort at its exit
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="this build of torch has no gloo")
def test_two_processes_with_different_batches_compute_one_distance(features, tmp_path):
    real, fake = features["portraits"], features["smileys"]
    torch.save((real, fake), tmp_path / "features.pt")
    torch.multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    alone = SignedInceptionDistance(radii=(1, 9))
    alone.update(real, fake)
    for rank in range(2):
        for computed in torch.load(tmp_path / f"{rank}.pt", weights_only=True):
            for name, value in computed.items():
                torch.testing.assert_close(value, alone.compute()[name], rtol=0, atol=0)


def test_spider_needs_torch_and_numpy_alone():
    script = """
import sys
for name in ("PIL", "matplotlib", "rich", "torchmetrics", "torchvision", "scipy", "sklearn"):
    sys.modules[name] = None
import gan_regularizers.spider
"""
    subprocess.run([sys.executable, "-c", script], check=True)

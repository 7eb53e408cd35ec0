"""Runs parts of a patched upstream repository in its folder, on a CPU.

::

python driver.py ticks IMAGES TICKS RESULT.json [options of train.py]    timed; networks keep their size, if they may
python driver.py states RESULT.json SNAPSHOT.pkl...
python driver.py latents SNAPSHOT.pkl RESULT.json    what its G is fed
python driver.py without NAME.py [options of the script]    where gan_regularizers is not installed
python driver.py unchecked NAME.py [options of the script]    whatever --resume has, as upstream alone does
python driver.py commands JSON RESULT.json    lists of options of train.py, which trains nothing
"""

import hashlib
import importlib
import json
import os
import runpy
import sys
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch

sys.path[:0] = [str(Path.cwd()), str(Path(__file__).parent / "tiny")]
tiny_training, tiny_watches = map(importlib.import_module, ("tiny_training", "tiny_watches"))


def ticks(images: str, number: str, result: str, *options: str) -> None:
    """Train for ticks of so many images, a multiple of the batch, after a first tick of a single batch.

    Saves no snapshots and writes the lines of stats.jsonl. The networks are tiny only where HALF_BLOCKS is set.
    """
    kwargs = _parsed(options)
    if "HALF_BLOCKS" in os.environ:
        tiny_training.shrink(kwargs)
    from training import training_loop as loop

    tiny_training.shrink_grid(loop)
    slack = kwargs["batch_size"] / 2  # upstream compares with thousands in floats
    kwargs.update(total_kimg=(int(number) * int(images) + slack) / 1000, kimg_per_tick=(int(images) - slack) / 1000)
    kwargs.update(image_snapshot_ticks=None, network_snapshot_ticks=None)
    loop.training_loop(**kwargs)
    lines = Path(kwargs["run_dir"], "stats.jsonl").read_text().splitlines()
    Path(result).write_text(json.dumps([json.loads(line) for line in lines]))


def states(result: str, *snapshots: str) -> None:
    """Load snapshots as the repository's scripts do, and write what they hold of the noise."""
    import dnnlib
    import legacy

    found = []
    for snapshot in snapshots:
        with dnnlib.util.open_url(snapshot) as file:
            data = legacy.load_network_pkl(file)
        G = data["G"]
        data["D"](torch.zeros(2, G.img_channels, *[G.img_resolution] * 2), torch.zeros(2, G.c_dim))
        pipe = data["augment_pipe"] or data["D"]
        found.append({name: value.tolist() for name, value in pipe.named_buffers() if value.numel() <= 64})
    Path(result).write_text(json.dumps(found))


def latents(snapshot: str, result: str) -> None:
    """Load a snapshot, use its G as upstream's scripts and metrics do, and write what G is fed, in digests."""
    import dnnlib
    import legacy

    with dnnlib.util.open_url(snapshot) as file:
        data = legacy.load_network_pkl(file)
    found = {}
    for name in ("G", "G_ema"):
        fed = data[name].mapping.latents
        tensors = dict(fed.named_buffers())
        found[name] = {
            "whole": _digest(data[name]),
            "latents": _digest(fed),
            "parameters": len(list(fed.parameters())),
            "types": sorted({str(value.dtype) for key, value in tensors.items() if key.split(".")[-1] == "images"}),
            "licence": [part.licence for part in fed.modules() if hasattr(part, "licence")],
            "frozen": _digest(fed.source.G) if fed.source is not None else None,
        }
    G = data["G_ema"]
    _same_z_same_input(G)
    _metrics_and_projector(G)
    Path(result).write_text(json.dumps(found))


def _digest(module: torch.nn.Module) -> str:
    """Of all parameters and buffers with their names, whichever of the two they are."""
    total = hashlib.sha256()
    for name, value in sorted([*module.named_parameters(), *module.named_buffers()]):
        total.update(name.encode() + value.detach().contiguous().numpy().tobytes())
    return total.hexdigest()


def _same_z_same_input(G: torch.nn.Module) -> None:
    """What enters the first layer is what the source gives for z, in any batch, by position and by name."""
    seen = []
    if hasattr(G.mapping, "fc0"):
        G.mapping.fc0.register_forward_pre_hook(lambda _, args: seen.append(args[0][:, : G.z_dim].detach()))
    else:  # FastGAN's does nothing
        G.mapping.register_forward_hook(lambda _, __, ws: seen.append(ws[:, 0]))
    z, c = torch.randn(5, G.z_dim), torch.zeros(5, G.c_dim)
    G(z, c)
    for i in range(5):
        G(z[i : i + 1], c[:1])
    G.mapping(z=z, c=c)
    whole, single, named = seen[0], torch.cat(seen[1:6]), seen[6]
    torch.testing.assert_close(single, whole, rtol=0, atol=1e-4)
    torch.testing.assert_close(named, whole, rtol=0, atol=1e-4)
    source = G.mapping.latents.source
    if source is not None:
        images = source.G(z[:, : source.z_dim], torch.zeros(5, 0), noise_mode="const", force_fp32=True)
        expected = tiny_watches.inputs(images, G.z_dim, G.mapping.latents.mean_latent)
        torch.testing.assert_close(whole, expected, rtol=0, atol=1e-3)
        assert whole.unique(dim=0).shape[0] > 1


def _metrics_and_projector(G: torch.nn.Module) -> None:
    """The parts of upstream's that call the mapping network by themselves, with the brightness for a VGG."""
    from metrics.perceptual_path_length import PPLSampler

    class Features(torch.nn.Module):
        def forward(self, images: torch.Tensor, **_: Any) -> torch.Tensor:
            return images.mean([2, 3])

    if hasattr(G.mapping, "fc0"):  # upstream's metric asks for a w without labels, which FastGAN does not have
        for space in ("w", "z"):
            distances = PPLSampler(G, {}, 1e-4, space, "full", False, Features())(torch.zeros(2, G.c_dim))
            assert distances.isfinite().all()
    if Path("projector.py").exists() and not G.c_dim:  # it gives no labels
        import projector

        torch.jit.load = lambda _: Features()
        projector.dnnlib.util.open_url = lambda _: nullcontext()
        target = torch.zeros(G.img_channels, G.img_resolution, G.img_resolution)
        device = torch.device("cpu")
        projected = projector.project(G, target=target, num_steps=2, w_avg_samples=64, device=device)
        assert projected.isfinite().all()


def without(name: str, *options: str) -> None:
    """Run a script as on a machine without the package."""

    class Missing:
        @staticmethod
        def find_spec(name: str, *_: Any) -> None:
            if name == "gan_regularizers":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Missing)
    _run(name, options)


def unchecked(name: str, *options: str) -> None:
    """Run a script that does not compare a snapshot with the networks first."""
    from gan_regularizers.adapters import resuming

    resuming.check = lambda *_: None
    _run(name, options)


def _run(name: str, options: tuple[str, ...]) -> None:
    sys.argv = [name, *options]
    runpy.run_path(name, run_name="__main__")


def commands(lines: str, result: str) -> None:
    """Write the exit status and the output of train.py for each list of options."""
    import dnnlib
    from click.testing import CliRunner

    command = _command()

    class Logger:
        """Upstream's would keep the standard output of the first command line."""

        def __init__(self, **settings: Any) -> None:
            pass

    dnnlib.util.Logger = Logger
    command.subprocess_fn = lambda **_: print("Training.")
    outcomes = [CliRunner().invoke(command.main, line) for line in json.loads(lines)]
    found = [{"status": outcome.exit_code, "output": outcome.output} for outcome in outcomes]
    Path(result).write_text(json.dumps(found))


def _command() -> Any:
    """The module train, whose adapter finds the tiny networks already where HALF_BLOCKS is set."""
    import train as command

    adapter = getattr(command, "regularizers", None)
    if adapter is not None and "HALF_BLOCKS" in os.environ:
        tiny_training.shrink_configured(adapter)
    return command


def _parsed(options: tuple[str, ...]) -> dict[str, Any]:
    """What train.py makes of its options for the training loop."""
    command = _command()
    parsed = {}

    def catch(*positional: Any, **named: Any) -> None:
        """Upstream's subprocess_fn(rank, args, temp_dir), where StyleGAN3 calls args c."""
        parsed.update(positional[1] if positional else named.get("args") or named["c"])

    command.subprocess_fn = catch
    torch.multiprocessing.spawn = lambda fn, args, **_: fn(0, *args)
    with suppress(SystemExit):  # ProjectedGAN says so where a run is not at its end
        command.main(list(options), standalone_mode=False)
    return parsed


if __name__ == "__main__":
    mode, *arguments = sys.argv[1:]
    modes = (ticks, states, latents, without, unchecked, commands)
    {function.__name__: function for function in modes}[mode](*arguments)

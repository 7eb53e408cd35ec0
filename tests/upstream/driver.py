"""Runs a patched upstream repository on a CPU, from its folder and through its own train.py, with tiny networks.

::

python driver.py train IMAGES RESULT.json [options of train.py]
python driver.py unchecked IMAGES RESULT.json [options of train.py]    whatever --resume has, as upstream alone does
python driver.py ticks IMAGES TICKS RESULT.json [options of train.py]    timed; networks keep their size, if they may
python driver.py rank RANK RANKS FOLDER IMAGES RESULT.json [options of train.py]    one of several gloo processes
python driver.py state SNAPSHOT.pkl RESULT.json
python driver.py latents SNAPSHOT.pkl RESULT.json    what its G is fed
python driver.py script NAME.py [options of the script]
python driver.py without NAME.py [options of the script]    where gan_regularizers is not installed
python driver.py commands JSON RESULT.json    lists of options of train.py, which trains nothing

With a zip file of images in the environment's FED_FROM, whatever enters a mapping network must be one of them.
"""

import atexit
import hashlib
import json
import os
import re
import sys
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path.cwd()))


def train(images: str, result: str, *options: str) -> None:
    """Show D that many images; write the keyword arguments of the training loop and the lines of stats.jsonl."""
    _train(0, int(images), result, options)


def unchecked(images: str, result: str, *options: str) -> None:
    """Train without comparing the snapshot with the networks first."""
    from gan_regularizers.adapters import resuming

    resuming.check = lambda *_: None
    _train(0, int(images), result, options)


def ticks(images: str, number: str, result: str, *options: str) -> None:
    """Train for ticks of so many images, a multiple of the batch, after a first tick of a single batch.

    Saves no snapshots and writes the lines of stats.jsonl. The networks are tiny only where HALF_BLOCKS is set.
    """
    kwargs = _parsed(options)
    if "HALF_BLOCKS" in os.environ:
        _shrink(kwargs)
    from training import training_loop as loop

    loop.setup_snapshot_image_grid = _small_grid
    slack = kwargs["batch_size"] / 2  # upstream compares with thousands in floats
    kwargs.update(total_kimg=(int(number) * int(images) + slack) / 1000, kimg_per_tick=(int(images) - slack) / 1000)
    kwargs.update(image_snapshot_ticks=None, network_snapshot_ticks=None)
    loop.training_loop(**kwargs)
    lines = Path(kwargs["run_dir"], "stats.jsonl").read_text().splitlines()
    Path(result).write_text(json.dumps([json.loads(line) for line in lines]))


def rank(number: str, ranks: str, folder: str, images: str, result: str, *options: str) -> None:
    """The same as one of several processes, which meet in a folder."""
    parallel = torch.nn.parallel.DistributedDataParallel

    class OnCPU(parallel):
        """Upstream names the device of a rank, which must not be named where it is the CPU."""

        def __init__(self, module: torch.nn.Module, device_ids: Any = None, **settings: Any) -> None:  # noqa: ARG002
            super().__init__(module, **settings)

    torch.nn.parallel.DistributedDataParallel = OnCPU
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=int(number), world_size=int(ranks)
    )
    from torch_utils import training_stats

    training_stats.init_multiprocessing(rank=int(number), sync_device=torch.device("cpu"))
    _train(int(number), int(images), result, options)
    torch.distributed.barrier()  # a rank that leaves while another still works has been seen to abort at its exit
    torch.distributed.destroy_process_group()


def state(snapshot: str, result: str) -> None:
    """Load a snapshot as the repository's scripts do, and write what it holds of the noise."""
    import dnnlib
    import legacy

    with dnnlib.util.open_url(snapshot) as file:
        data = legacy.load_network_pkl(file)
    images, c = torch.zeros(2, data["G"].img_channels, *[data["G"].img_resolution] * 2), torch.zeros(2, data["G"].c_dim)
    data["D"](images, c)
    pipe = data["augment_pipe"] or data["D"]
    found = {name: value.tolist() for name, value in pipe.named_buffers() if value.numel() <= 64}
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
        expected = _inputs(images, G.z_dim, G.mapping.latents.mean_latent)
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


def _inputs(images: torch.Tensor, z_dim: int, mean: torch.Tensor | None = None) -> torch.Tensor:
    """Images as G's first layer sees them: averages over a grid of z_dim areas, less their mean, of length 1."""
    geometry = {32: (4, 8), 64: (8, 8), 256: (16, 16)}[z_dim]
    flat = torch.nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), geometry).flatten(1)
    flat = flat - (flat.mean(0) if mean is None else mean)
    return flat / (flat.square().mean(1, keepdim=True) + 1e-8).sqrt()


def _watch_what_g_is_fed(path: str) -> None:
    """Stop at anything that enters a first layer of G and is not one of the images of a zip file."""
    from gan_regularizers.images import load

    images = load(Path(path), 32) / 127.5 - 1
    first, saw = {}, SimpleNamespace(inputs=0, images=set(), single=0)

    def check(x: torch.Tensor) -> None:
        distance, index = torch.cdist(x.float(), _inputs(images, x.shape[1])).min(1)
        assert distance.max() < 0.02, f"G is fed what is none of the images, at a distance of {float(distance.max()):g}"
        saw.inputs += len(x)
        saw.images.update(index.tolist())
        saw.single += len(x) == 1

    def watch(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        kind = type(module).__name__
        if kind == "MappingNetwork" and module.z_dim:
            if getattr(getattr(module, "latents", None), "source", None) is None:
                first[module.fc0] = module.z_dim
        elif module in first:
            check(args[0][:, : first[module]])
        elif kind == "InitLayer":
            check(args[0])

    torch.nn.modules.module.register_module_forward_pre_hook(watch)
    atexit.register(
        lambda: print(f"G was fed {saw.inputs} times, {saw.single} of them alone, of {len(saw.images)} images")
    )


def script(name: str, *options: str) -> None:
    """Run one of the repository's scripts on the CPU, where it names CUDA."""
    source = Path(name).read_text(encoding="utf-8-sig")
    source = re.sub(r"torch\.device\('cuda'(, rank)?\)", "torch.device('cpu')", source)
    sys.argv = [name, *options]
    exec(compile(source, name, "exec"), {"__name__": "__main__"})


def metrics(snapshot: str) -> None:
    """Calculate the mean of an image in place of upstream's metrics, whose networks are downloaded."""
    from metrics import metric_main

    def mean(options: Any) -> dict[str, float]:
        G = options.G
        return {"mean": float(G(torch.zeros(1, G.z_dim), torch.zeros(1, G.c_dim)).mean())}

    metric_main._metric_dict["fid50k_full"] = mean
    script("calc_metrics.py", f"--network={snapshot}", "--metrics=fid50k_full", "--gpus=1")


def without(name: str, *options: str) -> None:
    """Run a script as on a machine without the package."""

    class Missing:
        @staticmethod
        def find_spec(name: str, *_: Any) -> None:
            if name == "gan_regularizers":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Missing)
    script(name, *options)


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


def _train(number: int, images: int, result: str, options: tuple[str, ...]) -> None:
    kwargs = _parsed(options)
    _shrink(kwargs)
    from training import training_loop as loop

    loop.setup_snapshot_image_grid = _small_grid
    kwargs.update(total_kimg=images / 1000, kimg_per_tick=1, image_snapshot_ticks=1, network_snapshot_ticks=1)
    told = _watch_what_d_is_told()
    loop.training_loop(rank=number, **kwargs)
    if number == 0:
        stats = [json.loads(line) for line in Path(kwargs["run_dir"], "stats.jsonl").read_text().splitlines()]
        snapshot = str(max(Path(kwargs["run_dir"]).glob("network-snapshot*.pkl")))
        Path(result).write_text(json.dumps({"kwargs": kwargs, "stats": stats, "snapshot": snapshot, "told": told}))


def _watch_what_d_is_told() -> list[bool]:
    """Whether D was told a t, for each of its runs to come; it is not where the images did not come from the pipe."""
    from gan_regularizers.adapters.snapshot_parts import TellT

    told, tell = [], TellT.__call__

    def watched(self: TellT, D: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        told.append(hasattr(args[0], "diffusion_t"))
        return tell(self, D, args, kwargs)

    TellT.__call__ = watched
    return told


def _command() -> Any:
    """The module train, whose adapter finds the tiny networks already where HALF_BLOCKS is set."""
    import train as command

    adapter = getattr(command, "regularizers", None)
    if adapter is not None and "HALF_BLOCKS" in os.environ:
        configure = adapter.configure
        adapter.configure = lambda kwargs, desc: _shrink(kwargs) or configure(kwargs, desc)
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


def _shrink(kwargs: dict[str, Any]) -> None:
    """Networks and a batch that a CPU trains in moments; everything that the options ask for stays."""
    G, D = kwargs["G_kwargs"], kwargs["D_kwargs"]
    kwargs["data_loader_kwargs"] = {"num_workers": 0, "pin_memory": False}
    for network in (G, D, G.get("synthesis_kwargs", {})):
        if "channel_base" in network:
            network.update(channel_base=512, channel_max=32, num_fp16_res=int(os.environ["HALF_BLOCKS"]))
    if "backbone_kwargs" in D:
        D["backbone_kwargs"].update(cout=16)
    else:
        G.update(z_dim=32, w_dim=32)
        G["mapping_kwargs"].update(num_layers=2)
    base = G.get("base", G["class_name"])
    if base.endswith("networks_stylegan3.Generator"):
        G.update(num_layers=6, channel_max=16)
    elif base.endswith("networks_fastgan.Generator"):
        G.update(ngf=16)
    for head in ("DHead_kwargs", "GHead_kwargs"):
        if kwargs.get(head):
            kwargs[head].update(inplanes=32, queue_size=16)


def _small_grid(training_set: Any, random_seed: int = 0) -> Any:  # noqa: ARG001
    images, labels = zip(*[training_set[i] for i in range(4)], strict=True)
    return (2, 2), np.stack(images), np.stack(labels)


if __name__ == "__main__":
    mode, *arguments = sys.argv[1:]
    modes = {
        function.__name__: function
        for function in (train, unchecked, ticks, rank, state, latents, script, metrics, without, commands)
    }
    if fed_from := os.environ.get("FED_FROM"):
        _watch_what_g_is_fed(fed_from)
    modes[mode](*arguments)

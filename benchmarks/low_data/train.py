"""Train one GAN of the low-data experiment; one JSON line per evaluation.

It runs alone or, unchanged, under torchrun, on one host or many::

    python benchmarks/low_data/train.py --arm diffaug --images 100 --out runs/one
    torchrun --nproc-per-node 2 benchmarks/low_data/train.py --arm diffaug --images 100 --out runs/two

In ``--out`` it leaves ``run.jsonl`` (its settings, then a line per evaluation), ``samples.npz`` and ``checkpoint.pt``.
The same command goes on where a run was stopped, to the numbers of an uninterrupted one, and with more ``--kimg`` it
trains a finished one further. Several hosts need a folder that all of them see.
"""

import argparse
import contextlib
import copy
import io
import json
import math
import os
import pickle
import platform
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from arms import ARMS
from generator import Generator
from measures import compare
from projected import Lite2Features
from reals import Reals, Source, load
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import gan_regularizers
from gan_regularizers import ops, regularizer_of
from gan_regularizers.commands.bench.timing import keep_freed_memory
from gan_regularizers.commands.demo.kid import kid_x1000
from gan_regularizers.commands.demo.networks import LATENT_DIM
from gan_regularizers.commands.demo.settings import RESOLUTIONS
from gan_regularizers.io.errors import CommandError
from gan_regularizers.io.files import write_atomically
from gan_regularizers.io.options import Parser, find_device, number, whole_number
from gan_regularizers.spider.features import Lite0Features

BATCH_SIZE = 16  # of all ranks together
BETAS = (0.0, 0.99)
R1_INTERVAL = 8
EMA_DECAY = 0.995
SHOWN_SAMPLES = 36
PRECISIONS = ("float32", "bfloat16")
ROUND = 4  # iterations; AdaptiveT moves after as many, so no statistic is open when a checkpoint is written


@dataclass(frozen=True)
class Settings:
    """Of a run; runs with equal settings, as many ranks and threads and one machine give equal numbers on the CPU."""

    arm: str
    data: str
    images: int
    seed: int = 0
    kimg: float = 28.0
    every: float = 4.0
    resolution: int = 32
    samples: int = 256
    learning_rate: float = 1e-3
    d_steps: int = 1  # of D for each of G; kimg are the images of one
    width: int = 1  # of G and D, in times that of the others
    precision: str = "float32"  # of the networks' layers, by torch.autocast where it is bfloat16

    @property
    def name(self) -> str:
        """Of the run's folder; its length and how it was measured are not in it."""
        name = f"{self.data}-{self.images}-{self.arm}-{self.seed}"
        name += f"-lr{self.learning_rate:g}" if self.learning_rate != Settings.learning_rate else ""
        name += f"-d{self.d_steps}" if self.d_steps != Settings.d_steps else ""
        name += f"-w{self.width}" if self.width != Settings.width else ""
        return name + (f"-{self.precision}" if self.precision != Settings.precision else "")


class Training:
    """The networks of one run, on this rank."""

    def __init__(self, settings: Settings, reals: Reals, device: torch.device) -> None:
        self.settings = settings
        self.arm = ARMS[settings.arm]
        self.reals = reals
        self.device = device
        self.ranks, self.rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
        if BATCH_SIZE % self.ranks:
            raise CommandError(f"{self.ranks} ranks cannot share a batch of {BATCH_SIZE}; start 1, 2, 4, 8 or 16")
        self.batch = BATCH_SIZE // self.ranks
        # Quicker than torch's default layout on the CPU that it was tried on.
        here = {"device": device, "memory_format": torch.channels_last}
        self.train_images = to_float(reals.train).to(**here)
        torch.manual_seed(settings.seed)
        self.z = torch.randn(len(reals.held_out), LATENT_DIM)
        self.G = Generator(settings.resolution, settings.width).to(**here)
        self.G_ema = copy.deepcopy(self.G).requires_grad_(False).eval()
        self.D = self.arm.discriminator(settings.resolution, settings.width).to(**here)
        self.adapt = self.arm.regularize(self.D)
        self.parallel_G, self.parallel_D = self.G, self.D
        if self.ranks > 1:
            self.parallel_G, self.parallel_D = map(DistributedDataParallel, (self.G, self.D))
        self.G_opt, self.D_opt = (
            torch.optim.Adam([p for p in net.parameters() if p.requires_grad], settings.learning_rate, BETAS)
            for net in (self.G, self.D)
        )
        self.features = Lite0Features().to(device)
        self.iteration = 0
        self.seconds = 0.0
        self.evaluations: list[dict[str, float]] = []

    def step(self) -> dict[str, Tensor]:
        """D's steps and one of G on this rank's share of the batch; returns what to log of the last ones."""
        # The seed says all, so a checkpoint needs no generator's state, of any rank.
        torch.manual_seed(_seed(self.settings.seed, self.rank, self.iteration))
        steps = self.settings.d_steps
        for step in range(self.iteration * steps, (self.iteration + 1) * steps):
            D_loss, real_logits, fake = self._step_of_D(penalised=self.arm.r1 > 0 and step % R1_INTERVAL == 0)

        self.D.requires_grad_(False)
        fake_logits = self._run(self.D, fake)
        G_loss = -fake_logits.mean() if self.arm.projected else F.softplus(-fake_logits).mean()
        self.G_opt.zero_grad()
        G_loss.backward()
        self.G_opt.step()
        self.D.requires_grad_(True)

        with torch.no_grad():
            for averaged, current in zip(self.G_ema.state_dict().values(), self.G.state_dict().values(), strict=True):
                averaged.lerp_(current, 1.0 - EMA_DECAY) if averaged.is_floating_point() else averaged.copy_(current)
        if self.adapt is not None:
            self.adapt.step(self.batch * steps)
        self.iteration += 1
        return {"D_loss": D_loss.detach(), "G_loss": G_loss.detach(), "r_d": real_logits.detach().sign().mean()}

    def _step_of_D(self, penalised: bool) -> tuple[Tensor, Tensor, Tensor]:  # noqa: N802
        """Returns D's loss, its logits on reals, and the fakes, which lead back to G."""
        real = self.train_images[torch.randint(len(self.train_images), (self.batch,)).to(self.device)]
        real.requires_grad_(penalised)
        fake = self._run(self.parallel_G, torch.randn(self.batch, LATENT_DIM).to(self.device))
        if self.arm.projected:  # whose heads normalise what comes together
            real_logits, fake_logits = (self._run(self.parallel_D, images) for images in (real, fake.detach()))
            D_loss = F.relu(1.0 - real_logits).mean() + F.relu(1.0 + fake_logits).mean()
        else:
            real_logits, fake_logits = self._run(self.parallel_D, torch.cat([real, fake.detach()])).chunk(2)
            D_loss = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
        penalty = 0.0
        if penalised:
            (gradient,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
            penalty = R1_INTERVAL * self.arm.r1 / 2 * gradient.square().sum(dim=(1, 2, 3)).mean()
        self.D_opt.zero_grad()
        (D_loss + penalty).backward()
        self.D_opt.step()
        if self.adapt is not None:
            self.adapt.observe(real_logits)
        return D_loss, real_logits, fake

    def _run(self, network: nn.Module, x: Tensor) -> Tensor:
        """The network's output as float32, with its layers in the precision of the settings."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
            return network(x).float()

    @torch.no_grad()
    def evaluate(self, logged: dict[str, float]) -> dict[str, float]:
        """The measures and D's mean outputs on clean images, beside what the steps before have logged.

        Where that is not finite, nothing can be measured, and nothing more trained.
        """
        at = {"kimg": self.iteration * BATCH_SIZE / 1000, "seconds": self.seconds}
        if not all(map(math.isfinite, logged.values())):
            return {**at, "finite": False}
        generated = self.generate()
        shown = {"train": self.train_images, "held_out": to_float(self.reals.held_out), "generated": generated}
        with self._clean_D() as D:
            logits = {
                name: torch.cat([D(x.to(self.device)) for x in images.split(512)]) for name, images in shown.items()
            }
        return {
            **at,
            **logged,
            "p": 0.0 if self.adapt is None else float(self.adapt.p),
            "T": 0 if self.adapt is None else self.adapt.T,
            **compare(self.features(generated).cpu(), self.reals.held_out_features, self.reals.train_features),
            **self.kid_by_lite2(generated),
            **{f"D_{name}": of_images.mean().item() for name, of_images in logits.items()},
        }

    @contextlib.contextmanager
    def _clean_D(self) -> Iterator[nn.Module]:  # noqa: N802
        """D without its regularizers, wherever they are."""
        noise = None if self.adapt is None else self.adapt.noise
        with regularizer_of(self.D).off():
            self.D.eval()
            if noise is not None:
                noise.enabled = False
            yield self.D
            if noise is not None:
                noise.enabled = True
            self.D.train()

    @torch.no_grad()
    def generate(self) -> Tensor:
        """As many images from the averaged G as are held out, always of the same latents."""
        return torch.cat([self.G_ema(z) for z in self.z.to(self.device).split(64)])

    def run(self, folder: Path) -> None:
        """Train to the end; the first rank writes to the folder after every evaluation."""
        end = _iterations(self.settings.kimg)
        at = {_iterations(self.settings.every * i) for i in range(1, end)} | {end}
        logged = []
        began = time.monotonic() - self.seconds
        going = self.iteration < end and self.finite
        if self.rank == 0 and going:
            (folder / "samples.npz").unlink(missing_ok=True)  # of a shorter run; they say that a run is finished
        while going:
            logged.append(self.step())
            if self.iteration in at:
                self.seconds = time.monotonic() - began
                means = self._means(logged)
                if self.rank == 0:
                    self.evaluations.append(_rounded(self.evaluate(means)))
                    self.save(folder)
                logged = []
                going = self.iteration < end and all(map(math.isfinite, means.values()))
        if self.rank == 0:
            self.show(folder / "samples.npz")

    def save(self, folder: Path) -> None:
        """Write the lines and the checkpoint, each whole or not at all."""
        lines = [self.header(), *self.evaluations]
        write_atomically(folder / "run.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
        stream = io.BytesIO()
        torch.save(self._state(), stream)
        write_atomically(folder / "checkpoint.pt", stream.getvalue())

    def load(self, folder: Path) -> None:
        """Continue from the checkpoint.

        Raises:
            CommandError: it is of other settings or images, or cannot be read.
        """
        try:
            state = torch.load(folder / "checkpoint.pt", map_location=self.device, weights_only=True)
        except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
            raise CommandError(f"{folder}/checkpoint.pt cannot be read; delete it to start the run anew") from error
        for name, here in self._identity().items():
            there = state["of"].get(name, getattr(Settings, name, None))  # of before there was such a setting
            if there != here:
                raise CommandError(f"{folder} holds a run with {name} {there}, not {here}; choose another --out")
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.iteration, self.seconds, self.evaluations = (state[key] for key in ("iteration", "seconds", "evaluations"))
        if self.iteration > _iterations(self.settings.kimg):
            raise CommandError(f"{folder} holds a run that is longer than --kimg {self.settings.kimg:g} already")

    @property
    def finite(self) -> bool:
        """Whether the last evaluation could measure anything."""
        return not self.evaluations or self.evaluations[-1].get("finite", True)

    @cached_property
    def floor(self) -> dict[str, float]:
        """What held-out images score against others, as many."""
        reals = self.reals
        measures = compare(reals.other_features, reals.held_out_features, reals.train_features)
        return _rounded(measures | self.kid_by_lite2(to_float(reals.others)))

    def kid_by_lite2(self, images: Tensor) -> dict[str, float]:
        """KID by another network, where D sees images by the one that the other measures take; else nothing."""
        if not self.arm.projected:
            return {}
        network, held_out = self._lite2
        return {"kid_lite2": kid_x1000(network(images.to(self.device)).cpu(), held_out)}

    @cached_property
    def _lite2(self) -> tuple[Lite2Features, Tensor]:
        """The network, and its features of the held-out images."""
        network = Lite2Features().to(self.device)
        return network, network(to_float(self.reals.held_out).to(self.device)).cpu()

    def header(self) -> dict[str, Any]:
        """What the run is, and the floor of its measures."""
        return {
            "settings": asdict(self.settings),
            "arm": asdict(self.arm),
            "source": self.reals.source,
            "held_out": len(self.reals.held_out),
            "floor": self.floor,
            "ranks": self.ranks,
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else platform.machine(),
            "versions": {
                "gan_regularizers": gan_regularizers.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
                "backend": ops.backend(self.device.type)[0],
            },
        }

    def show(self, path: Path) -> None:
        """Write samples, and the training images that are nearest to them, as uint8 [N, 3, R, R]."""
        shown = self.generate()[:SHOWN_SAMPLES].nan_to_num()
        nearest = torch.cdist(self.features(shown).cpu(), self.reals.train_features).argmin(dim=1)
        stream = io.BytesIO()
        np.savez(stream, generated=((shown.cpu() + 1) * 127.5).round().byte(), nearest=self.reals.train[nearest])
        write_atomically(path, stream.getvalue())

    def _means(self, logged: list[dict[str, Tensor]]) -> dict[str, float]:
        """Over the steps and the ranks."""
        means = torch.stack([torch.stack(list(entry.values())) for entry in logged]).mean(dim=0)
        if self.ranks > 1:
            dist.all_reduce(means)
        return dict(zip(logged[0], (means / self.ranks).tolist(), strict=True))

    def _state(self) -> dict[str, Any]:
        return {
            **{name: part.state_dict() for name, part in self._parts().items()},
            "of": self._identity(),
            "iteration": self.iteration,
            "seconds": self.seconds,
            "evaluations": self.evaluations,
        }

    def _identity(self) -> dict[str, Any]:
        """What a run keeps when it goes on: all but its length."""
        return {**asdict(self.settings), "kimg": None, "ranks": self.ranks, "source": self.reals.source}

    def _parts(self) -> dict[str, Any]:
        parts = {"G": self.G, "G_ema": self.G_ema, "D": self.D, "G_opt": self.G_opt, "D_opt": self.D_opt}
        return parts if self.adapt is None else {**parts, "adapt": self.adapt}


def _iterations(kimg: float) -> int:
    """As many as show so many thousand images, in whole rounds, at least one."""
    return max(1, math.floor(kimg * 1000 / BATCH_SIZE / ROUND + 0.5)) * ROUND


def _seed(*numbers: int) -> int:
    """One seed for a run, a rank and an iteration."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def to_float(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1.0


def _rounded(entry: dict[str, float]) -> dict[str, float]:
    return {key: value if isinstance(value, bool) else float(f"{value:.6g}") for key, value in entry.items()}


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="train.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--arm", choices=ARMS, required=True, help="what stands before D")
    add("--out", type=Path, required=True, help="folder of the run")
    add("--data", type=Path, help="folder or zip of images (default: the portraits of the demo)")
    add("--held-out", type=Path, help="folder or zip to measure against (default: half of --data)")
    add("--cache", type=Path, default=Path("low-data-cache"), help="folder for features (default: %(default)s)")
    add("--images", type=whole_number("[4, inf)"), default=100, help="to train on (default: %(default)s)")
    add("--seed", type=whole_number("[0, 2147483647]"), default=0, help="default: %(default)s")
    add("--kimg", type=number("(0, inf)"), default=Settings.kimg, help="thousand reals to show (default: %(default)s)")
    add(
        "--every",
        type=number("[0.064, inf)"),
        default=Settings.every,
        help="kimg between measures (default: %(default)s)",
    )
    add("--resolution", type=int, choices=RESOLUTIONS, default=Settings.resolution, help="default: %(default)s")
    add("--samples", type=whole_number("[8, inf)"), default=Settings.samples, help="to measure (default: %(default)s)")
    add("--learning-rate", type=number("(0, inf)"), default=Settings.learning_rate, help="default: %(default)s")
    add("--d-steps", type=whole_number("[1, inf)"), default=1, help="of D for each of G (default: %(default)s)")
    add("--width", type=whole_number("[1, inf)"), default=1, help="of G and D, as a factor (default: %(default)s)")
    add("--precision", choices=PRECISIONS, default=Settings.precision, help="of the layers (default: %(default)s)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    args = parser.parse_args(argv)
    parser.make_folder("--out", args.out)
    return args


@contextlib.contextmanager
def ranks(device: str) -> Iterator[torch.device]:
    """The device of this rank; the ranks that torchrun has started, if it has, meet here."""
    if not dist.is_torchelastic_launched():
        yield torch.device(device)
        return
    # Of D's last layer, [1, d], whose two orders of memory are the same.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        yield torch.device(device)
        dist.barrier()  # a rank that leaves while another still works has been seen to abort at its exit
    finally:
        dist.destroy_process_group()


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    source = Source(args.data, args.held_out)
    settings = Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)} | {"data": source.name})
    with ranks(find_device(args.device)) as device:
        reals = load(source, args.images, args.samples, args.resolution, args.cache)
        training = Training(settings, reals, device)
        if (args.out / "checkpoint.pt").exists():
            training.load(args.out)
        training.run(args.out)


if __name__ == "__main__":
    keep_freed_memory()  # else page faults at each large tensor
    try:
        main()
    except CommandError as error:
        sys.exit(f"train.py: {error}")

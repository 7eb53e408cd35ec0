"""One arm of the demo: a GAN with the logistic loss and R1, its measures over time, and its checkpoint."""

import contextlib
import copy
import io
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ... import AdaptiveT, DiffAugment, DiffusionNoise, regularizer_of, wrap
from ...io.errors import CommandError
from ...io.files import write_atomically
from ...spider.features import Lite0Features
from .kid import kid_x1000
from .networks import LATENT_DIM, Discriminator, Generator
from .settings import Settings

BATCH_SIZE = 16
LEARNING_RATE = 1e-3
BETAS = (0.0, 0.99)
R1_GAMMA = 1.0
R1_INTERVAL = 8
EMA_DECAY = 0.99
ADAPT_KIMG = 20.0
MEASURES = 8
MEASURED_SAMPLES = 256
SHOWN_SAMPLES = 36
REPORT_INTERVAL = 20


class Arm:
    """The networks, optimisers, controller and history of one arm.

    Args:
        name: one of ``settings.ARMS``.
        settings: of the run.
        train: uint8 [N, 3, R, R], the images to train on.
        held_out: uint8 [M, 3, R, R], the images to measure against.
        latents: maps the Gaussian z [N, 64] to what G is fed with, as many numbers; by default that is z.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        train: Tensor,
        held_out: Tensor,
        latents: nn.Module | None = None,
    ) -> None:
        torch.manual_seed(settings.seed)
        self.name = name
        self.settings = settings
        self.device = torch.device(settings.device)
        self.train_images = _to_float(train).to(self.device)
        self.held_out_images = _to_float(held_out).to(self.device)
        self.features = Lite0Features().to(self.device)
        self.held_out_features = self.features(self.held_out_images)
        self.floor = kid_x1000(self.features(self.train_images), self.held_out_features)
        # The metric pairs as many samples as there are held-out images; more would be drawn in vain.
        self.fixed_z = torch.randn(max(SHOWN_SAMPLES, min(MEASURED_SAMPLES, len(held_out))), LATENT_DIM).to(self.device)

        G = Generator(settings.resolution)
        self.G = (G if latents is None else nn.Sequential(latents, G)).to(self.device)
        self.G_ema = copy.deepcopy(self.G).requires_grad_(False).eval()
        self.D: nn.Module = Discriminator(settings.resolution)
        self.adapt: AdaptiveT | None = None
        if name == "regularised":
            wrap(self.D, DiffAugment(settings.policy), DiffusionNoise(noise_std=settings.noise_std))
            self.adapt = AdaptiveT(self.D, target=settings.target, kimg=ADAPT_KIMG)
        self.D.to(self.device)
        self.G_opt = torch.optim.Adam(self.G.parameters(), LEARNING_RATE, BETAS)
        self.D_opt = torch.optim.Adam(self.D.parameters(), LEARNING_RATE, BETAS)
        self.iteration = 0
        self.seconds = 0.0
        self.signs = torch.zeros(2, device=self.device)  # their sum and number since the last measure
        self.history: list[dict[str, float]] = []

    def run(
        self,
        checkpoint: Path,
        report: Callable[[dict[str, float]], None],
        stopped: Callable[[], bool],
        measures: int = MEASURES,
    ) -> bool:
        """Train to the end or until ``stopped()``, and leave a checkpoint; return whether the end was reached.

        Reports hold the losses and ``state()``, and where they were measured the measures too.
        """
        began = time.monotonic() - self.seconds
        iterations = max(1, round(self.settings.kimg * 1000 / BATCH_SIZE))
        measured = {round(iterations * i / measures) for i in range(1, measures + 1)}
        while self.iteration < iterations:
            if stopped():
                self.save(checkpoint)
                return False
            D_loss, G_loss = self.step()
            self.iteration += 1
            self.seconds = time.monotonic() - began
            if self.iteration % REPORT_INTERVAL == 0 or self.iteration in measured:
                entry = {"D_loss": D_loss.item(), "G_loss": G_loss.item(), **self.state()}
                if self.iteration in measured:
                    entry |= self.measure()
                    self.history.append(entry)
                    self.save(checkpoint)
                report(entry)
        return True

    def step(self) -> tuple[Tensor, Tensor]:
        """One step of D and one of G; returns their losses."""
        real = self.train_images[torch.randint(len(self.train_images), (BATCH_SIZE,)).to(self.device)]
        real.requires_grad_(self.iteration % R1_INTERVAL == 0)
        fake = self.G(torch.randn(BATCH_SIZE, LATENT_DIM).to(self.device))

        real_logits, fake_logits = self.D(real), self.D(fake.detach())
        D_loss = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
        penalty = 0.0
        if real.requires_grad:
            (gradient,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
            penalty = R1_INTERVAL * R1_GAMMA / 2 * gradient.square().sum(dim=(1, 2, 3)).mean()
        self.D_opt.zero_grad()
        (D_loss + penalty).backward()
        self.D_opt.step()

        self.D.requires_grad_(False)
        G_loss = F.softplus(-self.D(fake)).mean()
        self.G_opt.zero_grad()
        G_loss.backward()
        self.G_opt.step()
        self.D.requires_grad_(True)

        with torch.no_grad():
            for averaged, current in zip(self.G_ema.state_dict().values(), self.G.state_dict().values(), strict=True):
                averaged.lerp_(current, 1.0 - EMA_DECAY) if averaged.is_floating_point() else averaged.copy_(current)
            signs = real_logits.sign()
            self.signs += torch.stack([signs.sum(), signs.new_tensor(signs.numel())])
        if self.adapt is not None:
            self.adapt.observe(real_logits)
            self.adapt.step(BATCH_SIZE)
        return D_loss.detach(), G_loss.detach()

    def state(self) -> dict[str, float]:
        """Images shown, r_d over the batches since the last measure, p and T."""
        signs, count = self.signs.tolist()
        return {
            "kimg": self.iteration * BATCH_SIZE / 1000,
            "r_d": signs / max(count, 1.0),
            "p": float(self.adapt.p) if self.adapt else 0.0,
            "T": float(self.adapt.T) if self.adapt else 0.0,
        }

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """KID-lite0 x 1000 against the held-out images, and how far D prefers its training images to them."""
        self.signs.zero_()
        kid = kid_x1000(self.features(self.samples()), self.held_out_features)
        with regularizer_of(self.D).off() if self.adapt else contextlib.nullcontext():
            means = [
                torch.cat([self.D(batch) for batch in images.split(BATCH_SIZE)]).mean().item()
                for images in (self.train_images, self.held_out_images)
            ]
        return {"kid": kid, "gap": means[0] - means[1]}

    @torch.no_grad()
    def samples(self) -> Tensor:
        """The images of the fixed latents from the averaged generator, [N, 3, R, R] in [-1, 1]."""
        return torch.cat([self.G_ema(z) for z in self.fixed_z.split(64)])

    def save(self, path: Path) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {name: part.state_dict() for name, part in self._parts().items()}
        state |= {
            "iteration": self.iteration,
            "seconds": self.seconds,
            "signs": self.signs,
            "history": self.history,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }
        stream = io.BytesIO()
        torch.save(state, stream)
        write_atomically(path, stream.getvalue())

    def load(self, path: Path) -> None:
        """Continue from a checkpoint to the numbers of an uninterrupted run."""
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
            raise CommandError(f"{path} cannot be read; delete it to train this arm from its start") from error
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.iteration, self.seconds = state["iteration"], state["seconds"]
        self.signs, self.history = state["signs"], state["history"]
        torch.set_rng_state(state["random"].cpu())
        if state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"].cpu(), self.device)

    def _parts(self) -> dict[str, Any]:
        parts = {"G": self.G, "G_ema": self.G_ema, "D": self.D, "G_opt": self.G_opt, "D_opt": self.D_opt}
        return parts if self.adapt is None else {**parts, "adapt": self.adapt}


def _to_float(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1.0

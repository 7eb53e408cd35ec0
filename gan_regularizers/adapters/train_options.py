"""The options ``--reg...`` of the train.py of the upstream repositories, what they resolve to, and ``--spider...``.

They do not reach upstream's own code: they wait in click's context until ``configure`` of an adapter asks for them.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from ..arguments import number
from ..diffaugment import DiffAugment
from ..diffusion_noise import PRESETS, SCHEDULES, DiffusionNoise
from .snapshot_parts import TOLD

PLACES = ("first", "last", "pixels")  # of the noise in ProjectedGAN

_READ_BY = {
    "diffaug": ("policy", "cutout"),
    "diffusion": "noise_std t_max t_min dist schedule target kimg parity condition where".split(),
}
_NOISE_SETTINGS = (
    "t_max t_min noise_std schedule beta_start beta_end distribution clean_share parity per_channel seed".split()
)
_METAVARS = {
    str: "NAMES",
    int: "INT",
    float: "FLOAT",
    "--spider": "PATH_OR_PKL",
    "--spider-geometry": "ROWSxCOLUMNS",
}
# Options of train.py that have no effect beside --reg, and the one of ours, if any, that does what it did.
_REPLACED = {
    "aug": None,
    "p": None,
    "initstrength": None,
    "augpipe": None,
    "target": "target",
    "ada_kimg": "kimg",
    "ada_maxp": None,
    "daug": None,
    "diffaugment": "policy",
    "with_dataaug": None,
    "t_min": "t_min",
    "t_max": "t_max",
    "noise_sd": "noise_std",
    "ts_dist": "dist",
    "beta_schedule": "schedule",
    "beta_start": None,
    "beta_end": None,
    "d_pos": "where",
}
_SWITCHES = ("aug", "daug", "diffaugment", "with_dataaug")
_OFF = ("noaug", "no", "none", "false", "")
_POLICY = "color,translation,cutout"
_TARGET = 0.6
_KIMG = 100.0


@dataclass(frozen=True)
class Host:
    """What an upstream repository can do, and its defaults, by names of the presets of the package."""

    augmentation: str  # its own, which the regularizers take the place of
    noise: dict[str, str]  # on images, by --reg-dist; the first one is the default
    features: str | None = None  # on feature maps, where D has any
    diffaug: str = "data_efficient_gans"  # without noise
    diffaug_and_noise: str = "diffusion_gan"
    modes: tuple[str, ...] = ("none", "diffaug", "diffusion", "diffaug+diffusion", "ada+diffusion")
    spider: bool = True  # whether its G can be fed images
    conditions: str = "t; none where the D of --resume was not told t"  # the default, in words


@dataclass(frozen=True)
class Regularizers:
    """What was asked for, resolved; settings are keyword arguments of the modules, ready for JSON."""

    mode: str
    diffaug: dict[str, Any] | None
    noise: dict[str, Any] | None
    target: float
    kimg: float
    condition: str | None  # None: not given
    where: str
    desc: str  # for the name of the run: what was asked for


def options(host: Host) -> Callable[[Any], Any]:
    """A decorator that adds the options to a command of click."""

    def decorate(command: Any) -> Any:
        for name, kind, text in reversed(list(_options(host))):
            metavar = _METAVARS.get(name) or _METAVARS.get(kind)  # a choice shows its values
            add = click.option(name, type=kind, help=text, metavar=metavar, expose_value=False, callback=_keep)
            command = add(command)
        return command

    return decorate


def resolve(host: Host, seed: int) -> Regularizers | None:
    """What the running command was asked for; None with ``--reg=none``.

    Raises:
        click.UsageError: an option that has no effect beside the others, or a value outside its range.
    """
    values = given()
    mode = values.pop("reg", "none")
    for part, names in _READ_BY.items():
        for name in names:
            if name in values and part not in mode.split("+"):
                refuse(name, values[name], f"needs {part} in --reg, which is {mode}")
    if mode == "none":
        return None
    _refuse_upstream_augmentation(host, mode)
    try:
        return Regularizers(
            mode,
            diffaug=_diffaug(host, mode, values) if "diffaug" in mode else None,
            noise=_noise(host, values, seed) if "diffusion" in mode else None,
            target=number("target", values.get("target", _TARGET), "(-1, 1)"),
            kimg=number("kimg", values.get("kimg", _KIMG), "(0, inf)"),
            condition=values.get("condition"),
            where=_where(host, values),
            desc=_desc(mode, values),
        )
    except ValueError as error:
        name, *rest = str(error).partition("=")
        raise click.UsageError(f"--reg-{name.replace('_', '-')}{''.join(rest)}") from error


def given() -> dict[str, Any]:
    """The options that the running command was given, by their names without ``reg_``."""
    return dict(click.get_current_context().meta.get(__name__, {}))


def load_snapshot(path: str, option: str = "resume") -> dict[str, Any]:
    """The contents of one of upstream's pickles, by upstream's own code, which downloads a URL; the option names it.

    Raises:
        click.UsageError: it cannot be had.
    """
    import dnnlib
    import legacy

    try:
        with dnnlib.util.open_url(path) as file:
            return legacy.load_network_pkl(file)
    except OSError as error:
        raise click.UsageError(f"--{option}={path}: {error}") from error
    except Exception as error:  # a pickle may fail in any way
        raise click.UsageError(f"--{option}={path} is no snapshot that can be loaded here: {error!r}") from error


def require(*names: str) -> None:
    """Stop unless upstream's training_loop() takes the arguments of these names."""
    accepted = accepted_arguments()
    if missing := [name for name in names if name not in accepted]:
        raise click.UsageError(
            f"--reg needs {' and '.join(missing)}, which training_loop() of this repository does not take; leave it out"
        )


def accepted_arguments() -> frozenset[str]:
    """The names of the arguments of the training_loop() that the running command's file has, or else upstream's."""
    scope = inspect.unwrap(click.get_current_context().command.callback).__globals__.values()
    found = [getattr(item, "training_loop", None) if isinstance(item, ModuleType) else item for item in scope]
    loops = [item for item in found if inspect.isfunction(item) and item.__name__ == "training_loop"]
    if not loops:
        from training.training_loop import training_loop

        loops = [training_loop]
    return frozenset(inspect.signature(loops[0]).parameters)


def refuse(name: str, value: Any, reason: str) -> NoReturn:
    """Stop with click's error about one of the options."""
    raise click.UsageError(f"--reg-{name.replace('_', '-')}={value} {reason}")


def _options(host: Host) -> Iterable[tuple[str, Any, str]]:
    """Name, type and help of each option; one that is not typed is None."""
    alone, beside = (DiffAugment.preset(name).cutout for name in (host.diffaug, host.diffaug_and_noise))
    cutout = f"{alone}, with diffusion {beside}" if alone != beside else alone
    dist = _default(host, "distribution") if host.features else next(iter(host.noise))
    t_min = _default(host, "t_min")
    t_min += "; 5 in paper parity" if t_min != "5" else ""

    yield "--reg", click.Choice(host.modes), f"Regularises D's input, in place of {host.augmentation} [default: none]"
    yield "--reg-policy", str, f"DiffAugment policy [default: {_POLICY}]"
    yield "--reg-cutout", float, f"Side of the cutout as a share of the image's [default: {cutout}]"
    yield "--reg-noise-std", float, f"Standard deviation of the noise [default: {_default(host, 'noise_std')}]"
    yield "--reg-t-max", int, f"Longest chain of noise [default: {_default(host, 't_max')}]"
    yield "--reg-t-min", int, f"Shortest chain of noise [default: {t_min}]"
    yield "--reg-dist", click.Choice(("priority", "uniform")), f"Distribution of the steps t [default: {dist}]"
    yield "--reg-schedule", click.Choice(tuple(SCHEDULES)), "Schedule of the noise over t [default: linear]"
    yield "--reg-target", float, f"Sign statistic of reals that the noise holds [default: {_TARGET}]"
    yield "--reg-kimg", float, f"Thousands of images that take p from 0 to 1 [default: {_KIMG:g}]"
    yield "--reg-parity", click.Choice(("official", "paper")), "As the authors' code or the text [default: official]"
    if host.features:
        yield "--reg-where", click.Choice(PLACES), "Noise on feature maps or on pixels [default: first]"
    yield "--reg-condition", click.Choice(tuple(TOLD)), f"What D is told of t [default: {host.conditions}]"
    if host.spider:
        yield "--spider", str, "Feeds images, or those of a snapshot's G_ema, to G in place of z [default: z itself]"
        yield "--spider-geometry", str, "Shape of an image as fed to G [default: about square, by the length of z]"


def _default(host: Host, name: str) -> str:
    """The value of a setting of DiffusionNoise in the host's presets, with names where they differ."""
    images = host.noise if len(set(host.noise.values())) > 1 else {"images": next(iter(host.noise.values()))}
    presets = {"feature maps": host.features, **images} if host.features else images
    values = {label: getattr(DiffusionNoise.preset(preset), name) for label, preset in presets.items()}
    if len(set(values.values())) == 1:
        return str(values.popitem()[1])
    return ", ".join(f"{value} with {label}" for label, value in values.items())


def _desc(mode: str, values: dict[str, Any]) -> str:
    """The mode and what was given beside it; ProjectedGAN reads the name as a regular expression."""
    ordered = [name for names in _READ_BY.values() for name in names if name in values]
    return f"-{mode.replace('+', '-')}" + "".join(f"-{name}{values[name]}" for name in ordered)


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is not None:
        context.meta.setdefault(__name__, {})[parameter.name.removeprefix("reg_")] = value


def _diffaug(host: Host, mode: str, values: dict[str, Any]) -> dict[str, Any]:
    preset = host.diffaug if mode == "diffaug" else host.diffaug_and_noise
    ranges = {"cutout": values["cutout"]} if "cutout" in values else {}
    augment = DiffAugment.preset(preset, values.get("policy", _POLICY), **ranges)
    if not augment.active:
        refuse("policy", augment.policy, "is empty; leave diffaug out of --reg instead")
    if ranges and "cutout" not in augment.policy:
        refuse("cutout", augment.cutout, f"has no effect with --reg-policy={augment.policy}")
    return {"policy": augment.policy, "cutout": augment.cutout}


def _noise(host: Host, values: dict[str, Any], seed: int) -> dict[str, Any]:
    dist = values.get("dist", next(iter(host.noise)))
    preset = dict(PRESETS[host.noise[dist] if _where(host, values) == "pixels" else host.features])
    settings = {name: values[name] for name in ("t_max", "t_min", "noise_std", "schedule", "parity") if name in values}
    if "dist" in values:
        settings["distribution"] = dist
    if "t_max" in values:
        if values["t_max"] < 1:
            refuse("t_max", values["t_max"], "is no chain; leave diffusion out of --reg instead")
        if preset.get("t_min", 0) > values["t_max"]:
            preset["t_min"] = values["t_max"]
    noise = DiffusionNoise(**{**preset, **settings}, seed=seed)
    return {name: getattr(noise, name) for name in _NOISE_SETTINGS}


def _where(host: Host, values: dict[str, Any]) -> str:
    return values.get("where", "first" if host.features else "pixels")


def _refuse_upstream_augmentation(host: Host, mode: str) -> None:
    """Stop if upstream's own augmentation, whose place the regularizers take, was asked for."""
    context = click.get_current_context()
    ada = mode.startswith("ada")
    for parameter in context.command.params:
        name, value = parameter.name, context.params.get(parameter.name)
        if name not in _REPLACED or context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        if name == "augpipe" if ada else name in _SWITCHES and str(value).lower() in _OFF:
            continue
        if ada and (name, value) == ("aug", "ada"):
            continue
        instead = ""
        if name == "aug" and "ada+diffusion" in host.modes and not ada:
            instead = "; use --reg=ada+diffusion"
        elif any(_REPLACED[name] in _READ_BY.get(part, ()) for part in mode.split("+")):
            instead = f"; use --reg-{_REPLACED[name].replace('_', '-')}"
        raise click.UsageError(f"{max(parameter.opts, key=len)}={value} does not go with --reg={mode}{instead}")

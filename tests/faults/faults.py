"""Deliberate faults that the tests must notice: what tired engineers and refactorings do. ``__main__`` tries them."""

from typing import NamedTuple


class Fault(NamedTuple):
    """One edit of one file."""

    name: str
    path: str  # relative to the repository
    before: str  # once in the file
    after: str
    tests: tuple[str, ...]  # files that should notice, the cheapest first
    equivalent: str = ""  # why no test can notice; empty where one must

    def __str__(self) -> str:
        return f"{self.path}: {self.name}"


def _in(path: str, tests: str, *edits: tuple[str, ...]) -> list[Fault]:
    """Faults of one file and the names of the tests that should notice; an edit is (name, before, after[, reason])."""
    files = tuple(f"tests/test_{test}.py" for test in tests.split())
    return [Fault(name, path, before, after, files, *reason) for name, before, after, *reason in edits]


_AUGMENT = "gan_regularizers/diffaugment.py"
_NOISE = "gan_regularizers/diffusion_noise.py"
_REGULARIZER = "gan_regularizers/regularizer.py"
_NATIVE = "gan_regularizers/ops/native.py"
_REFERENCE = "gan_regularizers/ops/reference.py"

# Which random words go where. All of these leave each draw alone as it should be.
_DRAWS = [
    *_in(
        "gan_regularizers/ops/__init__.py",
        "draws diffaugment regularizer",
        (
            "every eager call draws the same words",
            "    if generator is None:\n        return torch.randint",
            '    if generator is None and device.type == "cpu" and not torch.compiler.is_compiling():\n'
            "        generator = torch.Generator(device).manual_seed(torch.initial_seed())\n"
            "    if generator is None:\n        return torch.randint",
        ),
        (
            "the generator is ignored",
            "shape, device=device, generator=generator)",
            "shape, device=device)",
        ),
        (
            "words have 32 bits",
            "torch.randint(-(2**63), 2**63 - 1, shape, device=device)\n",
            "torch.randint(-(2**31), 2**31 - 1, shape, device=device)\n",
        ),
    ),
    *_in(
        _AUGMENT,
        "diffaugment draws",
        (
            "cutout takes translation's words",
            "whole += _interval(row + axis, size[axis], cutout)",
            "whole += _interval(first + len(ranges) + axis, size[axis], cutout)",
        ),
        (
            "two passes share their words",
            "                whole += _interval(row + axis, size[axis], cutout)\n            row += 2\n",
            "                whole += _interval(row + axis, size[axis], cutout)\n",
        ),
        (
            "p takes the first word of the first part",
            "row + self._words if self.p < 1.0",
            "row if self.p < 1.0",
        ),
        (
            "p takes the last word of the last part",
            "row + self._words if self.p < 1.0",
            "row + self._words - 1 if self.p < 1.0",
        ),
        (
            "both axes of translation take one word",
            "_shift(row + axis, size[axis], translation)",
            "_shift(row, size[axis], translation)",
        ),
    ),
    *_in(
        _NOISE,
        "draws diffusion_noise",
        ("the entry of the list and the seed are one word", "words[row + 1])", "words[row])"),
        ("the seed is cut to 32 bits", "words[row + 1])", "words[row + 1] & 0xFFFFFFFF)"),
        (
            "ranks whose seeds are neighbours share their lists",
            "default_rng([self.seed, redraws])",
            "default_rng(self.seed + redraws)",
        ),
    ),
    *_in(
        _REGULARIZER,
        "draws regularizer",
        (
            "the noise's words overlap those of the augmentation",
            "rows += part.words\n",
            "rows += part.words - (isinstance(part, DiffAugment) and part.words > 1)\n",
        ),
        (
            "all parts take the same words",
            "rows += part.words\n",
            "rows += part.words\n            drawn[-1] = 0\n",
        ),
        (
            "the generator is ignored",
            "words = random_words((rows, x.shape[0]), x.device, generator)",
            "words = random_words((rows, x.shape[0]), x.device)",
        ),
        (
            "noise per channel ignores the given t",
            "noise.draw(x, t, generator=generator)",
            "noise.draw(x, generator=generator)",
        ),
    ),
    *_in(
        _REFERENCE,
        "draws diffusion_noise native",
        (
            "D is told t - 1 where t is drawn",
            "    return reals, whole, t\n",
            "    return reals, whole, t if steps.t is not None else (t - 1).clamp(min=0)\n",
        ),
        (
            "a drawn t never is the list's last entry",
            "words[steps.row] & len(steps.t_list) - 1]",
            "words[steps.row] % (len(steps.t_list) - 1)]",
        ),
        ("reals take the lower bits of a word", "(words >> 40 & 0xFFFFFF)", "(words & 0xFFFFFF)"),
    ),
]

# Settings that papers and their code have.
_PRESETS = [
    *_in(
        _AUGMENT,
        "diffaugment",
        *[
            (f"the preset {name} has another box", f'"{name}": {{"cutout": {share}}}', f'"{name}": {{"cutout": 0.3}}')
            for name, share in (
                ("data_efficient_gans", 0.5),
                ("projected_gan", 0.2),
                ("stylegan_xl", 0.2),
                ("diffusion_gan", 0.2),
            )
        ],
        ("other strengths of saturation", "saturation: Range = (0.0, 2.0)", "saturation: Range = (0.5, 1.5)"),
    ),
    *_in(
        _NOISE,
        "diffusion_noise official_parity",
        ("the preset new_data has another chain", '"new_data": {"t_max": 500', '"new_data": {"t_max": 1000'),
        ("the preset stylegan2 has a shorter chain", '"stylegan2": {"t_max": 1000', '"stylegan2": {"t_max": 500'),
        (
            "the preset stylegan2 is uniform",
            '"t_max": 1000, "distribution": "priority"',
            '"t_max": 1000, "distribution": "uniform"',
        ),
        (
            "the preset stylegan2_ffhq prefers long chains",
            '"stylegan2_ffhq": {"t_max": 500, "distribution": "uniform"',
            '"stylegan2_ffhq": {"t_max": 500, "distribution": "priority"',
        ),
        (
            "the preset insgen has another t_min",
            '"insgen": {"t_max": 500, "t_min": 5',
            '"insgen": {"t_max": 500, "t_min": 10',
        ),
        ("the preset projected_gan has the noise of images", '"noise_std": 0.5,', '"noise_std": 0.05,'),
        ("the preset projected_gan has the betas of images", '"beta_end": 1e-2,', '"beta_end": 2e-2,'),
        (
            "the preset projected_gan has a fixed share of clean samples",
            '"clean_share": "adaptive"',
            '"clean_share": 0.5',
        ),
        ("the preset projected_gan has one t per sample", '"per_channel": True', '"per_channel": False'),
        ("the noise is twice as strong", "noise_std: float = 0.05,", "noise_std: float = 0.1,"),
        ("betas end elsewhere", "beta_end: float = 2e-2,", "beta_end: float = 1e-2,"),
        ("priority is the default", 'distribution: str = "uniform",', 'distribution: str = "priority",'),
        (
            "the shortest chains are swapped",
            'shortest = 10 if parity == "official" else 5',
            'shortest = 5 if parity == "official" else 10',
        ),
    ),
]

_AUGMENTATION = [
    *_in(
        _AUGMENT,
        "native",
        ("alone it moves zeros in", "words, columns, None, centre, channels)", "words, columns, None, 0.0, channels)"),
        (
            "alone it augments all channels",
            "words, columns, None, centre, channels)",
            "words, columns, None, centre, None)",
        ),
    ),
    *_in(
        _AUGMENT,
        "diffaugment",
        ("shares are rounded down", "math.floor(size * ratio + 0.5)", "math.floor(size * ratio)"),
        (
            "the largest shift never occurs",
            "return row, 2 * largest + 1, -largest",
            "return row, 2 * largest, -largest",
        ),
        ("boxes of odd sides go one too far", "size + 1 - length % 2, -(length", "size + 1, -(length"),
        ("boxes are one pixel short", "(row, count, offset + length)", "(row, count, offset + length - 1)"),
        (
            "heights and widths are swapped in translation",
            "_shift(row + axis, size[axis], translation)",
            "_shift(row + axis, size[1 - axis], translation)",
        ),
        (
            "brightness is not scaled to the range of values",
            "[bound * half_range for bound in brightness]",
            "list(brightness)",
        ),
        ("samples that p leaves alone are brighter", "neutral=(0.0, 1.0, 1.0)", "neutral=(1.0, 1.0, 1.0)"),
        (
            "a part that occurs twice is done once",
            "POLICIES.index(name) > POLICIES",
            "POLICIES.index(name) >= POLICIES",
        ),
        ("what comes in is 0 in every range of values", "centre=centre, channels=channels)", "channels=channels)"),
        ("all channels are picture", "centre=centre, channels=channels)", "centre=centre)"),
        (
            "enabled is ignored",
            "return self.enabled and bool(self.passes) and self.p > 0.0",
            "return bool(self.passes)",
        ),
    ),
    *_in(
        "gan_regularizers/picture.py",
        "picture diffaugment",
        (
            "the centre is half of the range",
            "self.value_range[0] + self.value_range[1]) / 2",
            "self.value_range[1] - self.value_range[0]) / 2",
        ),
        (
            "half of the range is the whole",
            "self.value_range[1] - self.value_range[0]) / 2",
            "self.value_range[1] - self.value_range[0])",
        ),
        ("negative bounds are one too low", "        bound += channels\n", "        bound += channels - 1\n"),
        ("bounds are not clipped", "return min(max(bound, 0), channels)", "return max(bound, 0)"),
        ("steps are ignored", "    if step != 1:", "    if step < 1:"),
        ("black may be white", "may_be_equal=False", "may_be_equal=True"),
    ),
    *_in(
        "gan_regularizers/arguments.py",
        "adaptive_t diffusion_noise diffaugment",
        (
            "open intervals hold their lower bound",
            'interval.startswith("[") else result > low',
            'interval.startswith("[") else result >= low',
        ),
        ("NaN is a number like others", "if not (above and below):", "if result < low or result > high:"),
        ("numbers are cut to whole ones", "    if int(value) != value:", "    if int(value) > value:"),
    ),
]

_DIFFUSION = [
    *_in(
        _NOISE,
        "native",
        ("alone it diffuses towards 0", "steps, self.picture.centre, channels)", "steps, 0.0, channels)"),
        ("alone it diffuses all channels", "self.picture.centre, channels)", "self.picture.centre, None)"),
        ("alone it draws what it is given", "self.steps(chain, t, x.shape[:1]", "self.steps(chain, None, x.shape[:1]"),
    ),
    *_in(
        _NOISE,
        "diffusion_noise official_parity adaptive_t averages",
        ("T is rounded down", "self.t_min + round(p *", "self.t_min + int(p *"),
        ("steps begin at 0", 'side="right") + 1', 'side="right")'),
        ("the weights of the paper are those of its code", ' + (self.parity == "paper")', ""),
        (
            "chains are never stretched",
            'SCHEDULES[self.schedule](T if self.parity == "official" else self.t_max,',
            "SCHEDULES[self.schedule](self.t_max,",
        ),
        (
            "the adaptive share has no cap",
            "min(round(p * T_LIST_SIZE), _MOST_ADAPTIVE_ENTRIES)",
            "round(p * T_LIST_SIZE)",
        ),
        ("the gain is alpha_bar without its root", "np.sqrt(alpha_bar).astype", "alpha_bar.astype"),
        (
            "tables of the noise are not scaled to the range of values",
            "noise_scale = np.sqrt(1.0 - alpha_bar) * (self.noise_std * self.picture.half_range)",
            "noise_scale = np.sqrt(1.0 - alpha_bar) * self.noise_std",
        ),
        (
            "the noise of a given alpha_bar is not scaled to the range of values",
            "noise_std = (1.0 - level).sqrt() * (self.noise_std * self.picture.half_range)",
            "noise_std = (1.0 - level).sqrt() * self.noise_std",
        ),
        ("a given alpha_bar has its variance for its deviation", "(1.0 - level).sqrt() *", "(1.0 - level) *"),
        ("the list is never drawn anew", "self._remake(p, redraws + redraw)", "self._remake(p, redraws)"),
        (
            "the list stays where only its clean share moves",
            "(self._length(p), self._noisy_entries(p)) != (self._length(before), self._noisy_entries(before))",
            "self._length(p) != self._length(before)",
        ),
        (
            "p is more than the buffer holds",
            'p = float(np.float32(number("p", p, "[0, 1]")))',
            'p = number("p", p, "[0, 1]")',
        ),
        ("a p in half precision stays so", "if buffer.dtype != dtype:", "if buffer.dtype.is_complex:"),
        (
            "a p that somebody wrote is not bounded",
            "self._remake(min(max(p, 0.0), 1.0), redraws)",
            "self._remake(p, redraws)",
        ),
        ("a p that was loaded is not checked", "and not 0.0 <= float(p) <= 1.0:", "and float(p) != float(p):"),
        (
            "inactive noise per channel has one t per sample",
            "(x, x.new_zeros(x.shape[: 1 + self.per_channel], dtype",
            "(x, x.new_zeros(x.shape[:1], dtype",
        ),
        ("the layout of the output is lost", "        y = y.contiguous(memory_format=memory_format(x))\n", ""),
        (
            "images are scaled towards 0 in every range of values",
            "            centre=self.picture.centre,\n",
            "",
        ),
        ("sigmoids are steeper", "np.linspace(-6.0, 6.0, steps)", "np.linspace(-8.0, 8.0, steps)"),
        ("the last step of jsd keeps some of the image", "np.arange(steps, 0, -1)", "np.arange(steps + 1, 1, -1)"),
        ("the offset of cosine is forgotten", "max(steps, 1) + 0.008) / 1.008", "max(steps, 1))"),
        ("the slowest frequency is not the slowest", "max(dim // 2 - 1, 1)", "(dim // 2)"),
        ("parameters of another batch are taken", "            params.check(x, self.per_channel)\n", ""),
    ),
    *_in(
        "gan_regularizers/state/chain.py",
        "diffusion_noise wrapping subsystems",
        ("the chain stays on the CPU", ".to(device, non_blocking=True) for", ".clone() for"),
        (
            "devices keep the chain that they have",
            "                self._on[device] = chain.to(device)\n",
            "                pass\n",
        ),
        (
            "the chain is changed in place",
            "                self._on[device] = chain.to(device)\n",
            "                [old.copy_(new) for old, new in zip(self._on[device], chain, strict=True)]\n",
        ),
        (
            "graphs keep the chain that they captured",
            "                    table.copy_(new)",
            "                    table.clone()",
        ),
        ("graphs have the tables of eager mode", "table.clone() for table in chain", "table for table in chain"),
        ("transforms keep the tables", ", temporarily_clear_interpreter_stack():", ":"),
        ("a draw is not taken note of", "        self.drawn_from = True\n", ""),
        (
            "a draw that runs again has the chain of now",
            "return self._remembered(chain, device, generator, words)",
            "return chain",
        ),
        (
            "the chain is remembered by torch's generator alone",
            "self._remembered(chain, device, generator, words)",
            "self._remembered(chain, device, None, words)",
            "a generator is asked on CUDA alone",
        ),
    ),
    *_in(
        "gan_regularizers/state/exact_buffers.py",
        "averages adaptive_t diffusion_noise",
        (
            "casts reach the buffers",
            "                self._buffers[name] = buffer.to(self._buffers[name].device)\n",
            "                pass\n",
        ),
        (
            "buffers from the meta device keep what was in memory",
            "            self.reset_parameters()\n",
            "            pass\n",
        ),
        ("the host does not read the buffers first", "        self._take_over()\n        before", "        before"),
    ),
    *_in(
        "gan_regularizers/adaptive_t.py",
        "adaptive_t official_parity averages distributed",
        ("intervals have a batch too many", "if self._batches < self.interval:", "if self._batches <= self.interval:"),
        ("signs are of one kind whatever reals get", "self.real_sign * signs.sum()", "signs.sum()"),
        (
            "the midpoint counts for differences too",
            "output if difference else output - self.midpoint",
            "output - self.midpoint",
        ),
        ("p may be negative", "1000.0 * self.kimg), 0.0), self.p_max)", "1000.0 * self.kimg), -1.0), self.p_max)"),
        ("p has the cap of all", "self.kimg), 0.0), self.p_max)", "self.kimg), 0.0), 1.0)"),
        ("a thousand images are 1024", "(1000.0 * self.kimg)", "(1024.0 * self.kimg)"),
        (
            "at the target p moves",
            "(r_d > self.target) - (r_d < self.target)",
            "(r_d >= self.target) - (r_d < self.target)",
        ),
        ("ranks do not sum", "            dist.all_reduce(counts)\n", "            pass\n"),
        (
            "only the images of the last batch count",
            "self._counts[_IMAGES] += images",
            "self._counts[_IMAGES] = images",
        ),
        (
            "a loaded state begins its interval anew",
            "        self._batches = int(state[_BATCHES])\n",
            "        self._batches = 0\n",
            "the CPU's count is read at every step; a GPU's is not",
        ),
        (
            "a state that was copied in place is not seen",
            "if self._counts.is_cpu or self._counts._version != self._seen:",
            "if self._counts._version != self._seen:",
        ),
        ("what was counted is counted again", "        self._counts.zero_()\n", ""),
        (
            "NaN has a sign",
            ".masked_fill(~finite, 0).long()",
            ".long()",
            "where anything is not finite, the signs are not read",
        ),
        ("the list stays where T does", "self.noise.set_p(p, redraw=True)", "self.noise.set_p(p)"),
        ("broken outputs are left out without a word", "        if broken:\n", "        if broken and not finite:\n"),
        ("the cap is said though D errs", "images) and signs == finite:", "images):"),
        ("the cap is said at every move", "and self.noise.strength > before", ""),
        (
            "probabilities are not asked about",
            "inside == finite and self.midpoint == 0.0",
            "inside == finite and self.midpoint != 0.0",
        ),
        ("doubts are said in every interval", "            self._checked = True\n", ""),
        ("a loaded noise is moved to the initial p", "        if not noise.moved:\n", "        if True:\n"),
    ),
]

_WRAPPED = [
    *_in(
        _REGULARIZER,
        "regularizer wrapping",
        ("noise of another picture rides along", " and part.picture == waiting[0]:", ":"),
        ("noise that is off has a t", "drawn is None or not self.noise.enabled", "drawn is None"),
        ("off leaves the regularizer on", "            self.enabled = before", "            self.enabled = True"),
        ("passes before the last are left out", "for one_pass in drawn[i][:-1]:", "for one_pass in drawn[i][:-2]:"),
        (
            "an augmentation before another part comes after it",
            "            if waiting is not None:\n                x, waiting =",
            "            if waiting is not None and isinstance(part, DiffAugment):\n                x, waiting =",
        ),
    ),
    *_in(
        _REGULARIZER,
        "normals",
        ("behind a part of one's own there are normals", "shape_is_known = False", "shape_is_known = True"),
    ),
    *_in(
        "gan_regularizers/state/normals.py",
        "normals",
        ("images of one draw have noise of their own", "            return known.again()\n", "            pass\n"),
        (
            "float64 shares the normals of float32",
            "made[:3] == (x.shape, arithmetic_dtype(x.dtype), x.device)",
            "made[0] == x.shape",
        ),
        ("a shared draw forgets the shapes of later calls", "self._earlier._made.append(made)", "pass"),
        ("a shared draw gives later calls noise of their own", "made, normals = known, known.again()", "pass"),
        ("normals are kept", "normals if state is None else None)", "normals)"),
        ("the given generator is ignored", "device=device, generator=generator)", "device=device)"),
    ),
    *_in(
        "gan_regularizers/hooks/hook.py",
        "wrapping subsystems",
        (
            "calls inside same_draw draw for themselves",
            "            self.shared.of_batch[key] = own\n",
            "            pass\n",
        ),
        ("what runs again is a call", "shared = None if runs_again() else self.shared", "shared = self.shared"),
        ("same_draw is ignored where D takes images alone", "plain and self.shared is None and self", "plain and self"),
        (
            "a shared draw that runs again is that of now",
            "drawn = self._shared_draws(shared, image.device)",
            "drawn = shared",
        ),
        (
            "a call that runs again is off if D is now",
            "            return self._off(False, device)\n",
            "            return not self.regularizer.enabled\n",
        ),
        ("a call that is off draws nothing", "            random_words((1,), device)\n", ""),
        ("inactive noise draws nothing", "                random_words((1,), t.device)\n", "                pass\n"),
        ("D is told the t of its last image", "        t = steps[0]\n", "        t = steps[-1]\n"),
        (
            "D is not told the t that the caller gave the noise",
            "(given is None or wanted is not None)",
            "given is None",
        ),
        (
            "a thread that left D counts as inside",
            "            self.hook.inside.discard(get_ident())\n",
            "            pass\n",
        ),
        (
            "own augmentations draw again where calls share",
            "    if i not in states:\n",
            "    if i not in states or device.type == 'cpu':\n",
        ),
        ("a copy shares the draw of the original", '**self.__dict__, "shared": None,', "**self.__dict__,"),
        (
            "a shared draw stays in inference mode",
            "torch.inference_mode(False) if lasting",
            "torch.inference_mode(False) if not lasting",
        ),
        ("several sizes of a call share a draw for one", "key = image.shape[0], image.device", "key = image.device"),
    ),
    *_in(
        "gan_regularizers/wrapping.py",
        "wrapping subsystems",
        ("unwrap leaves that the hook is always called", "        D._forward_hooks_always_called,\n    ):", "    ):"),
        (
            "unwrap leaves the watch over the first layer",
            "                del module._forward_pre_hooks[_KEY_OF_LAYER]\n",
            "                pass\n",
        ),
        ("unwrap leaves the scale and shift", "            del module.scale_shift\n", "            pass\n"),
        ("the end of D goes unseen where it raises", "    D._forward_hooks_always_called[_KEY] = True\n", ""),
        ("same_draw has no end", "    finally:\n        hook.shared = None", "    finally:\n        pass"),
        (
            "the layer's own hooks see h before the shift",
            "        layer._forward_hooks.move_to_end(_KEY_OF_LAYER, last=False)",
            "        layer._forward_hooks.move_to_end(_KEY_OF_LAYER)",
        ),
        (
            "what is wrapped is wrapped again",
            "for module in D.modules()):\n        raise",
            "for module in ()):\n        raise",
        ),
    ),
    *_in(
        "gan_regularizers/hooks/inputs.py",
        "wrapping hosts",
        ("the caller's dictionary is changed", "changed = copy.copy(value)", "changed = value"),
        ("named tuples become tuples", 'type(value)(*items) if hasattr(value, "_fields") else ', ""),
        ("a batch of another size counts as images", " and leaf.shape[0] == images[0].shape[0] for", " for"),
        (
            "labels in a dictionary are images",
            "return f(value) if value.is_floating_point() and value.dim() == rank else value",
            "return f(value) if value.is_floating_point() else value",
        ),
        (
            "a place is regularised twice",
            "if same and place.path[:depth] == other.path[:depth]:",
            "if same and place.path == other.path:",
        ),
    ),
    *_in(
        "gan_regularizers/hooks/scale_shift.py",
        "wrapping subsystems",
        (
            "the start is not the identity",
            "            nn.init.zeros_(parameter)\n",
            "            nn.init.uniform_(parameter, -bound, bound)\n",
        ),
        ("h is scaled about 0", "return h * (1 + scale) + shift", "return h * scale + shift"),
        ("features have their channels in front", "channels, -1 if weight.dim() == 2 else 1)", "channels, 1)"),
        (
            "transposed layers have the channels of others",
            "if transposed else weight.shape[0]",
            "if not transposed else weight.shape[0]",
        ),
        ("t outlives the call", "        self._t = None\n        return self._ran", "        return self._ran"),
        (
            "a layer that runs again has the last t",
            "told = self._t is not None and self._told_in == backward_pass()",
            "told = self._t is not None",
        ),
        (
            "a batch of another size is broadcast",
            "        if t.shape[0] != h.shape[0]:",
            "        if t.shape[0] > h.shape[0]:",
        ),
    ),
    *_in(
        "gan_regularizers/state/recomputation.py",
        "recomputation subsystems",
        (
            "what runs again has the value of now",
            "            return self._values.get(state, value)\n",
            "            return value\n",
        ),
        ("all words are taken for the same", "words.numpy()[0].ravel()[:_TELLING]", "words.numpy()[0, :0]"),
        ("words of another draw are taken for these", "device, words.shape, hash(", "device, 0, hash("),
        ("two devices are taken for each other", "state = device, hash(", "state = None, hash("),
        (
            "the latest forward is forgotten",
            "self._values.popitem(last=False)",
            "self._values.popitem()",
        ),
        ("the given generator is ignored", "    if generator is not None:\n        return generator.get_state()\n", ""),
        (
            "a forward of a known state keeps its age",
            "        self._values.move_to_end(state)\n",
            "",
        ),
    ),
]

# The operator in plain torch, and what hands it to the kernels.
_OPERATOR = [
    *_in(
        "gan_regularizers/ops/philox.py",
        "philox operator kernels_cpu",
        ("the half step of the uniform is dropped", "2.0**-32 + 2.0**-33", "2.0**-32"),
        ("the index is cut to 20 bits", "(block & _WORD, block >> 32,", "(block & 0x3FFFF, block >> 32,"),
        (
            "the counter's upper word is dropped",
            "block & _WORD, block >> 32, zero",
            "block & _WORD, zero, zero",
        ),
        ("the seed is cut to 32 bits", "seed[:, None] >> 32 & _WORD)", "torch.zeros_like(seed[:, None]))"),
        ("nine rounds", "_ROUNDS = 10", "_ROUNDS = 9"),
        (
            "normals of a pair are swapped",
            "return radius * torch.cos(angle), radius * torch.sin(angle)",
            "return radius * torch.sin(angle), radius * torch.cos(angle)",
        ),
    ),
    *_in(
        _REFERENCE,
        "operator",
        ("halves are computed in half precision", "y = x.to(arithmetic_dtype(x.dtype))", "y = x"),
        (
            "contrast is about the mean of each channel",
            "x.mean(dim=(1, 2, 3), keepdim=True)",
            "x.mean(dim=(2, 3), keepdim=True)",
        ),
        (
            "saturation is about the mean of the sample",
            "pixel_mean = x.mean(dim=1, keepdim=True)",
            "pixel_mean = x.mean(dim=(1, 2, 3), keepdim=True)",
        ),
        (
            "shifts go the other way",
            "torch.arange(height, device=x.device) - shift",
            "torch.arange(height, device=x.device) + shift",
        ),
        (
            "what came around the edge stays by a pixel",
            "(column < 0) | (column >= width)",
            "(column < 0) | (column > width)",
        ),
        ("boxes are closed", "rows = (row >= top) & (row < bottom)", "rows = (row >= top) & (row <= bottom)"),
        (
            "a shift brings in 0 in every range of values",
            "_shift(y, params.shift, params.centre)",
            "_shift(y, params.shift, 0.0)",
        ),
        (
            "gain is about 0 in every range of values",
            "picture = _scale(picture, _per_sample(params.gain, y), params.centre)",
            "picture = _scale(picture, _per_sample(params.gain, y), 0.0)",
        ),
        (
            "brightness comes before contrast",
            "    if params.contrast is not None:\n        contrast =",
            "    if params.brightness is not None:\n"
            "        x = x + _per_sample(params.brightness, x)\n"
            "        params = params._replace(brightness=None)\n"
            "    if params.contrast is not None:\n        contrast =",
            "colours about a mean keep what all pixels share",
        ),
        (
            "the layout of the output is lost",
            "y.to(x.dtype).contiguous(memory_format=memory_format(x))",
            "y.to(x.dtype).contiguous()",
        ),
    ),
    *_in(
        "gan_regularizers/ops/params.py",
        "operator regularizer",
        ("one channel is channels_last", "x.dim() == 4 and not x.is_contiguous() and x", "x.dim() == 4 and x"),
        (
            "noise that rides along loses the picture",
            "seed, self.centre, self.channels, normals)",
            "seed, normals=normals)",
        ),
        (
            "shapes are not checked",
            "if value.shape != shapes[columns]:",
            "if len(value.shape) != len(shapes[columns]):",
        ),
        (
            "normals of any shape are taken",
            "            shapes[0] = x.shape\n",
            "            shapes[0] = self.normals.shape\n",
        ),
        ("parts beside values for every channel are left out", "            self._check_only_noise()\n", ""),
        ("a seed and normals may both be given", "if self.normals is not None and self.seed is not None:", "if False:"),
        ("channels may end beyond the input", "self.channels[1] <= x.shape[1]:", "self.channels[1]:"),
        (
            "no seed is needed",
            "if (self.noise_std is None) != (self.seed is None and self.normals is None):",
            "if self.noise_std is None and self.seed is not None:",
        ),
    ),
    *_in(
        "gan_regularizers/ops/draws.py",
        "native",
        ("the box of a fresh draw is its shift", "whole + 8 * (width - 4)", "whole"),
        ("a shift alone is lost in a fresh draw", "if width in (2, 6)", "if width == 6"),
        ("noise alone has colours", "if rows > 2:", "if rows:"),
        ("a fresh draw saves no gain", "reals.select(0, rows - 2) if self.noisy else None", "None"),
    ),
    *_in(
        _REGULARIZER,
        "native regularizer wrapping subsystems",
        ("fresh noise rides on any pass", "passes[-1][2] == part.picture", "True"),
        ("fresh noise never rides", "rides = passes and", "rides = False and"),
        ("steps are those of the last pass", "t = t if taken is None else taken", "t = taken"),
        ("a part that is off acts in a fresh draw", "if of_part is None or not part.enabled:", "if of_part is None:"),
    ),
    *_in(
        _NATIVE,
        "operator native compile",
        (
            "a compiler may change the order of strides",
            "tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order)",
            "tags=(torch.Tag.pt2_compliant_tag,)",
        ),
        (
            "the adjoint is for all channels",
            "_adjoint(cotangent, _linear(*ctx.saved_tensors, ctx.channels))",
            "_adjoint(cotangent, _linear(*ctx.saved_tensors))",
        ),
        (
            "the second derivative is for all channels",
            "input_transform(gradient, _linear(*ctx.saved_tensors, ctx.channels))",
            "input_transform(gradient, _linear(*ctx.saved_tensors))",
        ),
        ("rows of channels lose their centre", "._replace(centre=params.centre)", ""),
        ("seeds are the entries of the list", "words, steps.row + 1)", "words, steps.row)"),
        ("a fresh draw is single-precision", "x.dtype != torch.float64 and _is_plain(x,", "_is_plain(x,"),
        ("a tangent of a cotangent is lost", " and not has_tangent(x)", ""),
        ("subclasses are read as plain memory", "if type(x) not in _PLAIN_TYPES or torch", "if torch"),
        ("a view of another sign is read as it lies", "if value.is_neg():", "if False:"),
        ("modes are shown no operators", " or torch._C._len_torch_dispatch_stack() or", " or"),
        ("keys of the dispatcher are not looked at", " or torch._C._dispatch_keys(x).raw_repr() & ~_PLAIN_KEYS:", ":"),
        (
            "a forward without a gradient keeps one",
            "torch.is_grad_enabled():\n        return _apply_to_plain",
            "True:\n        return _apply_to_plain",
            "torch keeps none either, in more time",
        ),
        ("rows of boxes lie together", "0 if cutout is None else cutout.stride(0)", "4"),
        ("columns of shifts may lie apart", "(rows_may_lie_apart and value.stride(1) == 1)", "rows_may_lie_apart"),
        ("float64 has parameters of float32", "    real = arithmetic_dtype(x.dtype)\n", "    real = torch.float32\n"),
        ("spread inputs are read as if they lay together", "    x = x.contiguous(memory_format=layout)\n", ""),
        (
            "reals of a draw are of the dtype of its words",
            " samples), dtype=torch.float32)",
            " samples))",
        ),
        ("kernels take one thread", "torch.get_num_threads(), _", "1, _", "threads change the speed alone"),
    ),
    *_in(
        "gan_regularizers/ops/__init__.py",
        "operator native backends",
        ("noise for float64 is float32", "numel, arithmetic_dtype(x.dtype))", "numel, torch.float32)"),
        ("what is drawn for float64 is read as it is", "ready=fits and x.dtype != torch.float64", "ready=fits"),
        ("use_backend holds after the block", "        _choice, _choice_from = before", "        pass"),
        ("missing kernels are said at every call", "        _warned.add(reason)\n", ""),
        (
            "forward mode reaches the kernels",
            "return _is_transformed() or native.has_tangent(x)",
            "return _is_transformed()",
        ),
        ("auto is the reference", 'if _choice == "reference":', 'if _choice != "native":'),
    ),
]

# The kernels of the CPU, and what both have.
_CPU = [
    *_in(
        "csrc/philox.h",
        "kernels_cpu",
        ("the half step is dropped in float32", "bit_cast<uint32_t>(word + 0.5f)", "bit_cast<uint32_t>(word)"),
        ("the half step is dropped in float64", "word * 0x1p-32 + 0x1p-33);", "word * 0x1p-32);"),
        (
            "an angle is never below a quarter's middle",
            "static_cast<int32_t>(angle_word << 2)",
            "static_cast<uint32_t>(angle_word << 2)",
        ),
        ("log(2) has ten bits", "e * -1.38629436f", "e * -1.38671875f"),
        ("the logarithm's polynomial lacks two terms", "(y6 * n2 + y4) * (n2 * n2)", "y4 * (n2 * n2)"),
        ("what 1 - z / 2 loses is lost", "most + (((1.0 - most) - half) + y * z * z)", "most + y * z * z"),
    ),
    *_in(
        "csrc/philox.h",
        "kernels_cuda",
        ("the device drops the half step", "0x1p-32f + 0x1p-33f;", "0x1p-32f;"),
        ("the device drops the series near 1", "below < 0.004f ? series : -1.38", "-1.38"),
        (
            "the device cuts the seed to 32 bits",
            "static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));\n  for",
            "static_cast<uint32_t>(seed), 0);\n  for",
        ),
        (
            "the device drops the counter's upper word",
            "static_cast<uint32_t>(block >> 32), 0, 0}",
            "0, 0, 0}",
        ),
    ),
    *_in(
        "csrc/bits.h",
        "kernels_cpu",
        ("ties of bfloat16 go up", "((bits >> 16) & 1u) + 0x7FFFu", "none + 0x8000u"),
        ("ties of float16 go up", "0xC8000FFFu + ((clamped >> 13) & 1u)", "0xC8001000u"),
        (
            "subnormal float16 are cut",
            "size < 0x1p-14f ? subnormal : normal",
            "size < 0x1p-14f ? none : normal",
        ),
        ("NaN becomes infinite in float16", "(value != value ? quiet : none)", "none"),
        ("large float16 begin anew", "size < most ? size : most", "size"),
        ("NaN of bfloat16 may round to zero", "value == value ? added : none", "added"),
    ),
    *_in(
        "csrc/input_transform.h",
        "kernels_cpu operator native kernels_cuda",
        (
            "shifts are not clamped",
            "window.down = clamp<Int>(shift[0], -height, height);",
            "window.down = static_cast<Int>(shift[0]);",
        ),
        (
            "the adjoint's box is not moved along",
            "const Int down = pass.adjoint ? window.down : 0,",
            "const Int down = 0,",
        ),
        ("the adjoint shifts as the forward does", "      window.right = -window.right;\n", ""),
        (
            "the last row has no source",
            "window.row_end = clamp<Int>(height + window.down, 0, height);",
            "window.row_end = clamp<Int>(height + window.down, 0, height - 1);",
        ),
        (
            "boxes are closed on the right",
            "column >= left && column < right_edge);",
            "column >= left && column <= right_edge);",
        ),
        (
            "gain is about 0 in every range of values",
            "  if (centre != Real(0)) constant += (Real(1) - gain) * centre;\n",
            "",
        ),
        ("gain leaves brightness and contrast's mean", "  constant *= gain;\n", ""),
        ("the adjoint has brightness", "Real constant = pass.adjoint ? Real(0) : value_or", "Real constant = value_or"),
        (
            "one channel is grey under saturation",
            "pass.parts.saturation && picture_channels(pass) > 1",
            "pass.parts.saturation != nullptr",
        ),
        ("the adjoint has nothing beside its window", "pass.adjoint ? constant : centre,\n", "centre,\n"),
    ),
    *_in(
        "csrc/draw.h",
        "kernels_cpu native draws",
        ("uniforms have 23 bits", ">> 40) * 0x1p-24f", ">> 41) * 0x1p-23f"),
        (
            "D is told t - 1 where t is drawn",
            "draw.t[n] = step;",
            "draw.t[n] = draw.given || step == 0 ? step : step - 1;",
        ),
        (
            "whole numbers are drawn in float64",
            "const float number = static_cast<float>(draw.count[i])",
            "const double number = static_cast<double>(draw.count[i])",
        ),
        (
            "reals are drawn though p leaves the sample alone",
            "draw.low[i]) : draw.neutral[i];",
            "draw.low[i]) : draw.low[i];",
        ),
        (
            "whole numbers are drawn though p leaves the sample alone",
            " + draw.offset[i] : 0;",
            " + draw.offset[i] : draw.offset[i];",
        ),
        (
            "a sample at p is touched",
            "uniform(draw.touched_row) < draw.p",
            "uniform(draw.touched_row) <= draw.p",
            "one in 2^24",
        ),
    ),
    *_in(
        "csrc/checks.h",
        "kernels_cpu",
        ("input and output may overlap", "if (in < out + bytes && out < in + bytes)", "if (in == out)"),
        ("addresses need no alignment", "if (in % element || out % element)", "if (in % element)"),
        (
            "parts beside values for every channel are left out",
            "parts.shift || parts.cutout)\n    refuse",
            "parts.shift)\n    refuse",
        ),
        ("the picture may end beyond the channels", "picture.end > pass.shape.channels ||", ""),
        ("sizes may overflow", "__builtin_mul_overflow(bytes, side.size, &bytes)", "(bytes *= side.size) < 0"),
        (
            "a list may have any length",
            "draw.length < 1 || (draw.length & (draw.length - 1))",
            "draw.length < 1",
        ),
        (
            "whole numbers may come from words that are not there",
            "row >= draw.word_rows)",
            "row > draw.word_rows)",
        ),
    ),
    *_in(
        "csrc/kernels_cpu.cpp",
        "kernels_cpu draws operator native",
        (
            "the mean is over the first 50 tiles",
            "tile < tiles; ++tile) total +=",
            "tile < std::min<int64_t>(tiles, 50); ++tile) total +=",
        ),
        (
            "the mean is over all channels",
            "static_cast<double>(picture_channels(pass) * pass",
            "static_cast<double>(pass.shape.channels * pass",
        ),
        (
            "the last rows are in no tile",
            "(shape.height + tiling.rows - 1) / tiling.rows",
            "shape.height / tiling.rows",
        ),
        (
            "tiles of few rows reach below the image",
            "std::min(elements / shape.width, shape.height)",
            "elements / shape.width",
            "a tile ends where its image does; it only has scratch to spare",
        ),
        ("the last lines of channels are left out", "(lines + together - 1) / together", "lines / together"),
        ("samples with a box are one row", "if (parts.shift || parts.cutout) return", "if (parts.shift) return"),
        ("a sample of which a part is picture is one row", " && picture_channels(pass) == shape.channels;", ";"),
        ("channels that mix are one row", "!parts.contrast && !mixes_channels(pass) &&", "!parts.contrast &&"),
        ("channels that lie together are one row", "> 16 && !shape.channels_last)", "> 16)"),
        (
            "the last units are left out",
            "unit < std::min(begin + c.grain, c.units)",
            "unit < std::min(begin + c.grain, c.units - (c.grain > 1))",
        ),
        (
            "workers share their scratch",
            "c.memory + c.lines * c.next_worker.fetch_add(1)",
            "c.memory + c.lines * (c.next_worker.fetch_add(1) / 2)",
        ),
        ("a given t beyond the chain is read", "steps[i] >= draw.steps)", "steps[i] > draw.steps)"),
    ),
    *_in(
        "csrc/vectors_cpu_simd.h",
        "kernels_cpu operator",
        (
            "the last pixels of a row are in no block",
            "i < total; i += size) work",
            "i + size <= total; i += size) work",
        ),
        ("bfloat16 at odd places have bits of their neighbours", "(words & 0xFFFF0000u)", "(words)"),
        ("bfloat16 at even places have bits of their neighbours", "(odd & 0xFFFF0000u)", "odd"),
    ),
    *_in(
        "csrc/normals_cpu_simd.h",
        "kernels_cpu operator",
        ("the index is cut to 20 bits", "count_from(block + v", "count_from((block & 0x3FFFFu) + v"),
        (
            "the counter's upper word is dropped",
            "numbers + number;\n  high = low >> 32;",
            "numbers + number;\n  high = WordVector{};",
        ),
        ("all vectors are of the same blocks", "count_from(block + v * words->each,", "count_from(block,"),
        (
            "many normals end with a pair of vectors",
            "    if (pairs < most_pairs && 2 * pairs < count) {\n",
            "    if (false) {\n",
        ),
        (
            "of a block the second pair is the first",
            "seed >> 32));\n  store_in_turns(words[0], words[2],",
            "seed >> 32));\n  store_in_turns(words[0], words[0],",
        ),
        (
            "seeds of channels are cut to 32 bits",
            "sizeof low);\n  high = low >> 32;",
            "sizeof low);\n  high = WordVector{};",
        ),
    ),
    *_in(
        "csrc/channels_cpu_simd.h",
        "kernels_cpu operator",
        (
            "clean channels are computed",
            "level.is_clean() ? static_cast<Bits<T>>(-1) : Bits<T>{};\n    all",
            "{};\n    all",
        ),
        (
            "short clean rows are computed",
            "level.is_clean() ? static_cast<Bits<T>>(-1) : Bits<T>{};\n  for",
            "{};\n  for",
        ),
        (
            "the adjoint has noise",
            "  if (pass.adjoint) return {values(parts.gain), nullptr, nullptr, Real(0)};\n",
            "",
        ),
        ("gain is about 0 in every range of values", "constant((Real(1) - gain) * levels.centre)", "constant(Real(0))"),
        ("a long row begins anew", "(first_pixel + done) / 4", "done / 4"),
        ("short rows take blocks of clean ones", "levels.noise_std[row] != Real(0) ? blocks : 0;", "blocks;"),
        (
            "a short row without noise takes the next one's",
            "normal += level.noise_std != Real(0) ? 4 * blocks : 0;",
            "normal += 4 * blocks;",
        ),
        ("channels that lie together take pixels for blocks", "first_pixel / 4 + block;", "first_pixel + block;"),
        ("later blocks are the first ones", "indices[i] += together;", "indices[i] += 0;"),
        (
            "channels that lie together take their neighbours' normals",
            "(all.place + c)) - place",
            "(all.place))",
        ),
        (
            "vectors of channels begin at the first",
            "spread<n>(normals_of(pixel) + place, slots)",
            "spread<n>(normals_of(pixel), slots)",
        ),
        ("samples have the values of the first", "levels.from(line * width + first)", "levels.from(first)"),
        ("channels beyond those of one buffer have the first's values", "line * width + first)", "line * width)"),
    ),
    *_in(
        "csrc/kernels_cpu_simd.cpp",
        "kernels_cpu operator",
        (
            "the seed is cut to 32 bits",
            "normals(static_cast<uint64_t>(pass.parts.seed[sample])",
            "normals(static_cast<uint32_t>(pass.parts.seed[sample])",
        ),
        (
            "negative noise_std is ignored",
            "if (k.noise_std == Real(0)) {",
            "if (k.noise_std <= Real(0)) {",
        ),
        ("noise is in all channels", "if (is_picture(c)) value += k.noise_std", "value += k.noise_std"),
        ("noise begins with a block", "noise + c * noise_step - skipped, ahead", "noise + c * noise_step, ahead"),
        ("channels of a tile follow on each other", "is_whole ? size : noise_columns(size)", "size"),
        (
            "saturation's share is that of all channels",
            "static_cast<Real>(last - first)",
            "static_cast<Real>(shape.channels)",
        ),
        (
            "the adjoint sums all that it reads",
            "  if (pass.adjoint) {\n    const Window",
            "  if (false) {\n    const Window",
        ),
        (
            "sums leave out the end of a run",
            "for (int64_t i = 0; i < padded; i += block)",
            "for (int64_t i = 0; i + block <= columns; i += block)",
        ),
        (
            "a pixel right of a box is erased",
            "greatest(begin, window.right_edge)",
            "greatest(begin, window.right_edge + 1)",
        ),
        ("beside the picture the range's centre is its own", "is_picture(channel) ? grey : beside", "grey"),
        ("what is only moved is computed", "if (k.scale == Real(1) && k.pixel", "if (false && k.pixel"),
        ("a brighter sample is copied", "k.constant == Real(0) && ", ""),
        ("a sample with noise is copied", " && k.noise_std == Real(0)) {", ") {"),
        (
            "a run's first column has no source",
            "for (int64_t i = begin; i < end; ++i) mask",
            "for (int64_t i = begin + 1; i < end; ++i) mask",
        ),
        (
            "a row without a source is written in one channel",
            "      for (int64_t c = 0; c < p.channels; ++c)\n        for",
            "      for (int64_t c = 0; c < 1; ++c)\n        for",
        ),
        (
            "the vectors of a block are of the same pixels",
            "load<Block::lanes>(source(c) + v * Block::lanes), values",
            "load<Block::lanes>(source(c)), values",
        ),
        ("what is staged begins where the tile does", "columns, staged + skipped)", "columns, staged)"),
        (
            "channels are taken apart in reverse",
            "= pixels[i * channels + c];",
            "= pixels[i * channels + channels - 1 - c];",
        ),
        (
            "channels are put together in reverse",
            "pixels[i * channels + c] =",
            "pixels[i * channels + channels - 1 - c] =",
        ),
        ("half of the halves are summed", "read(l + partials, values + 1)", "read(l, values + 1)"),
        (
            "float16 is bfloat16",
            "case Dtype::float16: return kernels_of<Float16, float>();",
            "case Dtype::float16: return kernels_of<BFloat16, float>();",
        ),
    ),
]

# The kernels of CUDA, as far as their emulation on the CPU tells.
_CUDA = [
    *_in(
        "csrc/kernels_cuda.cu",
        "kernels_cuda",
        # What blocks tell each other.
        ("the writer of a sum has no fence", "    __threadfence();  // the sum is there before the word of it\n", ""),
        (
            "the reader of sums has no fence",
            "      __threadfence();  // the sums are read after the word of them\n",
            "",
        ),
        (
            "done is read from a register",
            "while (progress.done[work.sample] <",
            "while (reinterpret_cast<const unsigned*>(progress.done)[work.sample] <",
        ),
        (
            "sums are read from a cache",
            "sum += progress.sums[work.sample",
            "sum += reinterpret_cast<const float*>(progress.sums)[work.sample",
        ),
        (
            "sums are read before they are there",
            "    __syncthreads();\n    for (int64_t slice",
            "    for (int64_t slice",
        ),
        ("warps add before all have summed", "of_warp[warp] = value;\n  __syncthreads();", "of_warp[warp] = value;"),
        (
            "threads read a turn before it is there",
            "atomicAdd(progress.begun, 1u));\n    __syncthreads();",
            "atomicAdd(progress.begun, 1u));",
        ),
        (
            "a sum is said to be there before it is",
            "    progress.sums[work.sample * plan.slices + work.block + plan.slices] = sum;\n"
            "    __threadfence();  // the sum is there before the word of it\n"
            "    atomicAdd(progress.done + work.sample, 1u);\n",
            "    atomicAdd(progress.done + work.sample, 1u);\n"
            "    __threadfence();  // the sum is there before the word of it\n"
            "    progress.sums[work.sample * plan.slices + work.block + plan.slices] = sum;\n",
        ),
        ("turns are those of the blocks' indices", "turn = shared_turn;", "turn = static_cast<int>(blockIdx.x);"),
        # Indices.
        (
            "the flat kernel's index has 32 bits",
            "for (int64_t i = (work.block * blockDim.x + threadIdx.x) * count;",
            "for (int i = static_cast<int>((work.block * blockDim.x + threadIdx.x) * count);",
        ),
        (
            "the index of a partial sum has 32 bits",
            "for (int64_t i = begin + count * threadIdx.x;",
            "for (int i = static_cast<int>(begin) + count * threadIdx.x;",
        ),
        (
            "the mean is over the first 256 slices",
            "for (int64_t slice = threadIdx.x; slice < plan.slices; slice += blockDim.x)",
            "for (int64_t slice = threadIdx.x; slice < plan.slices; slice += INT32_MAX)",
        ),
        (
            "the flat kernel cuts the index to 20 bits",
            "static_cast<uint64_t>(i + j) / 4, normals",
            "static_cast<uint64_t>(i + j) % (1 << 20) / 4, normals",
        ),
        (
            "the index is cut to 20 bits",
            "  normal_block(seed, first / 4, normals);\n",
            "  normal_block(seed, first % (1 << 20) / 4, normals);\n",
        ),
        ("the index of the next block is cut to 20 bits", "first / 4 + 1, next", "first % (1 << 20) / 4 + 1, next"),
        (
            "the seed is cut to 32 bits",
            "static_cast<uint64_t>(pass.parts.seed[work.sample]) : 0;\n\n  const auto read",
            "static_cast<uint32_t>(pass.parts.seed[work.sample]) : 0;\n\n  const auto read",
        ),
        (
            "negative noise_std is ignored",
            "if (k.noise_std != 0.0f) {\n      float normals",
            "if (k.noise_std > 0.0f) {\n      float normals",
        ),
        (
            "the flat kernel ignores negative noise_std",
            "if (k.noise_std != 0.0f) {\n#pragma",
            "if (k.noise_std > 0.0f) {\n#pragma",
        ),
        ("the third of four normals is taken for the fourth", ": window[k + 3];", ": window[k + 2];"),
        ("four pixels are read as one though some are erased", "run = run && held[k];", "run = held[k];"),
        (
            "loads need no alignment",
            "if (left >= count && reinterpret_cast<uintptr_t>(from) % sizeof(Raw) == 0)",
            "if (left >= count)",
        ),
        (
            "stores go beyond the end of a sample",
            "if (i < left) reinterpret_cast<Bits*>(to)[i] =",
            "reinterpret_cast<Bits*>(to)[i] =",
        ),
        (
            "sums go beyond the end of a slice",
            "sums && begin + slice_elements < elements ? begin + slice_elements : elements",
            "sums && begin + slice_elements < elements ? begin + slice_elements + 1 : elements",
        ),
        (
            "the adjoint sums all that it reads",
            "const Window<int> window = pass.adjoint ? window_of<int>(pass, sample)",
            "const Window<int> window = false ? window_of<int>(pass, sample)",
        ),
        ("sums are over channels that are no picture", " || (picked && !is_picture(pass, channel)))", ")"),
        (
            "saturation's share is that of all channels",
            "k.pixel_weight / static_cast<float>(picture_channels(pass))",
            "k.pixel_weight / static_cast<float>(all_channels)",
        ),
        (
            "channels after the picture are left out",
            "c = static_cast<int>(pass.picture.end); c < all_channels;",
            "c = static_cast<int>(pass.picture.end); c < all_channels - 1;",
        ),
        (
            "half of the warps are summed",
            "warp_sum(lane < blockDim.x / warp_threads ?",
            "warp_sum(lane < blockDim.x / warp_threads / 2 ?",
        ),
    ),
    *_in(
        "csrc/plan.h",
        "cubins kernels_cuda",
        ("what blocks exchange is not volatile", "using Exchanged = volatile T;", "using Exchanged = T;"),
    ),
    *_in(
        "csrc/launch_cuda.cpp",
        "cuda_launcher kernels_cuda",
        (
            "counters are not reset",
            "0, static_cast<size_t>(counters),",
            "0, static_cast<size_t>(counters) - 1,",
        ),
        (
            "a sample's pass follows its sums at once",
            "plan.slices ? std::min(ceil_div(running, plan.slices + plan.blocks), shape.samples) : 0;",
            "0;",
            "blocks wait longer and give the same",
        ),
        (
            "a pass has a block too few",
            "const int64_t most_blocks = ceil_div(items, plan.threads);",
            "const int64_t most_blocks = std::max<int64_t>(items / plan.threads, 1);",
            "its threads take another turn",
        ),
        ("noise of samples in channels_last is in the order of memory", "&& !planar_noise && whole", "&& whole"),
        ("samples of any size have 32-bit indices", "if (!plan.flat &&", "if (false &&"),
        ("devices share their kernels", "return devices[ordinal];", "return devices[0];"),
        ("a context stays when a call is over", "if (pushed_) driver().cuCtxPopCurrent_v2(&context);", ""),
        ("a launch goes to no stream", "0, stream, addresses, nullptr)", "0, nullptr, addresses, nullptr)"),
        ("counters are cleared on no stream", "static_cast<CudaStream>(stream)),", "nullptr),"),
        ("a capture elsewhere forbids to load", "      const Relaxed relaxed;\n", ""),
        ("a kernel is loaded while a graph is captured", "    if (capturing)\n", "    if (false)\n"),
        ("who comes second keeps a module", "    driver().cuModuleUnload(module);\n", ""),
        (
            "a launch that fails is nobody's business",
            "check_cuda(driver().cuLaunchKernel(",
            "(void)(driver().cuLaunchKernel(",
        ),
        ("four channels are three", "picture_channels(pass) == 3 &&", "picture_channels(pass) >= 3 &&"),
    ),
    *_in(
        "gan_regularizers/kernels/cubins.py",
        "cubins",
        ("a rotten image is loaded", "return image if image and hashlib", "return image if image or hashlib"),
        ("the cache is of no use", "if path and (kept := _read(path)) is not None:", "if path and (kept := None):"),
        ("embedded devices run the images of others", " and not {known, capability} & set(_EMBEDDED)", ""),
        ("a driver gets images of a newer CUDA", "        if major <= driver:\n", "        if major:\n"),
        ("a compiler newer than the driver is taken", "if compiler.version[0] > driver:", "if not driver:"),
        ("an image does not depend on its options", "sorted(kernels.items()), _OPTIONS)", "sorted(kernels.items()))"),
    ),
    *_in(
        "gan_regularizers/kernels/nvrtc.py",
        "cubins",
        ("the NVRTC of another CUDA is taken", "if major in (None, found.version[0]):", "if found:"),
        ("a compiler says its last error", "next((line for line in lines if", "next((line for line in lines[::-1] if"),
    ),
    *_in(
        "gan_regularizers/ops/cuda.py",
        "cubins",
        ("what may pass is a verdict", "        except self._kernels.TransientError:\n            raise\n", ""),
        ("a second thread does not wait", "        with cubins.lock:  # another", "        if True:  # another"),
        ("a device is judged while a graph is captured", "if torch.cuda.is_current_stream_capturing():", "if False:"),
        ("whether a device loads a kernel is not tried", '            self._kernels.load("draw", index)\n', ""),
    ),
]

# Where lines go in a checkout, how they come out, and that a launched script is itself.
_CHECKOUTS = [
    *_in(
        "gan_regularizers/adapters/places.py",
        "places patching",
        (
            "a byte-order mark is split off",
            'return mark + b"".join(lines)\n\n    def compile',
            'return b"".join(lines)\n\n    def compile',
        ),
        ("our lines shift the numbers of others", "line - bisect_left(ours, line)", "line"),
        ("a carriage return alone ends no line", r"(?:\r\n|\r|\n)|[^\r\n]+", r"(?:\r\n|\n)|[^\r\n]+"),
        ("all lines end with a newline", "insertion.line.encode() + end", 'insertion.line.encode() + b"\\n"'),
        ("statements behind a semicolon are torn off", 'if rest.startswith(b";"):', "if not rest:"),
        (
            "several statements of a line are torn apart",
            "if len(indentation) != node.col_offset and not decorator:",
            "if decorator:",
        ),
        (
            "StyleGAN-XL is a StyleGAN",
            'if any(str(name).endswith(".ProjectedDiscriminator")',
            'if "D_kwargs" not in given and any(str(name).endswith(".ProjectedDiscriminator")',
        ),
        (
            "the file of another loop is read",
            "return list(dict.fromkeys(paths)) or [LOOP]",
            "return [LOOP]",
        ),
        (
            "functions that no command calls launch training",
            "reached, launches, setups = [command], [], []",
            "reached, launches, setups = [command, *functions.values()], [], []",
        ),
        (
            "configuration in a try is lost with it",
            "train.after(self.within or self.statement, code)",
            "train.after(self.statement, code)",
        ),
        (
            "lines without a mark stay",
            " or known.fullmatch(code):",
            ":",
        ),
        (
            "what is around our lines goes with them",
            'not hasattr(node, "body")\n',
            "not isinstance(node, ast.FunctionDef | ast.ClassDef)\n",
        ),
    ),
    *_in(
        "gan_regularizers/adapters/patching.py",
        "patching",
        ("a link out of the checkout is followed", "if not real.is_relative_to(checkout.resolve()):", "if False:"),
        (
            "read-only files are overwritten",
            "if not os.access(real, os.W_OK) or not real.stat().st_mode & 0o222:",
            "if not os.access(real, os.W_OK) and False:",
        ),
        (
            "what is no code any more is written",
            'compile(content, change.path, "exec", dont_inherit=True)',
            "pass",
        ),
        ("a commit is named by one of its files", "if all(_blob_id(", "if any(_blob_id("),
    ),
    *_in(
        "gan_regularizers/adapters/launcher.py",
        "launcher",
        (
            "ranks get the script as it is",
            "main.__spec__ = importlib.util.find_spec(_RANK)",
            "main.__spec__ = None",
        ),
        ("our frames are shown", "sys.excepthook = _from_the_script_on\n", "pass\n"),
        (
            "files that were compiled before are taken",
            "        return self.change.compile(self.path)\n",
            "        return super().get_code(fullname)\n",
        ),
        (
            "scripts that do not train are refused",
            "if not places.trains(root, name):",
            "if False:",
        ),
        (
            "a path is that of the working folder of now",
            "return script if Path(script).is_absolute() else",
            "return script if script else",
        ),
    ),
]

# Terminals, disks and machines, and names as people give them.
_MACHINES = [
    *_in(
        "gan_regularizers/io/terminal.py",
        "machines",
        ("control characters are printed as they are", '("Cc", "Cf", "Cs", "Zl", "Zp")', '("Cf", "Cs", "Zl", "Zp")'),
        ("bytes of a name are printed as they are", '("Cc", "Cf", "Cs", "Zl", "Zp")', '("Cc", "Cf", "Zl", "Zp")'),
        ("bytes of a name are shown as Python has them", "if 0xDC80 <= code <= 0xDCFF:", "if False:"),
        ("few characters stop a command", 'stream.reconfigure(errors="backslashreplace")', "pass"),
        ("a full disk is said again at the end", "os.dup2(nowhere.fileno(), sys.stdout.fileno())", "pass"),
        ("every terminal has every sign", "        return False\n", "        return True\n"),
    ),
    *_in(
        "gan_regularizers/io/files.py",
        "machines",
        (
            "temporary names are longer than the file's",
            'f".gan-regularizers-{os.urandom(8).hex()}"',
            'f".{path.name}.{os.urandom(8).hex()}"',
        ),
        ("no file is tried in a folder", "        check_folder(path.parent)\n", ""),
        (
            "what is tried stays",
            "bytes(2**16))\n    finally:\n        temporary.unlink(missing_ok=True)",
            "bytes(2**16))\n    finally:\n        pass",
        ),
        (
            "an error in writing names no file",
            "raise OSError(error.errno, error.strerror, str(path)) from error",
            "raise",
        ),
        ("a file that may not be written is replaced", "path.exists() and not os.access(path, os.W_OK)", "False"),
    ),
    *_in(
        "gan_regularizers/io/plots.py",
        "machines",
        ("names are formulas", '"text.parse_math": False, ', ""),
        ("names are drawn in one line", '"\\n".join(map(_in_order, chop_cells(drawn, width)))', "_in_order(drawn)"),
        ("what no font has is a box", "escaped(character) if character in lacking else character", "character"),
    ),
    *_in(
        "gan_regularizers/spider/features.py",
        "machines neighbours",
        ("features have a name as long as their folder's", "[:_LONGEST_WORD]", ""),
        ("features are lost with the cache", "except OSError as error:  # no", "except KeyError as error:  # no"),
    ),
    *_in(
        "gan_regularizers/commands/neighbours/ranking.py",
        "machines neighbours",
        ("a ranking needs a home", "        if given is not None:\n", "        if True:\n"),
        ("a warning is Python's", "warnings.showwarning =", "_ ="),
        ("progress is shown where nobody looks", "disable=not console.is_terminal", "disable=False"),
    ),
    *_in(
        "gan_regularizers/commands/demo/run.py",
        "demo",
        ("workers hear Ctrl-C", "with _held_back_interrupts():", "with contextlib.nullcontext():"),
    ),
    *_in(
        "gan_regularizers/io/interrupt.py",
        "machines",
        ("other programs lose Ctrl-C", 'PurePath(*sys.argv[:1]).name == "gan-regularizers" and ', ""),
        ("Ctrl-C while torch loads is a traceback", "    signal.signal(signal.SIGINT, signal.SIG_DFL)", "    pass"),
    ),
    *_in(
        "gan_regularizers/commands/__init__.py",
        "machines",
        ("a pipe without a reader is an error", "return 141  # of SIGPIPE", "raise"),
        ("an error has several lines", "terminal.printable(_message(error))", "_message(error)"),
        ("a command is deaf to Ctrl-C", "signal.signal(signal.SIGINT, signal.default_int_handler)", "pass"),
    ),
]

# What of a person's files is a picture, and how it is read.
_PICTURES = _in(
    "gan_regularizers/io/images.py",
    "images",
    (
        "a damaged EXIF block stops a photo",
        "    except Exception:\n        return None\n",
        "    except KeyError:\n        return None\n",
    ),
    ("a fraction turns a photo", " if isinstance(orientation, int) else None", ""),
    (
        "TIFFs are turned twice",
        'if image.format == "TIFF":',
        "if False:",
        "newer versions of Pillow say after loading that it is done",
    ),
    ("photos are turned the wrong way", "    6: Image.Transpose.ROTATE_270,", "    6: Image.Transpose.ROTATE_90,"),
    (
        "only errors of input are said in a line",
        '    except Exception as error:\n        raise CommandError(f"{what}',
        '    except (OSError, ValueError) as error:\n        raise CommandError(f"{what}',
    ),
    (
        "the reason fills several lines",
        '" ".join((getattr(error, "strerror", None) or str(error)).split())',
        'getattr(error, "strerror", None) or str(error)',
    ),
    ("other formats are decoded", "io.BytesIO(content), formats=_FORMATS)", "io.BytesIO(content))"),
    ("Pillow's warnings come through", '        warnings.simplefilter("ignore")  #', "        pass  #"),
    ("a transparent grey keeps its depth", "(colour & largest) * 255 // largest", "colour & largest"),
    ("a transparent colour keeps its depth", 'elif image.mode == "RGB" and bits == 16:', "elif False:"),
    ("a transparent grey of 16 bits is a grey", 'if "transparency" in image.info:', "if False:"),
    ("numbers of 16 bits are cut off", "(values.astype(np.int32) + 128) // 257", "values.astype(np.int32) // 257"),
    ("hidden folders are data", '(name == ".." or not name.startswith("."))', 'not name.startswith("._")'),
    ("hidden folders are listed", "        inner[:] = filter(_is_data, inner)\n", ""),
    ("thumbnails are data", '"__macosx", "@eadir",', '"__macosx",'),
    ("a name above the zip is hidden", '(name == ".." or not name.startswith("."))', 'not name.startswith(".")'),
    (
        "the folder of a source may hide it",
        "path.relative_to(source).parts",
        "path.parts",
    ),
    ("a zip of Windows has no folders", 're.split(r"[/\\\\]", entry.filename)', 'entry.filename.split("/")'),
    ("versions of one name are told apart", "            last[parts] = ", "            last[entry.filename] = "),
    ("the first version of a name stays", "if name and all(", "if name and parts not in last and all("),
    ("folders without permission are passed over", "os.walk(source, onerror=stop)", "os.walk(source)"),
    (
        "a pipe is waited for",
        '        if not path.is_file():\n            raise ValueError("it is no',
        '        if False:\n            raise ValueError("it is no',
    ),
    ("links in a zip are taken for pictures", "if stat.S_ISLNK(entry.external_attr >> 16):", "if False:"),
    ("entries of any size are unpacked", "        _check_size(entry.file_size)\n", ""),
    ("files of any size are read", "        _check_size(path.stat().st_size)\n", ""),
)

FAULTS = [
    *_DRAWS,
    *_PICTURES,
    *_MACHINES,
    *_CHECKOUTS,
    *_PRESETS,
    *_AUGMENTATION,
    *_DIFFUSION,
    *_WRAPPED,
    *_OPERATOR,
    *_CPU,
    *_CUDA,
]

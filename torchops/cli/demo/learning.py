"""Learning: the smoothness loss beside a data term, in a training pipeline."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import torchops
from torchops.cli.demo.blocks import Block, Gallery, Note, Picture, Section, Table, Text, code
from torchops.cli.demo.colorization import chroma_error
from torchops.cli.demo.plots import beside, curves
from torchops.cli.demo.sheet import Sheet, to_bytes

_WEIGHT = 100.0  # of the smoothness loss: it is a mean of small squares
_HINTED = 0.01  # share of the pixels whose colour is known
_BATCH = 2


class _Network(nn.Module):
    """Chroma from the gray value, its 3 x 3 neighbours, and the place in the image (24 waves)."""

    waves: Tensor

    def __init__(self, generator: torch.Generator, waves: int = 24, width: int = 48):
        super().__init__()
        self.register_buffer("waves", 3 * torch.randn(waves, 2, 1, 1, generator=generator))
        self.gray = nn.Conv2d(1, width, 3, padding=1)
        self.place = nn.Conv2d(2 * waves, width, 1)
        self.rest = nn.Sequential(
            nn.GELU(),
            nn.Conv2d(width, width, 1),
            nn.GELU(),
            nn.Conv2d(width, width, 1),
            nn.GELU(),
            nn.Conv2d(width, 2, 1),
        )

    def forward(self, gray: Tensor) -> Tensor:
        height, width = gray.shape[-2:]
        y = torch.linspace(0, 1, height, device=gray.device)[:, None]
        x = torch.linspace(0, 1, width, device=gray.device)
        u, v = self.waves.unbind(1)
        phase = 2 * math.pi * (u * x + v * y)
        waves = torch.cat([phase.sin(), phase.cos()])
        return self.rest(self.gray(gray) + self.place(waves[None]))


class _Grays(Dataset[Tensor]):
    """The training set: one photograph in gray, (1, H, W) uint8."""

    def __init__(self, gray: Tensor):
        self.gray = gray

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Tensor:
        return self.gray


def _pipeline(grays: _Grays) -> tuple[nn.Module, nn.Module]:
    from torchvision.transforms import v2

    stats = torchops.dataset_stats(grays, progress=False)
    normalize = v2.Normalize(*stats.mean_std())
    erase = torchops.RandomMultiErase(fraction=(0.02, 0.2), count=(1, 4), value=0, p=0.5)
    augment = v2.Compose([normalize, erase])
    return normalize, augment


def _loss(
    predicted: Tensor, luma: Tensor, chroma: Tensor, hinted: Tensor, weight: float
) -> tuple[Tensor, Tensor]:
    data = (predicted - chroma)[..., hinted].square().mean()  # L2 on the hints, nowhere else
    smooth = torchops.ColorizationLoss()(predicted, luma)  # everywhere
    total = data + weight * smooth
    return total, data


@dataclass
class _Run:
    """What one training leaves behind."""

    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)  # what the optimiser minimises
    data: list[float] = field(default_factory=list)  # root mean square difference on the hints
    tested: list[int] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)  # chroma error on the whole photograph
    images: dict[int, Tensor] = field(default_factory=dict)  # predicted chroma after that step


class _Task:
    """One photograph, gray for the network; its colour known at a few random pixels."""

    def __init__(self, sheet: Sheet):
        self.size = (sheet.scaled(112, 28), sheet.scaled(112, 28))
        self.true = sheet.photograph("astronaut", self.size)
        self.luma, self.chroma = torchops.rgb_to_yuv(self.true).split([1, 2], dim=-3)
        drawn = torch.rand(self.size, generator=sheet.generator(4)) < _HINTED
        self.hinted = drawn.to(sheet.device)
        self.grays = _Grays(to_bytes(self.luma).cpu())

    def smoothness(self, chroma: Tensor) -> float:
        """Return what the smoothness loss says about ``chroma``."""
        return float(torchops.colorization_loss(chroma, self.luma))

    def on_hints(self, chroma: Tensor) -> float:
        """Return the root mean square difference on the hinted pixels."""
        return float((chroma - self.chroma)[:, self.hinted].square().mean().sqrt())


def _train(sheet: Sheet, task: _Task, weight: float) -> _Run:
    """Train from the same start on the same inputs, whatever the weight of the smoothness."""
    normalize, augment = _pipeline(task.grays)
    network = _Network(sheet.generator(7)).to(sheet.device)
    steps = sheet.scaled(120, 4)
    optimizer = torch.optim.Adam(network.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    batch = task.luma.expand(_BATCH, -1, -1, -1)
    run = _Run()
    for step in range(steps + 1):
        if step % 10 == 0 or step == steps:
            with torch.no_grad():
                predicted = network(normalize(task.luma)[None])[0]
            run.tested.append(step)
            run.errors.append(chroma_error(predicted, task.chroma))
            run.images[step] = predicted
        if step == steps:
            break
        predicted = network(augment(batch))
        loss, data = _loss(predicted, task.luma, task.chroma, task.hinted, weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        run.steps.append(step)
        run.losses.append(loss.item())
        run.data.append(data.sqrt().item())
    return run


def section(sheet: Sheet) -> Section:
    """Train with and without the smoothness loss, and measure against the true photograph."""
    task = _Task(sheet)

    with sheet.seeded(6):
        plain = _train(sheet, task, 0.0)
    with sheet.seeded(6):
        smooth = _train(sheet, task, _WEIGHT)
    last = plain.tested[-1]
    zero = chroma_error(0 * task.chroma, task.chroma)
    blocks: list[Block] = [
        Text(
            "A network is to colour a gray photograph, but the true colour is known only at "
            f"{int(task.hinted.sum())} single pixels ({float(task.hinted.float().mean()):.1%}). "
            "An L2 loss on those pixels says nothing about all the others, and the network may do "
            "there what it likes. `ColorizationLoss` adds what is missing: each pixel should have "
            "the chroma of its equally bright neighbours. It needs no true colour."
        ),
        Text(
            "The input is the luma of astronaut.png, measured by `dataset_stats`, normalised, "
            "and in training with rectangles erased by `RandomMultiErase`; erased pixels get 0, "
            "which after `Normalize` is the mean."
        ),
        code(_pipeline),
        code(_loss),
        Gallery(_pictures(sheet, task, plain, smooth), width=290),
        _table(task, plain, smooth),
        Note(_warning(task)),
        Text(
            f"Both trainings start from the same network, see the same inputs and take {last} Adam "
            f"steps; they differ only in the weight of the smoothness loss, 0 or {_WEIGHT:g}. "
            "The network sees the gray value, its neighbours and its place in the image, and is "
            "judged on this one photograph: it shows what the loss does, not how well a network "
            "colours photographs that it has never seen."
        ),
        *_curves(sheet, plain, smooth),
    ]
    return Section(
        "learning",
        "Learning to colour from few hints",
        ["ColorizationLoss", "colorization_loss", "dataset_stats", "RandomMultiErase"],
        f"chroma error {plain.errors[-1]:.4f} with L2 alone, {smooth.errors[-1]:.4f} with L2 + "
        f"`ColorizationLoss`, {zero:.4f} with zero chroma",
        blocks,
    )


def _warning(task: _Task) -> str:
    mean = task.chroma.mean((-2, -1), keepdim=True).expand_as(task.chroma)
    return (
        "The smoothness loss alone teaches nothing: any single constant colour costs "
        f"{task.smoothness(mean):.2g}, less than the true photograph "
        f"({task.smoothness(task.chroma):.2g}). It must always stand beside a data term, and its "
        "weight has to be chosen: with too much of it the colours wash out."
    )


def _table(task: _Task, plain: _Run, smooth: _Run) -> Table:
    hints = task.chroma * task.hinted
    constant = task.chroma[:, task.hinted].mean(-1)[:, None, None].expand_as(task.chroma)
    solved = torchops.colorize(task.luma, hints, task.hinted[None]).chroma
    cases = {
        "zero chroma (gray)": 0 * task.chroma,
        "one constant colour, the mean of the hints": constant,
        "network, L2 alone": plain.images[plain.tested[-1]],
        "network, L2 + `ColorizationLoss`": smooth.images[smooth.tested[-1]],
        "no network: `colorize` from the same hints": solved,
        "the true photograph": task.chroma,
    }
    rows = [
        [
            name,
            f"{chroma_error(chroma, task.chroma):.4f}",
            f"{task.on_hints(chroma):.4f}",
            f"{task.smoothness(chroma):.2g}",
        ]
        for name, chroma in cases.items()
    ]
    return Table(
        "Chroma error: root mean square difference of U and V to the true photograph, on a scale "
        "where white has luma 1; over all pixels, and over the hinted ones.",
        ["case", "chroma error", "error on the hints", "ColorizationLoss"],
        rows,
    )


def _pictures(sheet: Sheet, task: _Task, plain: _Run, smooth: _Run) -> list[Picture]:
    def coloured(chroma: Tensor) -> Tensor:
        rgb = torchops.yuv_to_rgb(torch.cat([task.luma, chroma]))
        return rgb.repeat_interleave(3, -1).repeat_interleave(3, -2)  # small image, crisp pixels

    last = plain.tested[-1]
    cases = [
        ("1-gray", "**the input**: gray", 0 * task.chroma),
        ("2-hints", "**the hints**: single pixels", task.chroma * task.hinted),
        ("3-before", "**before** training", smooth.images[0]),
        ("4-l2", f"after {last} steps, **L2 alone**", plain.images[last]),
        ("5-both", f"after {last} steps, **L2 + ColorizationLoss**", smooth.images[last]),
        ("6-true", "**the true photograph**", task.chroma),
    ]
    return [
        sheet.picture(
            coloured(chroma),
            name,
            caption,
            detail=f"chroma error {chroma_error(chroma, task.chroma):.4f}",
            alt=f"the astronaut; {caption.replace('**', '')}",
        )
        for name, caption, chroma in cases
    ]


def _curves(sheet: Sheet, plain: _Run, smooth: _Run) -> list[Block]:
    names = ("L2 alone", "L2 + ColorizationLoss")
    runs = dict(zip(names, (plain, smooth), strict=True))
    return beside(
        curves(
            sheet,
            "loss",
            {name: (run.steps, run.losses) for name, run in runs.items()},
            x="step",
            y="loss",
            log=True,
            caption="**The loss** that each training minimises. The two are different quantities; "
            "that L2 alone gets lower does not mean that it is better.",
            alt="two falling curves: the training losses",
        ),
        curves(
            sheet,
            "error",
            {name: (run.tested, run.errors) for name, run in runs.items()},
            x="step",
            y="chroma error",
            caption="**The chroma error** to the true photograph, which neither training sees.",
            alt="two curves: the chroma error with L2 alone and with the smoothness loss",
        ),
    )

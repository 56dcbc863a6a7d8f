"""The comparisons behind docs/evidence.md: what each asks, and what a user would type for it."""

from dataclasses import dataclass, replace

SEEDS = "0,1,2"
FIVE = "0,1,2,3,4"


@dataclass(frozen=True)
class Series:
    """One comparison: the question, what `sgekit compare` is told, scenes of its own, and the
    network that all start from, as `sgekit train` is told, trained on the same images. `made` is
    the command that makes the data of another folder, `course` whether every epoch is told."""

    question: str
    compare: tuple[str, ...]
    data: str | None = None
    scenes: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    course: bool = False
    seeds: str = SEEDS
    made: str | None = None


def _noise(level: str) -> Series:
    return Series(
        f"Scenes with noise of {level}",
        ("--model", "resnet10_small"),
        scenes=("--noise", level),
        seeds=FIVE,
    )


def _distractors(count: str) -> Series:
    return Series(
        f"Scenes with {count} look-alikes",
        ("--model", "resnet10_small"),
        scenes=("--distractors", count),
    )


def _photos(pixels: str, model: str = "resnet10_small") -> tuple[str, ...]:
    return ("--model", model, "--image-size", pixels, "--workers", "0",
            "--precision", "bf16", "--set", "cache=true")  # fmt: skip


_SGD = ("--set", "optimizer=momentum", "--lr", "0.1", "--set", "weight_decay=0.0001",
        "--set", "decay_norm_and_bias=true")  # fmt: skip
_CONTENDERS = ("--attention", "none,se,eca,cbam,sge")
_TRAINED = ("--attention", "none", "--seed", "7", "--epochs", "8")
_INTO_TRAINED = ("--epochs", "4", "--lr", "0.002")
SERIES = {
    "scenes-groups": Series("How many groups?", ("--sweep", "groups=1,2,4,8,16")),
    "scenes-group-channels": Series(
        "How many channels a group?",
        ("--model", "resnet10_small", "--sweep", "group_channels=1,2,4,8"),
        scenes=("--seed", "1"),
        seeds="10,11,12",
    ),
    "scenes-start": Series(
        "Which start of weight and bias?", ("--sweep", "weight_init,bias_init=0:0,0:1,1:0,1:1")
    ),
    "scenes-normalisation": Series(
        "Without normalisation?", ("--attention", "none,sge,sge(normalize=false)")
    ),
    "scenes-zeroed": Series(
        "The last norm of a block started at zero, as timm does?",
        ("--attention", "none,sge,sge(normalize=false)", "--set", "zero_init_last=true"),
    ),
    "scenes-confirmed": Series(
        "Other scenes, new seeds",
        ("--model", "resnet10_small", "--attention", "none,sge,sge(preserve=true)"),
        scenes=("--seed", "1"),
        seeds="10,11,12,13,14,15,16,17",
    ),
    "scenes-resnet18": Series(
        "ResNet-18: 64 groups, as in the paper, or fewer?",
        ("--model", "resnet18", "--attention",
         "none,sge(groups=64),sge(groups=64,preserve=true),sge(groups=64,normalize=false),"
         "sge(groups=16),sge(groups=8)"),
        scenes=("--seed", "1"),
        seeds="10,11,12,13",
    ),
    "scenes-preserved": Series(
        "Starting as the plain network?",
        ("--attention", "none,sge,sge(preserve=true),se,se(preserve=true)"),
    ),
    "scenes-sgd": Series(
        "The paper's optimiser?", ("--attention", "none,sge,sge(preserve=true)", *_SGD)
    ),
    "scenes-longer": Series("Three times the epochs?", (*_CONTENDERS, "--epochs", "18")),
    **{f"scenes-noise-{level}": _noise(level) for level in ("0", "0.07", "0.14", "0.28")},
    **{f"scenes-distractors-{count}": _distractors(count) for count in ("0", "4", "8")},
    **{
        f"caltech101{suffix}": Series(
            f"Photographs of 101 kinds of things, {pixels} pixels",
            (*_CONTENDERS, *_photos(pixels), "--epochs", "8"),
            data="caltech101",
        )
        for suffix, pixels in (("", "128"), ("-64", "64"))
    },
    "caltech101-confirmed": Series(
        "Photographs: trained from scratch, on test images with new seeds",
        ("--attention", "none,sge", *_photos("64"), "--epochs", "8"),
        data="caltech101",
        seeds="10,11,12,13,14,15,16,17",
    ),
    "caltech101-resnet18": Series(
        "Photographs: ResNet-18 with 16 groups, on test images with new seeds",
        ("--attention", "none,sge(groups=16)", *_photos("64", "resnet18"), "--epochs", "8"),
        data="caltech101",
        course=True,
        seeds="10,11,12,13,14,15,16,17",
    ),
    "caltech101-resnet18-rate": Series(
        "Photographs: ResNet-18 at the rate that is best without SGE, test images, new seeds",
        ("--attention", "none,sge(groups=16)", *_photos("64", "resnet18"), "--epochs", "8",
         "--lr", "0.001"),
        data="caltech101",
        seeds="18,19,20,21,22,23,24,25",
    ),
    "caltech101-sgd": Series(
        "Photographs: the paper's optimiser, on test images with new seeds",
        ("--attention", "none,sge", *_photos("64"), "--epochs", "8", *_SGD),
        data="caltech101",
        seeds="10,11,12,13,14",
    ),
    "caltech101-inserted": Series(
        "Photographs: put into a trained network, on test images with new seeds",
        (*_photos("64"), "--attention", "none,sge(groups=32),sge(groups=32,preserve=false)",
         *_INTO_TRAINED),
        data="caltech101",
        start=(*_photos("64"), *_TRAINED),
        seeds="10,11,12,13,14,15,16,17,18,19",
    ),
    "scenes-insertion": Series(
        "Into a trained network?",
        ("--attention", "none,sge,sge(preserve=false),se,se(preserve=false)", "--epochs", "3",
         "--lr", "0.001"),
        start=("--model", "resnet10_small", "--attention", "none", "--seed", "7"),
    ),
    "cifar10": Series(
        "Ten kinds of things in 32 pixels, ResNet-18",
        (*_CONTENDERS, "--model", "resnet18_cifar", "--recipe", "cifar"),
        data="cifar10",
        seeds=FIVE,
    ),
    "cifar10-small": Series(
        "Ten kinds of things in 32 pixels, enlarged to 64, a small network and five epochs",
        (*_CONTENDERS, *_photos("64"), "--epochs", "5"),
        data="cifar10",
    ),
    "cifar10-bottleneck": Series(
        "Ten kinds of things in 32 pixels, ResNet-50",
        (*_CONTENDERS, "--model", "resnet50_cifar", "--recipe", "cifar"),
        data="cifar10",
        seeds=FIVE,
    ),
    **{
        f"dsb2018-{short}": Series(
            f"Small objects: nuclei, {words}",
            ("--detector", detector, "--model", "resnet10_small", "--recipe", "quick-detect",
             "--attention", "none,sge", "--workers", "0", "--epochs", "3", "--batch-size", "4",
             "--image-size", "160", "--set", "zero_init_last=true"),
            data="dsb2018",
        )
        for short, detector, words in (
            ("faster", "faster_rcnn", "Faster R-CNN"), ("mask", "mask_rcnn", "Mask R-CNN"),
        )
    },
}  # fmt: skip


# Settings tried before one was chosen. They are judged on a part of the training images, so that
# the test images are new to the one that is.
_NOISY = "python benchmarks/noisy_photos.py caltech101 caltech101-noise --noise 0.28"


def _trial(
    words: str,
    *changes: str,
    start: bool = False,
    attention: str = "none,sge,sge(groups=32)",
    model: str = "resnet10_small",
) -> Series:
    options = (*_photos("64", model), "--attention", attention, *changes)
    first = (*_photos("64"), *_TRAINED)
    return Series(words, options, data="caltech101/train", start=first if start else ())


TRIALS = {
    "trial-default": _trial("from scratch, eight epochs", "--epochs", "8"),
    "trial-preserved": _trial(
        "started as the plain network", "--epochs", "8", attention="none,sge(preserve=true)"
    ),
    "trial-zeroed": _trial(
        "the last norm of a block started at zero", "--epochs", "8", "--set", "zero_init_last=true",
    ),
    "trial-sgd": _trial(
        "the paper's optimiser", "--epochs", "8", *_SGD, attention="none,sge"
    ),
    "trial-noise": replace(
        _trial("noise of 0.28 on every pixel", "--epochs", "8", attention="none,sge"),
        data="caltech101-noise/train", made=_NOISY,
    ),
    "trial-resnet18": _trial(
        "ResNet-18, eight epochs", "--epochs", "8", model="resnet18",
        attention="none,sge(groups=8),sge(groups=16),sge(groups=64)",
    ),
    **{
        f"trial-resnet18-rate{suffix}": _trial(
            f"ResNet-18, eight epochs, {words} the rate", "--epochs", "8", "--lr", rate,
            model="resnet18", attention="none,sge(groups=16)",
        )
        for suffix, rate, words in (
            ("-half", "0.004", "half"), ("", "0.002", "a quarter of"),
            ("-eighth", "0.001", "an eighth of"), ("-sixteenth", "0.0005", "a sixteenth of"),
        )
    },
    "trial-longer": _trial("24 epochs", "--epochs", "24", attention="none,sge"),
    "trial-insertion": _trial(
        "into a trained network, four epochs more", *_INTO_TRAINED, start=True
    ),
}  # fmt: skip
ALL = {**SERIES, **TRIALS}


def command(name: str, seeds: str | None = None) -> str:
    """What a user would type for the series, with its seeds or others."""
    series = ALL[name]
    seeds = seeds or series.seeds
    own = [*series.compare, *(["--seeds", seeds] if seeds != SEEDS else [])]
    if series.data:
        own += ["--data", series.data]
    lines = [series.made] if series.made else []
    if series.scenes:
        lines.append(f"sgekit scenes {' '.join(series.scenes)} --out {name}")
        own += ["--data", name]
    if series.start:
        words = [*series.start, *(["--data", series.data] if series.data else [])]
        lines.append(f"sgekit train {' '.join(words)} --out {name}-start")
        own += ["--init", f"{name}-start/last.ckpt"]
    lines.append(" ".join(["sgekit compare", *map(_quoted, own), "--out", f"evidence/{name}"]))
    return "\n".join(lines)


def _quoted(word: str) -> str:
    return f"'{word}'" if "(" in word else word

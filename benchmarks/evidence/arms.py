"""The studies: their images and recipes, and what each arm does."""

from dataclasses import dataclass, field, replace

OTHER_SEED = 100  # added to a run's seed to get that of the run whose boxes it is given


BOXES = {
    "none": "none: random crops",
    "warm": "the encoder after warm-up",
    "again": "the encoder at 20, 40, 60 and 80 % of training",
    "full": "the whole image",
    "centre": "the fixed centre box",
    "shuffled": "those of other images",
    "true": "the true boxes",
    "true-shuffled": "the true boxes of other images",
    "other-seed": "the warm encoder of another seed",
    "other-method": "the warm encoder of MoCo v2",
}


@dataclass(frozen=True)
class Arm:
    """One way of choosing windows, all else equal.

    Attributes:
        title: What it is, for the tables.
        boxes: Where they come from, one of `BOXES`. Those of another run are used from the first
            epoch on, all others after the warm-up.
        settings: Settings of the recipe that differ, as `NAME=VALUE`.
        threshold: Of the heatmaps of the encoder; None for the recipe's.
        scale: Least area of a window as a share of the image, in the warm-up as well; None for
            the recipe's.
    """

    title: str
    boxes: str
    settings: tuple[str, ...] = ()
    threshold: float | None = None
    scale: float | None = None


@dataclass(frozen=True)
class Study:
    """Arms over one data set.

    Attributes:
        title: What it is about.
        recipe: Name of the recipe that all arms start from.
        settings: Settings of it that differ, as `NAME=VALUE`.
        warmup: Epochs with random crops, shared by the arms of a seed that have the same scale.
        probe_every: Epochs between the small probes of the learning curve.
        arms: By name; the first is what all others are compared with.
        donor: Settings of the run of another method whose boxes are reused.
        contrasts: A question, an arm, and the arm that it is to be compared with.
        sweeps: Arms by the value of one setting, by the name of that setting.
        train: Pattern of the files trained on, where the data set comes as files.
        test: Of the files that the probes ask about.
        held: Of files used for nothing but the choice among `tuned`; None: nothing is chosen.
        tuned: Arms of which the best by kNN on `held` is what the others are compared with.
        largest: Of all these files only the images whose true box covers less than so much of
            them; None: all images.
    """

    title: str
    recipe: str
    settings: tuple[str, ...]
    warmup: int
    probe_every: int
    arms: dict[str, Arm]
    contrasts: tuple[tuple[str, str, str], ...]
    donor: tuple[str, ...] = ()
    sweeps: dict[str, dict[str, str]] = field(default_factory=dict)
    train: str = "train-*.parquet"
    test: str = "test-*.parquet"
    held: str | None = None
    tuned: tuple[str, ...] = ()
    largest: float | None = None


def _alpha(value: float) -> tuple[str, ...]:
    return (f"crop.alpha={value}",)


def _rule(name: str) -> tuple[str, ...]:
    return (f"crop.rule={name}",)


_OFFICIAL, _PAPER, _OVERLAP = (_rule(name) for name in ("official", "paper", "overlap"))
_WHOLE_OVERLAP = (*_OVERLAP, "crop.min_overlap=1.0")
_MOCOV2 = (
    "method.name=mocov2",
    "method.queue_size=4096",
    "method.encoder_momentum=0.99",
    "optimizer.lr=0.12",
)
SHARED = {
    "random": Arm("random crops", "none"),
    "official": Arm("boxes, `official`", "warm", _OFFICIAL),
    "paper": Arm("boxes, `paper`", "warm", _PAPER),
    "overlap": Arm("boxes, `overlap`", "warm", _OVERLAP),
    "suppression": Arm("suppression only (full box, `overlap`)", "full", _OVERLAP),
    "centre": Arm("fixed centre box, `overlap`", "centre", _OVERLAP),
    "shuffled": Arm("boxes of other images, `overlap`", "shuffled", _OVERLAP),
}

SCENES = Study(
    title="Off-centre scenes",
    recipe="demo",
    settings=("epochs=10", 'precision="bf16"', "boxes.threshold=0.6"),
    warmup=2,
    probe_every=4,
    arms={
        **SHARED,
        "official-localisation": Arm(
            "boxes, `official`, alpha 1 (localisation only)", "warm", _OFFICIAL + _alpha(1.0)
        ),
        "localisation": Arm(
            "boxes, `overlap`, alpha 1 (localisation only)", "warm", _OVERLAP + _alpha(1.0)
        ),
        "paper-localisation": Arm(
            "boxes, `paper`, alpha 1 (localisation only)", "warm", _PAPER + _alpha(1.0)
        ),
        "suppression-0.1": Arm(
            "suppression only, `overlap`, alpha 0.1", "full", _OVERLAP + _alpha(0.1)
        ),
        "official-shuffled": Arm("boxes of other images, `official`", "shuffled", _OFFICIAL),
        "official-true": Arm("true boxes, `official`", "true", _OFFICIAL),
        "paper-true": Arm("true boxes, `paper`", "true", _PAPER),
        "true": Arm("true boxes, `overlap`", "true", _OVERLAP),
        "official-centre": Arm("fixed centre box, `official`", "centre", _OFFICIAL),
        "four-refreshes": Arm("boxes, `official`, four refreshes", "again", _OFFICIAL),
        "other-seed": Arm(
            "boxes of another seed, `official`, from epoch 0", "other-seed", _OFFICIAL
        ),
        "other-method": Arm(
            "boxes of MoCo v2, `official`, from epoch 0", "other-method", _OFFICIAL
        ),
        "full-overlap": Arm("boxes, `overlap` with min_overlap 1", "warm", _WHOLE_OVERLAP),
        "alpha-0.1": Arm("boxes, `overlap`, alpha 0.1", "warm", _OVERLAP + _alpha(0.1)),
        "alpha-0.3": Arm("boxes, `overlap`, alpha 0.3", "warm", _OVERLAP + _alpha(0.3)),
        "paper-alpha-0.1": Arm("boxes, `paper`, alpha 0.1", "warm", _PAPER + _alpha(0.1)),
        "official-alpha-0.1": Arm("boxes, `official`, alpha 0.1", "warm", _OFFICIAL + _alpha(0.1)),
        "threshold-0.1": Arm("boxes, `official`, threshold 0.1", "warm", _OFFICIAL, 0.1),
        "threshold-0.25": Arm("boxes, `official`, threshold 0.25", "warm", _OFFICIAL, 0.25),
        "threshold-0.4": Arm("boxes, `official`, threshold 0.4", "warm", _OFFICIAL, 0.4),
        "threshold-0.8": Arm("boxes, `official`, threshold 0.8", "warm", _OFFICIAL, 0.8),
    },
    donor=_MOCOV2,
    contrasts=(
        ("boxes beside suppression alone, `official`", "official", "suppression"),
        ("boxes beside suppression alone, `overlap`", "overlap", "suppression"),
        ("an image's own box beside another's, `overlap`", "overlap", "shuffled"),
        ("an image's own box beside the centre box, `overlap`", "overlap", "centre"),
        ("an image's own box beside another's, `official`", "official", "official-shuffled"),
        ("an image's own box beside the centre box, `official`", "official", "official-centre"),
        ("alpha 0.6 beside 1, `official`", "official", "official-localisation"),
        ("alpha 0.6 beside 1, `paper`", "paper", "paper-localisation"),
        ("alpha 0.6 beside 1, `overlap`", "overlap", "localisation"),
        ("true boxes beside the encoder's, `official`", "official-true", "official"),
        ("true boxes beside the encoder's, `paper`", "paper-true", "paper"),
        ("true boxes beside the encoder's, `overlap`", "true", "overlap"),
        ("`overlap` with min_overlap 1 beside `paper`", "full-overlap", "paper"),
        ("four refreshes beside one, `official`", "four-refreshes", "official"),
        ("another seed's boxes beside one's own, `official`", "other-seed", "official"),
        ("another method's boxes beside one's own, `official`", "other-method", "official"),
    ),
    sweeps={
        "alpha, `paper`": {
            "0.1": "paper-alpha-0.1",
            "0.6": "paper",
            "1": "paper-localisation",
        },
        "alpha, `official`": {
            "0.1": "official-alpha-0.1",
            "0.6": "official",
            "1": "official-localisation",
        },
        "alpha, `overlap`": {
            "0.1": "alpha-0.1",
            "0.3": "alpha-0.3",
            "0.6": "overlap",
            "1": "localisation",
        },
        "alpha, whole image": {
            "0.1": "suppression-0.1",
            "0.6": "suppression",
            "1 (random crops)": "random",
        },
        "threshold, `official`": {
            "0.1": "threshold-0.1",
            "0.25": "threshold-0.25",
            "0.4": "threshold-0.4",
            "0.6": "official",
            "0.8": "threshold-0.8",
        },
    },
)

_CIFAR10 = ("optimizer.lr_warmup_epochs=1", "boxes.threshold=0.5")

CIFAR10 = Study(
    title="CIFAR-10",
    recipe="cifar10-simclr-2core",
    settings=(*_CIFAR10, "epochs=3", 'precision="bf16"'),
    warmup=1,
    probe_every=1,
    arms=SHARED,
    contrasts=SCENES.contrasts[:4],
)

# In float32, since the machine that it was run on emulates bf16, and so with random crops and boxes
# of its own to compare with.
CIFAR10_PART = Study(
    title="CIFAR-10, two fifths of it: refreshes, reuse, alpha and threshold",
    recipe=CIFAR10.recipe,
    settings=(*_CIFAR10, "epochs=5", 'precision="fp32"'),
    train="train-0000[01]-of-00005.parquet",
    warmup=1,
    probe_every=1,
    arms={
        "random": SHARED["random"],
        "paper": SHARED["paper"],
        "four-refreshes": Arm("boxes, `paper`, four refreshes", "again", _PAPER),
        "other-seed": Arm("boxes of another seed, `paper`, from epoch 0", "other-seed", _PAPER),
        "other-method": Arm("boxes of MoCo v2, `paper`, from epoch 0", "other-method", _PAPER),
        "alpha-0.6": Arm("boxes, `paper`, alpha 0.6", "warm", _PAPER + _alpha(0.6)),
        "localisation": Arm(
            "boxes, `paper`, alpha 1 (localisation only)", "warm", _PAPER + _alpha(1.0)
        ),
        "threshold-0.1": Arm("boxes, `paper`, threshold 0.1", "warm", _PAPER, 0.1),
        "threshold-0.25": Arm("boxes, `paper`, threshold 0.25", "warm", _PAPER, 0.25),
    },
    donor=_MOCOV2,
    contrasts=(
        ("four refreshes beside one, `paper`", "four-refreshes", "paper"),
        ("another seed's boxes beside one's own, `paper`", "other-seed", "paper"),
        ("another method's boxes beside one's own, `paper`", "other-method", "paper"),
        ("alpha 0.6 beside 0.1, `paper`", "alpha-0.6", "paper"),
        ("alpha 1 beside 0.1, `paper`", "localisation", "paper"),
        ("threshold 0.1 beside 0.5, `paper`", "threshold-0.1", "paper"),
    ),
    sweeps={
        "alpha, `paper`": {"0.1": "paper", "0.6": "alpha-0.6", "1": "localisation"},
        "threshold, `paper`": {
            "0.1": "threshold-0.1",
            "0.25": "threshold-0.25",
            "0.5": "paper",
        },
    },
)

TINY = Study(
    title="Photographs with true boxes (Tiny-ImageNet, 100 classes)",
    recipe=CIFAR10.recipe,
    settings=("epochs=20", "eval_size=64", "crop.alpha=0.6", "probe.k=20"),
    train="train-00000[0-4].tar",
    test="val-*.tar",
    held="train-000009.tar",
    warmup=4,
    probe_every=4,
    arms={
        "random": SHARED["random"],
        "random-0.08": Arm("random crops, scale from 0.08", "none", scale=0.08),
        "random-0.5": Arm("random crops, scale from 0.5", "none", scale=0.5),
        "centre": Arm("fixed centre box, `paper`", "centre", _PAPER),
        "true": Arm("true boxes, `paper`", "true", _PAPER),
        "true-shuffled": Arm("true boxes of other images, `paper`", "true-shuffled", _PAPER),
        "self-set": Arm("boxes, self-set rule, `paper`", "again", _PAPER),
        "threshold-0.1": Arm("boxes, threshold 0.1, `paper`", "again", _PAPER, 0.1),
        "full-overlap": Arm(
            "boxes, self-set rule, `overlap` with min_overlap 1", "again", _WHOLE_OVERLAP
        ),
        "true-full-overlap": Arm(
            "true boxes, `overlap` with min_overlap 1", "true", _WHOLE_OVERLAP
        ),
        "true-0.08": Arm("true boxes, `paper`, scale from 0.08", "true", _PAPER, scale=0.08),
        "true-0.5": Arm("true boxes, `paper`, scale from 0.5", "true", _PAPER, scale=0.5),
    },
    tuned=("random", "random-0.08", "random-0.5"),
    contrasts=(
        ("an image's own true box beside another's", "true", "true-shuffled"),
        ("an image's own true box beside the centre box", "true", "centre"),
        ("true boxes beside the self-set rule's", "true", "self-set"),
        ("the self-set rule beside the centre box", "self-set", "centre"),
        ("the self-set rule beside threshold 0.1", "self-set", "threshold-0.1"),
        ("`overlap` with min_overlap 1 beside `paper`, self-set", "full-overlap", "self-set"),
        ("`overlap` with min_overlap 1 beside `paper`, true boxes", "true-full-overlap", "true"),
        ("true boxes beside random crops, scale from 0.08", "true-0.08", "random-0.08"),
        ("true boxes beside random crops, scale from 0.2", "true", "random"),
        ("true boxes beside random crops, scale from 0.5", "true-0.5", "random-0.5"),
    ),
    sweeps={
        "scale of random crops from": {
            "0.08": "random-0.08",
            "0.2": "random",
            "0.5": "random-0.5",
        },
    },
)

# What the split of the test images by size cannot show: nothing but small objects in training.
TINY_SMALL = replace(
    TINY,
    title="Those of the photographs whose object is small",
    train="train-00000[0-8].tar",
    largest=0.25,
    arms={name: TINY.arms[name] for name in ("random-0.08", "true-0.08")},
    tuned=(),
    contrasts=(),
    sweeps={},
)

# In GPU sessions of ten minutes, which keep nothing but results.
TINY_GPU = replace(
    TINY,
    title="The same photographs, ResNet-18",
    recipe="cifar10-simclr",
    settings=(
        "epochs=40",
        "eval_size=64",
        "crop.alpha=0.6",
        'boxes.threshold="auto"',
        "optimizer.lr_warmup_epochs=4",
        "probe.k=20",
    ),
    warmup=8,
    probe_every=8,
)

STUDIES = {
    "scenes": SCENES,
    "cifar10": CIFAR10,
    "cifar10-part": CIFAR10_PART,
    "tiny": TINY,
    "tiny-small": TINY_SMALL,
    "tiny-gpu": TINY_GPU,
}
SEEDS = (0, 1, 2)

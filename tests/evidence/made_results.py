"""Results of trainings that never were."""


def made(study="scenes", arm="random", seed=0, knn=0.5, linear=0.6, **more):
    return {
        "study": study,
        "arm": arm,
        "seed": seed,
        "train": {"images": 40},
        "test": {"images": 20},
        "knn": knn,
        "linear": linear,
        "knn_settings": {"k": 20, "temperature": 0.1},
        "by_size": [],
        "held": {"images": 10, "knn": knn},
        "curve": [{"epoch": 1, "loss": 3.0}, {"epoch": 2, "loss": 2.0}],
        "probes": [{"epoch": 2, "knn": knn}],
        "probes_on": {"bank": 2, "queries": 1},
        "boxes": [] if arm == "random" else [{"area": 0.5, "full": 0.25, "iou": 0.4, "found": 0.3}],
        "windows": {"pair_iou": 0.5, "object": 0.7, "missed": 0.1},
        "train_seconds": 50.0,
        "refresh_seconds": [2.0, 3.0],
        "recipe": {
            "method": {"name": "simclr"},
            "backbone": "small",
            "epochs": 2,
            "batch_size": 8,
            "precision": "fp32",
            "crop": {"alpha": 0.6},
            "boxes": {"threshold": 0.6},
        },
        "code": "abc",
        "machine": {"cpu": "a chip", "cores": 2, "threads": 1, "torch": "2", "python": "3"},
        **more,
    }

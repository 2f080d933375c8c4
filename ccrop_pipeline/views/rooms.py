"""Memory for augmented views, used again once the views are gone.

Fresh memory costs a fault for every 4 KB, which takes as long as half of the augmentation does;
fresh shared memory, in which loader processes hand views over, as long as all of it.
"""

import weakref
from collections.abc import Callable

import torch
from torch import Tensor

from ccrop_pipeline.views.batch import Batch

_shared: list[Tensor] = []  # of this loader process; the last value of each is 1 while it is in use


class Rooms:
    """Memory of earlier views of this process that nothing uses, for any number of threads.

    Pickled and copied without it: values would change where another process used it, too.
    """

    def __init__(self) -> None:
        self._free: dict[torch.Size, list[Tensor]] = {}

    def __reduce__(self) -> tuple[type["Rooms"], tuple[()]]:
        return Rooms, ()

    def room(self, shape: torch.Size) -> Tensor:
        """Return a float32 tensor whose values are not yet set; its memory comes back later."""
        try:
            kept = self._free[shape].pop()
        except LookupError:
            self._free.clear()  # that of other shapes
            kept = torch.empty(shape)
        return _watched(kept, lambda: self._free.setdefault(shape, []).append(kept))


def shared_room(shape: torch.Size) -> Tensor:
    """Return a float32 tensor in shared memory whose values are not yet set."""
    count = shape.numel() + 1
    free = [room for room in _shared if not room[-1]]
    fitting = [room for room in free if len(room) == count]
    if not fitting:
        _shared[:] = [room for room in _shared if room[-1]]
        storage = torch.UntypedStorage._new_shared(4 * count)  # type: ignore[no-untyped-call]
        fitting = [torch.empty(0).set_(storage)]
        _shared.append(fitting[0])
    room = fitting[0]
    room[-1] = 1
    return room[:-1].view(shape)


def received(batch: Batch) -> Batch:
    """Let a batch from a loader process give back its room when nothing uses its views any more."""
    first = batch.views[0]
    if first.is_floating_point() and first.is_shared():  # type: ignore[no-untyped-call]
        batch.views = tuple(map(_given_back, batch.views))
    return batch


def _given_back(views: Tensor) -> Tensor:
    in_use = torch.empty(0).set_(views.untyped_storage())[-1:]
    return _watched(views, in_use.zero_)


def _watched(views: Tensor, unused: Callable[[], object]) -> Tensor:
    """Return the same values; have `unused` called once nothing uses them any more."""
    # Tensors on a NumPy array keep that alive, whatever views of them are taken.
    array = views.numpy()
    weakref.finalize(array, unused).atexit = False
    return torch.from_numpy(array)

"""Memory in which loader processes hand over views, used again once the views are gone.

Fresh shared memory costs a fault for every 4 KB, which takes as long as augmenting does.
"""

import weakref

import torch
from torch import Tensor

from ccrop_pipeline.views.batch import Batch

_rooms: list[Tensor] = []  # of this loader process; the last value of each is 1 while it is in use


def shared_room(shape: torch.Size) -> Tensor:
    """Return a float32 tensor in shared memory whose values are not yet set."""
    count = shape.numel() + 1
    free = [room for room in _rooms if not room[-1]]
    fitting = [room for room in free if len(room) == count]
    if not fitting:
        _rooms[:] = [room for room in _rooms if room[-1]]
        storage = torch.UntypedStorage._new_shared(4 * count)  # type: ignore[no-untyped-call]
        fitting = [torch.empty(0).set_(storage)]
        _rooms.append(fitting[0])
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
    # Tensors on a NumPy array keep that alive, whatever views of them are taken.
    array = views.numpy()
    weakref.finalize(array, in_use.zero_).atexit = False
    return torch.from_numpy(array)

"""timm, which not everybody has."""

from typing import Any

from ccrop_pipeline.errors import CcropError


def import_timm() -> Any:
    """The package timm.

    Raises:
        CcropError: It is not installed.
    """
    try:
        import timm
    except ImportError:
        raise CcropError(
            "This model is built by timm, which is missing: pip install timm."
        ) from None
    return timm

"""Models in MLflow by their URIs, without importing MLflow before one is asked for: that takes seconds."""

from pathlib import Path

from cluster.tracking import NO_TRACKING


def resolve_model_uri(uri: str, *, tracking_uri: str, folder: str | Path | None = None) -> Path:
    """Local bundle folder of a logged model (``runs:/…`` or ``models:/…``), downloaded into ``folder`` if remote.

    Raises:
        ValueError: no such model, or it holds no bundle.
    """
    from cluster.model_registry import fetch_bundle

    return fetch_bundle(uri, tracking_uri=tracking_uri, folder=folder)


def move_alias(alias: str, *, version: str, tracking_uri: str) -> None:
    """Let ``NAME@ALIAS`` point to another version of the registered model NAME.

    Raises:
        ValueError: no MLflow, no such model or version, or the server refuses.
    """
    if tracking_uri in ("", NO_TRACKING):
        raise ValueError(f"got the alias {alias} and no MLflow to move it in; give --tracking")
    from cluster.model_registry import point_alias

    point_alias(alias, version=version, tracking_uri=tracking_uri)


def run_of_model(folder: Path) -> str:
    """The run that logged a model which ``resolve_model_uri`` found in this folder; "" if nothing tells."""
    from cluster.model_registry import run_of_bundle

    return run_of_bundle(folder)

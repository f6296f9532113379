"""Model bundles as MLflow models: logging one, registering it, finding it again.

Everything goes through ``MlflowClient`` and an explicit tracking URI: ``mlflow.pyfunc.log_model`` would write to the
process-wide active run.
"""

import tempfile
import warnings
from importlib import metadata
from pathlib import Path

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.pyfunc import FLAVOR_NAME, save_model
from mlflow.types import ParamSchema, ParamSpec

import fpig_core
from cluster.mlflow_sink import REQUEST_S, TRANSFER_S, MlflowSink, patience, translated_errors
from cluster.redact import redact
from cluster.shipper import UnavailableError

REQUIREMENTS = ("mlflow", "numpy", "open_clip_torch", "safetensors", "torch")


def log_bundle(sink: MlflowSink, bundle_folder: Path, model_id: str, *, name: str, register_as: str) -> str:
    """Log the bundle ``model_id`` as a pyfunc model of the sink's run -> its ``models:/`` URI.

    What an earlier call began is gone on with.

    Raises:
        UnavailableError, RejectedError: the server did not take it.
        Exception: the artifact store did not, in words of its own (requests, boto, OS).
    """
    if not sink.run_id:
        raise UnavailableError("the tracking server has not answered yet")
    with translated_errors(), patience(TRANSFER_S, retries=1):
        logged = _open_model(sink, name=name, model_id=model_id)
        if logged.status != LoggedModelStatus.READY:
            _upload(sink, logged, bundle_folder, model_id=model_id)
        if logged.model_id not in _outputs(sink.client, sink.run_id):
            sink.client.log_outputs(sink.run_id, [LoggedModelOutput(logged.model_id, step=0)])
        if register_as:
            registered, _, alias = register_as.partition("@")
            version = _register(
                sink, logged.artifact_location, name=registered, logged_id=logged.model_id, model_id=model_id
            )
            if alias:
                sink.client.set_registered_model_alias(registered, alias, version)
    return f"models:/{logged.model_id}"


def _open_model(sink: MlflowSink, *, name: str, model_id: str) -> LoggedModel:
    """The run's logged model of this name and bundle, a new one if there is none."""
    for known in sink.client.search_logged_models([sink.experiment_id], f"source_run_id = '{sink.run_id}'"):
        if (known.name, known.tags.get("model_id")) == (name, model_id):
            return known
    return sink.client.create_logged_model(
        sink.experiment_id, name=name, source_run_id=sink.run_id, tags={"model_id": model_id}, model_type="fpig"
    )


def _upload(sink: MlflowSink, logged: LoggedModel, bundle_folder: Path, *, model_id: str) -> None:
    card = Model(artifact_path=logged.artifact_location, run_id=sink.run_id, model_id=logged.model_id)
    with tempfile.TemporaryDirectory() as draft:
        local = Path(draft) / "model"
        _save(local, bundle_folder, card, model_id=model_id)
        sink.client.log_model_artifacts(logged.model_id, str(local))
    sink.client.finalize_logged_model(logged.model_id, "READY")


def _outputs(client: MlflowClient, run_id: str) -> list[str]:
    """Ids of the logged models that a run tells of."""
    outputs = client.get_run(run_id).outputs
    return [output.model_id for output in outputs.model_outputs] if outputs else []


def _save(local: Path, bundle_folder: Path, card: Model, *, model_id: str) -> None:
    """Write the MLflow model: bundle, code and requirements, all stated, so that MLflow infers (and runs) nothing."""
    with warnings.catch_warnings():
        # MLflow advises examples and type hints, which cannot describe a model with two entrances.
        warnings.simplefilter("ignore", UserWarning)
        save_model(
            local,
            # By path: MLflow checks the class, and advises, whenever the module is imported.
            python_model=Path(__file__).with_name("model_code.py"),
            artifacts={"bundle": str(bundle_folder.resolve())},
            code_paths=[str(Path(fpig_core.__file__).parent)],
            pip_requirements=[f"{package}=={metadata.version(package)}" for package in REQUIREMENTS],
            signature=ModelSignature(params=ParamSchema([ParamSpec("encode", "string", "text")])),
            metadata={"model_id": model_id},
            mlflow_model=card,
        )


def _register(sink: MlflowSink, source: str, *, name: str, logged_id: str, model_id: str) -> str:
    """Make a new version of the registered model -> its number."""
    try:
        sink.client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {"model_id": model_id}
    version = sink.client.create_model_version(
        name, source, run_id=sink.run_id, tags=tags, model_id=logged_id, await_creation_for=REQUEST_S
    )
    return version.version


def point_alias(alias: str, *, version: str, tracking_uri: str) -> None:
    """See ``cluster.logged_models.move_alias``."""
    name, _, last = alias.partition("@")
    try:
        with patience(REQUEST_S, retries=1):
            MlflowClient(tracking_uri=tracking_uri).set_registered_model_alias(name, last, version)
    except MlflowException as error:
        raise ValueError(
            f"cannot move {alias} to version {version} on {redact(tracking_uri)}: {redact(error)}; check the version"
        ) from None


def fetch_bundle(uri: str, *, tracking_uri: str, folder: str | Path | None) -> Path:
    """See ``cluster.logged_models.resolve_model_uri``."""
    target = None if folder is None else str(folder)
    try:
        with patience(TRANSFER_S, retries=1):
            location = _find_files(MlflowClient(tracking_uri=tracking_uri), uri)
            # MLflow would look up a models:/ URI at the process-wide server, whatever server it is given.
            local = Path(download_artifacts(location, dst_path=target, tracking_uri=tracking_uri))
        artifacts = Model.load(str(local)).flavors[FLAVOR_NAME]["artifacts"]
    except (MlflowException, OSError, KeyError) as error:
        raise ValueError(
            f"found no model bundle at {redact(uri)} on {redact(tracking_uri)}: {redact(error)}; "
            "check the URI and the server"
        ) from None
    return local / artifacts["bundle"]["path"]


def run_of_bundle(folder: Path) -> str:
    """The run that logged the bundle in a folder that ``fetch_bundle`` gave; "" if its card does not tell."""
    card = next(parent for parent in folder.parents if (parent / MLMODEL_FILE_NAME).exists())
    return Model.load(str(card)).run_id or ""


def _find_files(client: MlflowClient, uri: str) -> str:
    """Where the files of ``models:/ID``, ``models:/NAME/VERSION``, ``models:/NAME@ALIAS`` or ``runs:/RUN/NAME`` are."""
    kind, _, path = uri.partition(":/")
    name, _, last = path.partition("@") if "@" in path else path.partition("/")
    if kind == "runs" and name and last:
        models = [client.get_logged_model(model_id) for model_id in _outputs(client, name)]
        named = [model for model in models if model.name == last]
        if not named:
            raise KeyError(f"run {name} has the models {sorted({model.name for model in models})}")
        return max(named, key=lambda model: model.creation_timestamp).artifact_location
    if kind == "models" and name:
        if not last:
            return client.get_logged_model(name).artifact_location
        version = client.get_model_version_by_alias(name, last).version if "@" in path else last
        return client.get_model_version_download_uri(name, version)
    raise ValueError(
        f"got model uri {redact(uri)}, wanted runs:/RUN/NAME, models:/NAME/VERSION, models:/NAME@ALIAS or models:/ID"
    )

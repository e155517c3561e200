"""deploy/: the manifests against the server that they start, as far as that can be seen without a cluster.

If one of these fails, pods would not start, be killed while they drain, or be scaled by a metric that is not there.
"""

import pathlib
import re

import yaml

from isoprefill.execution.engine_settings import EngineSettings
from isoprefill.server import routes_status
from isoprefill.server.metrics import Metrics
from isoprefill.server.settings import BatchSettings, Limits, ServerSettings
from isoprefill.settings import settings_of

DEPLOY = pathlib.Path(__file__).parents[2] / "deploy"
DEPLOYMENT, SERVICE, SCALER = yaml.safe_load_all(
    (DEPLOY / "kubernetes" / "server.yaml").read_text()
)
POD = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
DEFAULT_PORT = settings_of(ServerSettings)["port"].default


def flags() -> dict[str, str]:
    return dict(one.removeprefix("--").split("=") for one in CONTAINER["args"])


def test_flags_and_variables_are_the_servers():
    kinds = (ServerSettings, EngineSettings, Limits, BatchSettings)
    known = {one.flag for kind in kinds for one in settings_of(kind).values()} | {"api-key-file"}
    assert flags().keys() <= known
    variables = set(re.findall(r"\bISOPREFILL_(\w+)=", DOCKERFILE)) - {"CACHE", "API_KEY"}
    assert {name.lower().replace("_", "-") for name in variables} <= known


def test_probes_ask_paths_that_are_there():
    paths = {route.path for route in routes_status.router(None).routes}
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert CONTAINER[name]["httpGet"]["path"] in paths
    assert re.search(r"127\.0\.0\.1:30000(/\w+)'", DOCKERFILE)[1] in paths
    assert CONTAINER["livenessProbe"]["httpGet"]["path"] != "/ready"  # a slow start is no fault


def test_a_pod_has_the_time_to_drain():
    wait = float(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    needed = wait + float(flags()["drain-timeout"])
    assert needed < POD["terminationGracePeriodSeconds"]


def test_what_is_written_is_a_volume():
    """The root is read-only."""
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"]
    assert POD["securityContext"]["runAsNonRoot"]
    mounts = {one["mountPath"]: one.get("readOnly", False) for one in CONTAINER["volumeMounts"]}
    (cache,) = re.findall(r"ISOPREFILL_CACHE=(\S+)", DOCKERFILE)
    assert mounts[cache] is mounts["/tmp"] is False
    assert f"USER {POD['securityContext']['runAsUser']}" in DOCKERFILE


def test_ports_and_the_metric_are_the_servers():
    assert CONTAINER["ports"][0]["containerPort"] == DEFAULT_PORT
    assert SERVICE["spec"]["ports"][0]["targetPort"] == CONTAINER["ports"][0]["name"]
    (metric,) = SCALER["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert name in {one.name for one in Metrics().registry.collect()}

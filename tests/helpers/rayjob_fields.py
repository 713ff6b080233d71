"""The fields of a RayJob that docs/cluster/rayjob.yaml uses, as KubeRay publishes them.

Source: ray-project/kuberay v1.7.0, ray-operator/config/crd/bases/ray.io_rayjobs.yaml, version v1. By the path of each
object: the fields that it requires, and the type of each that we use (a list: its values). `pod` is the template of
head and workers.
"""

from typing import Any

POD = "pod"
REQUIRED: dict[str, set[str]] = {
    "spec.rayClusterSpec": {"headGroupSpec"},
    "spec.rayClusterSpec.headGroupSpec": {"template"},
    "spec.rayClusterSpec.workerGroupSpecs": {"groupName", "maxReplicas", "minReplicas", "template"},
    "pod.spec": {"containers"},
    "pod.spec.containers": {"name"},
    "pod.spec.containers.volumeMounts": {"mountPath", "name"},
    "pod.spec.volumes": {"name"},
    "pod.spec.volumes.persistentVolumeClaim": {"claimName"},
}
FIELDS: dict[str, dict[str, Any]] = {
    "": {"apiVersion": "string", "kind": "string", "metadata": "free", "spec": "object"},
    "spec": {
        "entrypoint": "string",
        "backoffLimit": "integer",
        "shutdownAfterJobFinishes": "boolean",
        "ttlSecondsAfterFinished": "integer",
        "rayClusterSpec": "object",
    },
    "spec.rayClusterSpec": {
        "rayVersion": "string",
        "enableInTreeAutoscaling": "boolean",
        "autoscalerOptions": "object",
        "authOptions": "object",
        "headGroupSpec": "object",
        "workerGroupSpecs": "array",
    },
    "spec.rayClusterSpec.autoscalerOptions": {"version": ["v1", "v2"], "idleTimeoutSeconds": "integer"},
    "spec.rayClusterSpec.authOptions": {"mode": ["disabled", "token"]},
    "spec.rayClusterSpec.headGroupSpec": {"rayStartParams": "strings", "template": POD},
    "spec.rayClusterSpec.workerGroupSpecs": {
        "groupName": "string",
        "replicas": "integer",
        "minReplicas": "integer",
        "maxReplicas": "integer",
        "rayStartParams": "strings",
        "template": POD,
    },
    "pod": {"spec": "object"},
    "pod.spec": {
        "securityContext": "object",
        "terminationGracePeriodSeconds": "integer",
        "tolerations": "array",
        "containers": "array",
        "volumes": "array",
    },
    "pod.spec.securityContext": {"fsGroup": "integer"},
    "pod.spec.tolerations": {"key": "string", "operator": "string", "effect": "string"},
    "pod.spec.containers": {"name": "string", "image": "string", "resources": "object", "volumeMounts": "array"},
    "pod.spec.containers.resources": {"requests": "strings", "limits": "strings"},
    "pod.spec.containers.volumeMounts": {"name": "string", "mountPath": "string"},
    "pod.spec.volumes": {"name": "string", "persistentVolumeClaim": "object"},
    "pod.spec.volumes.persistentVolumeClaim": {"claimName": "string"},
}
TYPES = {"string": str, "integer": int, "boolean": bool, "array": list, "object": dict, "free": dict, "strings": dict}


def faults(content: Any, path: str = "") -> list[str]:
    """What a RayJob lacks, or has that is none of its fields or of another type."""
    known, found = FIELDS[path], []
    found += [f"{path}: {name} is required" for name in REQUIRED.get(path, set()) - set(content)]
    for name, value in content.items():
        place, kind = f"{path}.{name}".lstrip("."), known.get(name)
        if kind is None:
            found.append(f"{place}: no such field")
        elif isinstance(kind, list):
            found += [] if value in kind else [f"{place}: {value} is none of {kind}"]
        elif kind == POD:
            found += faults(value, POD)
        elif type(value) is not TYPES[kind]:
            found.append(f"{place}: expected {kind}, got {value!r}")
        elif kind == "object":
            found += faults(value, place)
        elif kind == "array":
            found += [fault for each in value for fault in faults(each, place)]
        elif kind == "strings":
            found += [f"{place}.{key}: expected a string" for key, each in value.items() if not isinstance(each, str)]
    return found

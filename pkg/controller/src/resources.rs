//! The resources controllers write.

use client::rest::ResourceId;

macro_rules! resources {
    ($($name:ident = $scope:ident($group:literal, $version:literal, $plural:literal, $kind:literal);)*) => {
        $(pub(crate) const $name: ResourceId = ResourceId::$scope($group, $version, $plural, $kind);)*
    };
}

resources! {
    PODS = namespaced("", "v1", "pods", "Pod");
    NODES = cluster("", "v1", "nodes", "Node");
    NAMESPACES = cluster("", "v1", "namespaces", "Namespace");
    SIGNING_REQUESTS =
        cluster("certificates.k8s.io", "v1", "certificatesigningrequests", "CertificateSigningRequest");
    SECRETS = namespaced("", "v1", "secrets", "Secret");
    VOLUMES = cluster("", "v1", "persistentvolumes", "PersistentVolume");
    QUOTAS = namespaced("", "v1", "resourcequotas", "ResourceQuota");
    CLAIMS = namespaced("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim");
    ENDPOINTS = namespaced("", "v1", "endpoints", "Endpoints");
    CONFIG_MAPS = namespaced("", "v1", "configmaps", "ConfigMap");
    SERVICE_ACCOUNTS = namespaced("", "v1", "serviceaccounts", "ServiceAccount");
    REPLICATION_CONTROLLERS = namespaced("", "v1", "replicationcontrollers", "ReplicationController");
    REPLICA_SETS = namespaced("apps", "v1", "replicasets", "ReplicaSet");
    DEPLOYMENTS = namespaced("apps", "v1", "deployments", "Deployment");
    STATEFUL_SETS = namespaced("apps", "v1", "statefulsets", "StatefulSet");
    DAEMON_SETS = namespaced("apps", "v1", "daemonsets", "DaemonSet");
    CONTROLLER_REVISIONS = namespaced("apps", "v1", "controllerrevisions", "ControllerRevision");
    JOBS = namespaced("batch", "v1", "jobs", "Job");
    CRON_JOBS = namespaced("batch", "v1", "cronjobs", "CronJob");
    BUDGETS = namespaced("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget");
    CLUSTER_ROLES = cluster("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole");
    AUTOSCALERS = namespaced("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler");
    ATTRIBUTES_CLASSES =
        cluster("storage.k8s.io", "v1", "volumeattributesclasses", "VolumeAttributesClass");
    SERVICE_CIDRS = cluster("networking.k8s.io", "v1", "servicecidrs", "ServiceCIDR");
    SERVICES = namespaced("", "v1", "services", "Service");
    ENDPOINT_SLICES = namespaced("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice");
}

//! The paths of the kubelet's API.

/// What a request is for.
#[derive(Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is a path of the kubelet's API")]
pub(super) enum Route {
    Health(Option<String>),
    Metrics,
    Indicators,
    ResourceMetrics,
    ProbeMetrics,
    ContainerMetrics,
    Configz,
    Summary,
    Pods,
    RunningPods,
    Logs(String),
    ContainerLogs { namespace: String, pod: String, container: String },
    Run { namespace: String, pod: String, container: String },
    Exec { namespace: String, pod: String, container: String },
    Attach { namespace: String, pod: String, container: String },
    PortForward { namespace: String, pod: String },
}

impl Route {
    pub(super) fn parse(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        if let ["logs", rest @ ..] = parts.as_slice() {
            return Some(Self::Logs(rest.join("/")));
        }
        let own = |text: &&str| (*text).to_owned();
        // A pod may be named with its uid behind its name, which says nothing more.
        let (verb, namespace, pod, container) = match parts.as_slice() {
            ["healthz"] => return Some(Self::Health(None)),
            ["healthz", name] => return Some(Self::Health(Some(own(name)))),
            ["metrics"] => return Some(Self::Metrics),
            ["metrics", "slis"] => return Some(Self::Indicators),
            ["metrics", "resource"] => return Some(Self::ResourceMetrics),
            ["metrics", "probes"] => return Some(Self::ProbeMetrics),
            ["metrics", "cadvisor"] => return Some(Self::ContainerMetrics),
            ["configz"] => return Some(Self::Configz),
            ["stats", "summary"] => return Some(Self::Summary),
            ["pods"] => return Some(Self::Pods),
            ["runningpods"] => return Some(Self::RunningPods),
            ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
                return Some(Self::PortForward { namespace: own(namespace), pod: own(pod) });
            }
            [verb, namespace, pod, container] | [verb, namespace, pod, _, container] => {
                (*verb, own(namespace), own(pod), own(container))
            }
            _ => return None,
        };
        match verb {
            "containerLogs" => Some(Self::ContainerLogs { namespace, pod, container }),
            "run" => Some(Self::Run { namespace, pod, container }),
            "exec" => Some(Self::Exec { namespace, pod, container }),
            "attach" => Some(Self::Attach { namespace, pod, container }),
            _ => None,
        }
    }

    /// Whether `enableDebuggingHandlers: false` turns it off.
    pub(super) fn is_debug(&self) -> bool {
        !matches!(
            self,
            Self::Health(_)
                | Self::Metrics
                | Self::Indicators
                | Self::ResourceMetrics
                | Self::ProbeMetrics
                | Self::ContainerMetrics
                | Self::Summary
                | Self::Pods
        )
    }
}

/// Subresources of `nodes` a path is authorized as; any of them will do.
pub(super) fn subresources(path: &str) -> &'static [&'static str] {
    let under =
        |prefix: &str| path == prefix || path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
    if under("/stats") {
        &["stats"]
    } else if under("/metrics") {
        &["metrics"]
    } else if under("/logs") {
        &["log"]
    } else if under("/checkpoint") {
        &["checkpoint"]
    } else if under("/pods") || under("/runningpods") {
        &["pods", "proxy"]
    } else if under("/healthz") {
        &["healthz", "proxy"]
    } else if under("/configz") {
        &["configz", "proxy"]
    } else {
        &["proxy"]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let exec = || Route::Exec { namespace: "n".into(), pod: "p".into(), container: "c".into() };
        for (path, route) in [
            ("/exec/n/p/c", Some(exec())),
            ("/exec/n/p/uid/c", Some(exec())),
            ("/portForward/n/p", Some(Route::PortForward { namespace: "n".into(), pod: "p".into() })),
            ("/healthz/syncloop", Some(Route::Health(Some("syncloop".into())))),
            ("/logs/a/b", Some(Route::Logs("a/b".into()))),
            ("/nothing", None),
            ("/containerLogs/n/p", None),
        ] {
            assert_eq!(Route::parse(path), route, "{path}");
        }
        for (path, subresource) in [
            ("/stats/summary", "stats"),
            ("/metrics/resource", "metrics"),
            ("/logs/", "log"),
            ("/pods", "pods"),
            ("/configz", "configz"),
            ("/exec/n/p/c", "proxy"),
            ("/statsx", "proxy"),
        ] {
            assert_eq!(subresources(path)[0], subresource, "{path}");
        }
    }
}

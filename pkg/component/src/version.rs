//! What this build is, as `/version` and `kubernetes_build_info` say it.

/// The version of Kubernetes this tree implements, as `kubelet` reports it.
pub const KUBERNETES_VERSION: &str = "v1.36.0";

/// A build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildInfo {
    /// `1`.
    pub major: &'static str,
    /// `36`.
    pub minor: &'static str,
    /// The version with a mark that it is not upstream's.
    pub git_version: String,
    /// Empty when it was built without `KUBEWRIGHT_COMMIT`.
    pub git_commit: &'static str,
    /// `clean`.
    pub git_tree_state: &'static str,
    /// From `KUBEWRIGHT_BUILD_DATE`; the epoch without.
    pub build_date: &'static str,
    /// Empty: there is no Go in it.
    pub go_version: &'static str,
    /// `rustc`.
    pub compiler: &'static str,
    /// `linux/amd64`.
    pub platform: String,
}

impl BuildInfo {
    /// This build.
    pub fn this() -> Self {
        let mut numbers = KUBERNETES_VERSION.trim_start_matches('v').split('.');
        Self {
            major: numbers.next().unwrap_or(""),
            minor: numbers.next().unwrap_or(""),
            git_version: format!("{KUBERNETES_VERSION}+kubewright"),
            git_commit: option_env!("KUBEWRIGHT_COMMIT").unwrap_or(""),
            git_tree_state: "clean",
            build_date: option_env!("KUBEWRIGHT_BUILD_DATE").unwrap_or("1970-01-01T00:00:00Z"),
            go_version: "",
            compiler: "rustc",
            platform: platform(),
        }
    }
}

fn platform() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{}/{arch}", std::env::consts::OS)
}

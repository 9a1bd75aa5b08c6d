//! Upstream's flags that stand for fields of the service proxy's configuration file.

use component::fields::{Field, Form};

/// Flag, field with dots between levels, form.
pub(crate) const FLAGS: &[Field] = &[
    ("bind-address", "bindAddress", Form::Text),
    ("bind-address-hard-fail", "bindAddressHardFail", Form::Boolean),
    ("cluster-cidr", "clusterCIDR", Form::Text),
    ("config-sync-period", "configSyncPeriod", Form::Text),
    ("conntrack-max-per-core", "conntrack.maxPerCore", Form::Number),
    ("conntrack-min", "conntrack.min", Form::Number),
    ("conntrack-tcp-be-liberal", "conntrack.tcpBeLiberal", Form::Boolean),
    ("conntrack-tcp-timeout-close-wait", "conntrack.tcpCloseWaitTimeout", Form::Text),
    ("conntrack-tcp-timeout-established", "conntrack.tcpEstablishedTimeout", Form::Text),
    ("conntrack-udp-timeout", "conntrack.udpTimeout", Form::Text),
    ("conntrack-udp-timeout-stream", "conntrack.udpStreamTimeout", Form::Text),
    ("detect-local-mode", "detectLocalMode", Form::Text),
    ("feature-gates", "featureGates", Form::Gates),
    ("healthz-bind-address", "healthzBindAddress", Form::Text),
    ("hostname-override", "hostnameOverride", Form::Text),
    ("iptables-localhost-nodeports", "iptables.localhostNodePorts", Form::Boolean),
    ("iptables-masquerade-bit", "iptables.masqueradeBit", Form::Number),
    ("iptables-min-sync-period", "iptables.minSyncPeriod", Form::Text),
    ("iptables-sync-period", "iptables.syncPeriod", Form::Text),
    ("kube-api-burst", "clientConnection.burst", Form::Number),
    ("kube-api-content-type", "clientConnection.contentType", Form::Text),
    ("kube-api-qps", "clientConnection.qps", Form::Number),
    ("kubeconfig", "clientConnection.kubeconfig", Form::Text),
    ("masquerade-all", "iptables.masqueradeAll", Form::Boolean),
    ("metrics-bind-address", "metricsBindAddress", Form::Text),
    ("nodeport-addresses", "nodePortAddresses", Form::List),
    ("oom-score-adj", "oomScoreAdj", Form::Number),
    ("pod-bridge-interface", "detectLocal.bridgeInterface", Form::Text),
    ("pod-interface-name-prefix", "detectLocal.interfaceNamePrefix", Form::Text),
    ("profiling", "enableProfiling", Form::Boolean),
    ("proxy-mode", "mode", Form::Text),
    ("show-hidden-metrics-for-version", "showHiddenMetricsForVersion", Form::Text),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::File;

    #[test]
    fn every_field_is_one_of_the_file() {
        for (flag, field, form) in FLAGS {
            let value = match form {
                Form::Boolean => "false",
                Form::Number => "1",
                Form::Gates => "NodeSwap=true",
                _ if field.ends_with("Period") || field.contains("imeout") => "1s",
                _ => "x",
            };
            let command = component::fields::add(clap::Command::new("kube-proxy"), FLAGS);
            let matches = command
                .try_get_matches_from(["kube-proxy".to_owned(), format!("--{flag}={value}")])
                .expect("a flag");
            let mut tree = File::empty_tree();
            component::fields::overlay(&matches, FLAGS, &mut tree).expect("well formed");
            if let Err(error) = File::from_tree(tree) {
                panic!("--{flag}: {error:#}");
            }
        }
    }
}

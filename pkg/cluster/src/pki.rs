//! Certificates, keys and kubeconfigs of a cluster: made once, kept with it.
//!
//! File names are kubeadm's, so that tools which look for them find them.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use component::pki::{Ca, Host, KeyPem, signing_key};
use serde_json::json;

use crate::spec::{CLUSTER_DOMAIN, KUBERNETES_SERVICE_IP, Paths, Spec};
use crate::{Error, write_file};

/// Makes what is missing. All certificates of a cluster come from one run of this function, except those of nodes added
/// later, for which the authority's key is read again.
pub fn ensure(paths: &Paths, spec: &Spec) -> Result<(), Error> {
    let pki = paths.pki();
    let complete = pki.join("complete");
    let made_for = fs::read_to_string(&complete).unwrap_or_default();
    let wanted = format!("{} nodes, port {}\n", spec.nodes, spec.port);
    if made_for == wanted {
        return Ok(());
    }
    // Other certificates of the same authority must not be mixed with those of a new one: all are made anew.
    let ca = Ca::new("kubernetes")?;
    save(&pki.join("ca"), &ca.pem())?;
    let front_proxy = Ca::new("front-proxy-ca")?;
    save(&pki.join("front-proxy-ca"), &front_proxy.pem())?;
    save(&pki.join("front-proxy-client"), &front_proxy.issue_client("front-proxy-client", None)?)?;
    if !pki.join("sa.key").exists() {
        let (private, public) = signing_key()?;
        write_file(&pki.join("sa.key"), private, 0o600)?;
        write_file(&pki.join("sa.pub"), public, 0o644)?;
    }
    let service = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned);
    let mut hosts: Vec<Host> = service.iter().map(|name| Host::from(name.as_str())).collect();
    hosts.push(Host::Dns(format!("kubernetes.default.svc.{CLUSTER_DOMAIN}")));
    hosts.extend(["localhost", "127.0.0.1", KUBERNETES_SERVICE_IP].map(Host::from));
    hosts.push(Host::Ip(Spec::control_plane_ip().into()));
    save(&pki.join("apiserver"), &ca.issue_server("kube-apiserver", None, &hosts)?)?;
    let kubelet_client = ca.issue_client("kube-apiserver-kubelet-client", Some("system:masters"))?;
    save(&pki.join("apiserver-kubelet-client"), &kubelet_client)?;

    let ca_pem = ca.pem().cert;
    let inside = Spec::internal_url();
    let admin = ca.issue_client("kubernetes-admin", Some("system:masters"))?;
    kubeconfig(&paths.admin_kubeconfig(), &spec.local_url(), &ca_pem, "kubernetes-admin", &admin)?;
    // The same identity for clients that run inside the cluster's network.
    kubeconfig(&pki.join("admin-internal.conf"), &inside, &ca_pem, "kubernetes-admin", &admin)?;
    let proxy = ca.issue_client("system:kube-proxy", Some("system:node-proxier"))?;
    kubeconfig(&pki.join("kube-proxy.conf"), &inside, &ca_pem, "system:kube-proxy", &proxy)?;
    let dns = ca.issue_client(crate::up::DNS_USER, None)?;
    kubeconfig(&pki.join("cluster-dns.conf"), &inside, &ca_pem, crate::up::DNS_USER, &dns)?;
    for (index, node) in (1u8..).zip(spec.node_names()) {
        let user = format!("system:node:{node}");
        let client = ca.issue_client(&user, Some("system:nodes"))?;
        kubeconfig(&pki.join(format!("{node}.conf")), &inside, &ca_pem, &user, &client)?;
        let hosts = [Host::Dns(node.clone()), Host::Ip(Spec::node_ip(index).into())];
        save(&pki.join(format!("{node}-serving")), &ca.issue_server(&user, Some("system:nodes"), &hosts)?)?;
    }
    write_file(&complete, wanted, 0o644)
}

/// Writes `BASE.crt` and `BASE.key`.
fn save(base: &Path, pem: &KeyPem) -> Result<(), Error> {
    write_file(&base.with_extension("crt"), &pem.cert, 0o644)?;
    write_file(&base.with_extension("key"), &pem.key, 0o600)
}

/// Writes a kubeconfig with one cluster, user and context. JSON is YAML, and every client reads it.
fn kubeconfig(path: &Path, server: &str, ca: &str, user: &str, client: &KeyPem) -> Result<(), Error> {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "kubewright", "preferences": {},
        "clusters": [{"name": "kubewright",
            "cluster": {"server": server, "certificate-authority-data": STANDARD.encode(ca)}}],
        "users": [{"name": user, "user": {
            "client-certificate-data": STANDARD.encode(&client.cert),
            "client-key-data": STANDARD.encode(&client.key)}}],
        "contexts": [{"name": "kubewright", "context": {"cluster": "kubewright", "user": user}}],
    });
    let text = serde_json::to_vec_pretty(&config).map_err(|e| Error::Refused(e.to_string()))?;
    write_file(path, text, 0o600)
}

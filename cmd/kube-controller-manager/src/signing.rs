//! `--cluster-signing-*`: the authorities that sign certificate requests, one for all signers or one for each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use controller::config::SigningCa;

use crate::args::text;

/// Files of the authorities. Each certificate needs its key.
#[derive(Debug, Default, clap::Args)]
#[group(id = "signing")]
#[allow(clippy::struct_field_names, reason = "upstream's flags")]
pub(crate) struct Args {
    /// CA certificate that signs the requests of all signers
    #[arg(long)]
    cluster_signing_cert_file: Option<PathBuf>,
    /// Key of the CA that signs the requests of all signers
    #[arg(long)]
    cluster_signing_key_file: Option<PathBuf>,
    /// CA certificate of kubernetes.io/kubelet-serving
    #[arg(long)]
    cluster_signing_kubelet_serving_cert_file: Option<PathBuf>,
    /// CA key of kubernetes.io/kubelet-serving
    #[arg(long)]
    cluster_signing_kubelet_serving_key_file: Option<PathBuf>,
    /// CA certificate of kubernetes.io/kube-apiserver-client-kubelet
    #[arg(long)]
    cluster_signing_kubelet_client_cert_file: Option<PathBuf>,
    /// CA key of kubernetes.io/kube-apiserver-client-kubelet
    #[arg(long)]
    cluster_signing_kubelet_client_key_file: Option<PathBuf>,
    /// CA certificate of kubernetes.io/kube-apiserver-client
    #[arg(long)]
    cluster_signing_kube_apiserver_client_cert_file: Option<PathBuf>,
    /// CA key of kubernetes.io/kube-apiserver-client
    #[arg(long)]
    cluster_signing_kube_apiserver_client_key_file: Option<PathBuf>,
    /// CA certificate of kubernetes.io/legacy-unknown
    #[arg(long)]
    cluster_signing_legacy_unknown_cert_file: Option<PathBuf>,
    /// CA key of kubernetes.io/legacy-unknown
    #[arg(long)]
    cluster_signing_legacy_unknown_key_file: Option<PathBuf>,
}

type Pair<'a> = (Option<&'a Path>, Option<&'a Path>);

/// An empty path is one that was not given: kubeadm writes that for external authorities.
fn given(path: Option<&PathBuf>) -> Option<&Path> {
    path.map(PathBuf::as_path).filter(|path| !path.as_os_str().is_empty())
}

fn authority(
    flag: &str,
    (certificate, key): Pair<'_>,
    duration: Duration,
) -> anyhow::Result<Option<SigningCa>> {
    if certificate.is_some() != key.is_some() {
        bail!("--{flag}-cert-file and --{flag}-key-file must both be set or both be unset");
    }
    let files = text(certificate)?.zip(text(key)?);
    Ok(files.map(|(certificate_pem, key_pem)| SigningCa { certificate_pem, key_pem, duration }))
}

impl Args {
    fn by_signer(&self) -> [(&'static str, &'static str, Pair<'_>); 4] {
        [
            (
                "kubernetes.io/kubelet-serving",
                "cluster-signing-kubelet-serving",
                (
                    given(self.cluster_signing_kubelet_serving_cert_file.as_ref()),
                    given(self.cluster_signing_kubelet_serving_key_file.as_ref()),
                ),
            ),
            (
                "kubernetes.io/kube-apiserver-client-kubelet",
                "cluster-signing-kubelet-client",
                (
                    given(self.cluster_signing_kubelet_client_cert_file.as_ref()),
                    given(self.cluster_signing_kubelet_client_key_file.as_ref()),
                ),
            ),
            (
                "kubernetes.io/kube-apiserver-client",
                "cluster-signing-kube-apiserver-client",
                (
                    given(self.cluster_signing_kube_apiserver_client_cert_file.as_ref()),
                    given(self.cluster_signing_kube_apiserver_client_key_file.as_ref()),
                ),
            ),
            (
                "kubernetes.io/legacy-unknown",
                "cluster-signing-legacy-unknown",
                (
                    given(self.cluster_signing_legacy_unknown_cert_file.as_ref()),
                    given(self.cluster_signing_legacy_unknown_key_file.as_ref()),
                ),
            ),
        ]
    }

    /// The authority of all signers, and those of single ones by the signer's name. Reads files.
    pub(crate) fn authorities(
        &self,
        duration: Duration,
    ) -> anyhow::Result<(Option<SigningCa>, BTreeMap<String, SigningCa>)> {
        let all =
            (given(self.cluster_signing_cert_file.as_ref()), given(self.cluster_signing_key_file.as_ref()));
        let mut single = BTreeMap::new();
        for (signer, flag, pair) in self.by_signer() {
            if pair != (None, None) && all != (None, None) {
                bail!(
                    "cannot specify --cluster-signing-{{cert,key}}-file and other --cluster-signing-*-file flags at the same time"
                );
            }
            if let Some(authority) = authority(flag, pair, duration)? {
                single.insert(signer.to_owned(), authority);
            }
        }
        Ok((authority("cluster-signing", all, duration)?, single))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_whole_and_not_mixed() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, name).expect("written");
            Some(path)
        };
        let duration = Duration::from_secs(60);
        let one = Args {
            cluster_signing_cert_file: file("c"),
            cluster_signing_key_file: file("k"),
            ..Args::default()
        };
        let (all, single) = one.authorities(duration).expect("valid");
        assert_eq!((all.expect("given").key_pem.as_str(), single.len()), ("k", 0));
        let half = Args { cluster_signing_cert_file: file("c"), ..Args::default() };
        assert!(half.authorities(duration).is_err());
        let serving = || Args {
            cluster_signing_kubelet_serving_cert_file: file("c"),
            cluster_signing_kubelet_serving_key_file: file("k"),
            ..Args::default()
        };
        let (all, single) = serving().authorities(duration).expect("valid");
        assert!(all.is_none() && single.contains_key("kubernetes.io/kubelet-serving"));
        let mixed =
            Args { cluster_signing_cert_file: file("c"), cluster_signing_key_file: file("k"), ..serving() };
        assert!(mixed.authorities(duration).is_err());
        let external = Args {
            cluster_signing_cert_file: Some(PathBuf::new()),
            cluster_signing_key_file: Some(PathBuf::new()),
            ..Args::default()
        };
        assert!(external.authorities(duration).expect("valid").0.is_none());
    }
}
